"""Explanations of hits and items, matches of any picture with any text, and the drawings of both."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from api import Sightline, match_picture
from api.cli import main
from api.cli.explanations import shaded
from api.exit_codes import ExitCode
from api.heat_map import Explained, draw_heat_map, heated
from search.explain import MatchExplanation, WordRelevance
from search.query import parse_query
from sightline.encoders.composed import ComposedEncoder
from sightline.encoders.fusion_checkpoint import load_fusion_checkpoint
from sightline.encoders.fusion_encoder import Words
from sightline.encoders.fusion_explanation import explain
from sightline.encoders.tokens import SeenBox
from sightline.errors import EncoderUnavailable, InvalidCheckpoint, InvalidQuery, ItemNotFound, PatchesNotFound, UnreadableImage
from sightline.settings import load_settings
from sightline.types import Embeddings, Modality
from tests.api.tiny_fusion import NUM_PICTURES, WORDS, opened
from tests.histogram_encoder import HistogramEncoder


def plain_explanation(picture: Path, text: str, encoder: ComposedEncoder, fusion: Path) -> tuple[float, np.ndarray]:
    """Logit and relevance (tokens, patches) without a store, without quantisation, from the network itself."""
    model = load_fusion_checkpoint(fusion).model
    _, tokens = encoder.embed_texts_with_tokens([text])
    _, image_tokens = encoder.embed_pixels_with_tokens(encoder.prepare(Image.open(picture).convert("RGB"))[None])
    matcher = load_fusion_checkpoint(fusion).matcher(torch.device("cpu"))
    words = Words(torch.from_numpy(tokens.hidden_states), torch.from_numpy(tokens.mask))
    found = explain(model, words, torch.from_numpy(matcher.project(image_tokens)))
    return found.logit, found.relevance


def alike(one: np.ndarray, other: np.ndarray) -> bool:
    """Maps whose cosine is almost 1: rounding patches to int8 moves a cell by some percent of the highest."""
    return float(one.ravel() @ other.ravel() / (np.linalg.norm(one) * np.linalg.norm(other))) > 0.97


def test_a_hit_is_explained_word_by_word(store: Path, pictures: Path, tiny_encoder: ComposedEncoder, fusion: Path) -> None:
    with opened(store, tiny_encoder, fusion) as sightline:
        answer = sightline.search(WORDS, k=3)
        explained = sightline.explain_hits(answer)

    assert [each.hit for each in explained] == list(answer)
    for each in explained:
        assert each.match is not None
        logit, relevance = plain_explanation(pictures / each.hit.key, WORDS, tiny_encoder, fusion)
        assert each.match.match_logit == pytest.approx(logit, abs=0.2)  # patches are rounded to int8
        assert each.match.match_probability == pytest.approx(each.hit.match_probability or 0.0, abs=0.02)
        assert [word.text for word in each.match.words] == WORDS.split()
        spans = tiny_encoder.token_spans(WORDS)
        of_words = [place for place, span in enumerate(spans) if span is not None]
        assert alike(each.match.relevance, relevance.sum(axis=0))
        assert alike(np.stack([word.relevance for word in each.match.words]), relevance[of_words])
        assert sum(word.share for word in each.match.words) == pytest.approx(1.0)


def test_an_item_is_explained_with_its_ranks_whether_it_is_a_hit_or_not(
    store: Path, tiny_encoder: ComposedEncoder, fusion: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with opened(store, tiny_encoder, fusion) as sightline:
        first = {hit.key: hit.rank for hit in sightline.search(WORDS, k=NUM_PICTURES, reranking=None)}
        answer = sightline.search(WORDS, k=NUM_PICTURES)
        for hit in (answer[0], answer[-1]):
            found = sightline.explain(hit.key, WORDS)
            assert (found.rank, found.first_rank, found.num_candidates) == (hit.rank, first[hit.key], NUM_PICTURES)
            assert found.similarity == pytest.approx(hit.similarity)
            assert found.timings.rerank_ms > 0
        monkeypatch.setattr("search.explain.RANKED_ITEMS", 2)
        missed = sightline.explain(answer[-1].key, WORDS)
    assert (missed.rank, missed.first_rank) == (None, None)
    assert missed.similarity == pytest.approx(answer[-1].similarity, abs=1e-3)


def test_texts_by_weight_make_one_explanation(store: Path, tiny_encoder: ComposedEncoder, fusion: Path) -> None:
    with opened(store, tiny_encoder, fusion) as sightline:
        one = sightline.explain("03.png", "a red ball").match
        other = sightline.explain("03.png", "blue cube").match
        both = sightline.explain("03.png", parse_query("a red ball::3 blue cube::1", without=["grass"])).match
    assert both.match_logit == pytest.approx(0.75 * one.match_logit + 0.25 * other.match_logit, abs=1e-4)
    np.testing.assert_allclose(both.relevance, 0.75 * one.relevance + 0.25 * other.relevance, rtol=1e-4, atol=1e-6)
    assert [word.text for word in both.words] == ["a", "red", "ball", "blue", "cube"]


def test_what_cannot_be_explained_says_why(
    tmp_path: Path, store: Path, pictures: Path, tiny_encoder: ComposedEncoder, fusion: Path
) -> None:
    (tmp_path / "notes.txt").write_text("a red ball\n")
    with opened(store, tiny_encoder, fusion) as sightline:
        sightline.index(tmp_path / "notes.txt")
        by_picture = sightline.explain_hits(sightline.search(pictures / "00.png", modality=Modality.IMAGE, k=1))
        texts = sightline.explain_hits(sightline.search(WORDS, modality=Modality.TEXT))
        assert [each.why_not for each in by_picture] == ["words are what is explained, and the query is not of words alone"]
        assert [each.why_not for each in texts] == ["it is a text, and words are looked for in pictures"]
        with pytest.raises(ItemNotFound):
            sightline.explain("nowhere.png", WORDS)
        with pytest.raises(InvalidQuery, match="it is a text"):
            sightline.explain("notes.txt:1", WORDS)
    with opened(tmp_path / "bare", tiny_encoder, fusion) as sightline:
        sightline.index(pictures, patches=False)
        with pytest.raises(PatchesNotFound, match="sightline patches default"):
            sightline.explain("00.png", WORDS)
        (bare, *_) = sightline.explain_hits(sightline.search(WORDS))
        assert bare.match is None
        assert bare.why_not == f"{bare.hit.key} has no patches for the second look; `sightline patches default` adds them"
    (path,) = store.glob("segments/*/*/patches.i8")
    path.write_bytes(path.read_bytes()[:-1])
    with opened(store, tiny_encoder, fusion) as sightline:
        damaged = sightline.explain_hits(sightline.search(WORDS, modality=Modality.IMAGE, k=2))
        assert [each.match for each in damaged] == [None, None]
        assert all("patches.i8 is damaged" in str(each.why_not) for each in damaged)
    with opened(tmp_path / "bare", tiny_encoder, None) as sightline, pytest.raises(EncoderUnavailable, match="it is what explains"):
        sightline.explain("00.png", WORDS)


def test_a_picture_in_no_collection_is_matched_as_one_in_a_collection(
    store: Path, pictures: Path, tiny_encoder: ComposedEncoder, fusion: Path
) -> None:
    settings = load_settings(fusion=str(fusion))
    found = match_picture(pictures / "03.png", [WORDS, "two dogs::2"], encoder=tiny_encoder, settings=settings)
    with opened(store, tiny_encoder, fusion) as sightline:
        stored = sightline.explain("03.png", WORDS)
    assert [each.text for each in found.matches] == [WORDS, "two dogs::2"]
    assert found.notes == ()
    ours = found.matches[0].explanation
    assert ours is not None
    assert found.matches[0].similarity == pytest.approx(stored.similarity, abs=1e-3)
    assert ours.match_logit == pytest.approx(stored.match.match_logit, abs=0.2)  # stored patches are rounded to int8
    assert alike(ours.relevance, stored.match.relevance)
    bytes_too = match_picture((pictures / "03.png").read_bytes(), [WORDS], encoder=tiny_encoder, settings=settings)
    assert bytes_too.matches[0].similarity == pytest.approx(found.matches[0].similarity)


def test_without_a_fusion_encoder_similarity_is_all_there_is(pictures: Path, tiny_encoder: ComposedEncoder) -> None:
    found = match_picture(pictures / "03.png", [WORDS], encoder=tiny_encoder)
    assert found.matches[0].explanation is None
    (note,) = found.notes
    assert note == f"no fusion encoder comes with {tiny_encoder.name}: similarity is all there is; `sightline train fusion` trains one"


def test_bad_matches_are_refused(tmp_path: Path, pictures: Path, tiny_encoder: ComposedEncoder) -> None:
    with pytest.raises(InvalidQuery, match="there is no text"):
        match_picture(pictures / "03.png", [], encoder=tiny_encoder)
    with pytest.raises(InvalidQuery, match="no words"):
        match_picture(pictures / "03.png", [WORDS, "  "], encoder=tiny_encoder)
    with pytest.raises(UnreadableImage, match="there is no such file"):
        match_picture(tmp_path / "none.png", [WORDS], encoder=tiny_encoder)


def made_up(relevance: np.ndarray, *words: tuple[str, np.ndarray]) -> MatchExplanation:
    total = sum(float(each.sum()) for _, each in words)
    found = tuple(WordRelevance(text, float(each.sum()) / total if total else 0.0, each.astype(np.float32)) for text, each in words)
    return MatchExplanation(1.0, 0.7, found, relevance.astype(np.float32))


def at(row: int, column: int) -> np.ndarray:
    relevance = np.zeros((7, 7))
    relevance[row, column] = 1.0
    return relevance


def test_heat_lies_over_the_patch_that_is_relevant() -> None:
    picture = Image.new("RGB", (140, 70), (128, 128, 128))
    drawn = np.asarray(heated(picture, at(1, 5), SeenBox(0, 0, 140, 70), highest=1.0)).sum(axis=2)
    row, column = np.unravel_index(drawn.argmax(), drawn.shape)
    assert (int(row) // 10, int(column) // 20) == (1, 5)
    cropped = np.asarray(heated(picture, at(1, 6), SeenBox(35, 0, 105, 70), highest=1.0)).sum(axis=2)
    row, column = np.unravel_index(cropped.argmax(), cropped.shape)
    assert 95 <= column < 105  # the last column of the part that was seen, not of the picture
    assert np.ptp(cropped[:, 106:]) == 0  # beyond it there is no heat


def test_nothing_relevant_is_drawn_without_heat() -> None:
    picture = Image.new("RGB", (140, 70), (128, 128, 128))
    assert np.ptp(np.asarray(heated(picture, np.zeros((7, 7), np.float32), SeenBox(0, 0, 140, 70), highest=0.0))) <= 60  # one flat tint
    nothing = made_up(np.zeros((7, 7)), ("a", np.zeros((7, 7))))
    sheet = draw_heat_map(Explained("a", "x.png", ("match",), nothing), picture, SeenBox(0, 0, 140, 70))
    assert sheet.width > sheet.height / 2


def test_every_word_has_its_tile() -> None:
    picture = Image.new("RGB", (140, 70), (128, 128, 128))
    matches = [made_up(at(0, 0), *[("w", at(1, 1))] * number) for number in (1, 5, 6)]
    heights = [draw_heat_map(Explained("a", "x.png", ("match",), each), picture, SeenBox(0, 0, 140, 70)).height for each in matches]
    assert heights[0] == heights[1] < heights[2]


def test_shades_in_a_terminal() -> None:
    assert shaded(np.array([[0.0, 1.0], [0.5, 0.1]], dtype=np.float32)) == ["  ██", "▒▒  "]
    assert shaded(np.zeros((1, 2), dtype=np.float32)) == ["    "]


def width_of(path: Path) -> int:
    with Image.open(path) as picture:
        return picture.width


def run(*arguments: object) -> int:
    return main([str(each) for each in arguments])


def test_the_command_explains(
    store: Path, tmp_path: Path, tiny_encoder: ComposedEncoder, fusion: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ask = ("--store", store, "explain", "default", "03.png", *WORDS.split(), "--encoder", tiny_encoder.name, "--fusion", fusion)
    assert run(*ask, "--out", tmp_path / "heat.png") == ExitCode.OK
    shown = capsys.readouterr().out
    assert "03.png" in shown
    assert "match" in shown
    assert "second look" in shown
    assert width_of(tmp_path / "heat.png") > 1000
    assert run(*ask, "--json") == ExitCode.OK
    found = json.loads(capsys.readouterr().out)
    assert [word["word"] for word in found["match"]["words"]] == WORDS.split()
    assert np.shape(found["match"]["relevance"]) == (7, 7)
    assert found["num_candidates"] == NUM_PICTURES


def test_a_search_explains_its_hits_also_where_a_picture_is_gone(
    store: Path, pictures: Path, tmp_path: Path, tiny_encoder: ComposedEncoder, fusion: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ask = ("--store", store, "search", WORDS, "-k", 2, "--encoder", tiny_encoder.name, "--fusion", fusion, "--explain", tmp_path / "why")
    assert run(*ask, "--json") == ExitCode.OK
    hits = json.loads(capsys.readouterr().out)["hits"]
    assert [Path(hit["drawn"]).name for hit in hits] == [f"{hit['rank']:03}-{Path(hit['key']).stem}.png" for hit in hits]
    assert all(Path(hit["drawn"]).is_file() and len(hit["match"]["words"]) == len(WORDS.split()) for hit in hits)
    gone = pictures / hits[0]["key"]
    gone.rename(tmp_path / "away.png")
    try:
        assert run(*ask) == ExitCode.OK
        shown = capsys.readouterr()
    finally:
        (tmp_path / "away.png").rename(gone)
    assert shown.err == f"sightline: note: {gone}: the file is not there any more; the heat is drawn without it\n"
    assert "words by what they found" in shown.out
    assert run("--store", store, "search", "--like", hits[1]["key"], *ask[4:]) == ExitCode.OK
    shown = capsys.readouterr()
    assert shown.err.count("words are what is explained, and the query is not of words") == 1
    assert "words by what they found" not in shown.out


@pytest.mark.parametrize("command", [("explain", "default", "tall.png"), ("search", "-k", "1")])
def test_a_picture_that_is_gone_is_drawn_in_its_shape(
    tmp_path: Path, tiny_encoder: ComposedEncoder, fusion: Path, command: tuple[str, ...]
) -> None:
    (tmp_path / "tall").mkdir()
    picture = tmp_path / "tall" / "tall.png"
    Image.new("RGB", (60, 120), "red").save(picture)
    with opened(tmp_path / "store", tiny_encoder, fusion) as sightline:
        sightline.index(picture.parent)
    options = ("--encoder", tiny_encoder.name, "--fusion", fusion)
    out = ("--out", tmp_path / "heat.png") if command[0] == "explain" else ("--explain", tmp_path)
    sizes = []
    for _ in range(2):  # the second time it is gone
        assert run("--store", tmp_path / "store", *command, "red", *options, *out) == ExitCode.OK
        (drawn,) = [*tmp_path.glob("heat.png"), *tmp_path.glob("001-*.png")]
        with Image.open(drawn) as sheet:
            sizes.append(sheet.size)
        picture.unlink(missing_ok=True)
    assert sizes[0] == sizes[1]


def test_the_command_matches(
    pictures: Path, tmp_path: Path, tiny_encoder: ComposedEncoder, fusion: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ask = ("match", pictures / "03.png", WORDS, "two dogs", "--encoder", tiny_encoder.name)
    assert run(*ask, "--fusion", fusion, "--out", tmp_path / "best.png") == ExitCode.OK
    rows = capsys.readouterr().out.splitlines()
    assert [row.split()[-1].endswith("%") for row in rows[2:4]] == [True, True]
    assert width_of(tmp_path / "best.png") > 1000
    assert run(*ask, "--fusion", fusion, "--json") == ExitCode.OK
    found = json.loads(capsys.readouterr().out)
    assert [each["text"] for each in found["matches"]] == [WORDS, "two dogs"]
    assert run("match", pictures / "03.png", WORDS, "--encoder", tiny_encoder.name, "--fusion", fusion) == ExitCode.OK
    assert "share" in capsys.readouterr().out
    assert run(*ask) == ExitCode.OK
    shown = capsys.readouterr()
    assert "similarity is all there is" in shown.err
    assert "%" not in shown.out


class NumberlessEncoder(HistogramEncoder):
    """One with damaged weights: its embeddings of texts are no numbers."""

    def embed_texts(self, texts: Sequence[str]) -> Embeddings:
        return np.full((len(texts), self.embedding_dim), np.nan, dtype=np.float32)


def test_embeddings_that_are_no_numbers_match_nothing(pictures: Path) -> None:
    with pytest.raises(InvalidCheckpoint, match="histogram gave 1 of 1 embeddings that are no numbers; its weights are damaged"):
        match_picture(pictures / "03.png", ["a dog"], encoder=NumberlessEncoder())


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (["explain", "default", "nowhere.png", "a"], 33, "nowhere.png"),
        (["explain", "default", "03.png", " "], 12, "no words"),
        (["explain", "default", "03.png", "a", "--out", "heat.xyz"], 10, "no format"),
        (["explain", "elsewhere", "03.png", "a"], 32, "elsewhere"),
        (["explain", "default", "03.png", "a", "--open"], 2, "--out FILE"),
        (["search", "a", "--explain", "/dev/null/x"], 10, "no folder for the drawings"),
    ],
)
def test_bad_ways_to_explain_get_a_sentence_and_a_code(
    store: Path,
    tiny_encoder: ComposedEncoder,
    fusion: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    code: int,
    sentence: str,
) -> None:
    assert run("--store", store, *arguments, "--encoder", tiny_encoder.name, "--fusion", fusion) == code
    assert sentence in capsys.readouterr().err


def test_a_search_whose_hits_cannot_be_explained_is_refused_before_it_searches(
    store: Path, tiny_encoder: ComposedEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Sightline, "search", lambda *_, **__: pytest.fail("it searched"))
    assert run("--store", store, "search", "a", "--explain", tmp_path / "heat", "--encoder", tiny_encoder.name) == 50
    assert "no fusion encoder comes with" in capsys.readouterr().err


def test_a_picture_that_is_none_is_told_in_a_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "text.png").write_text("no picture")
    assert run("match", tmp_path / "none.png", "a") == 20
    assert "there is no such file" in capsys.readouterr().err
    assert run("match", tmp_path / "text.png", "a") == 20
