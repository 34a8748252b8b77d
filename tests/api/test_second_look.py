"""The second look, from indexing to hits, beside a plain reading of what it should have done."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from api import Sightline, open_store
from api.cli import main
from api.exit_codes import ExitCode
from api.http.wording import over_http
from search.engine import DEFAULT_RERANKING, Answer
from search.query import GivenEmbedding, parse_query
from search.rerank import Reranking, SecondLook, combined_order
from search.second_look import notes_of
from sightline.encoders.composed import ComposedEncoder
from sightline.encoders.fusion_checkpoint import load_fusion_checkpoint
from sightline.encoders.matcher import FusionMatcher
from sightline.encoders.tokens import TextTokens
from sightline.errors import EncoderMismatch, EncoderUnavailable, InvalidQuery
from sightline.settings import load_settings
from sightline.types import Embeddings, Modality
from tests.api.tiny_fusion import IMAGE_TO_TEXT_WEIGHT, LENGTH_EXPONENT, NUM_PICTURES, WEIGHT, WORDS, opened, save_fusion

REMEDY = "`sightline patches default` adds them, with the --fusion of the search where it has one"


def evidence_of(encoder: ComposedEncoder, text: str) -> float:
    """What is left of the weight for a text of so many tokens: none for four, most for twenty."""
    return 1 - 4 / (len(encoder.token_spans(text)) - 2)


def plain_logits(pictures: Path, encoder: ComposedEncoder, fusion: Path) -> dict[str, float]:
    """Every picture read anew, without a store and without quantisation."""
    matcher = load_fusion_checkpoint(fusion).matcher(torch.device("cpu"))
    _, texts = encoder.embed_texts_with_tokens([WORDS])
    logits = {}
    for path in sorted(pictures.glob("*.png")):
        _, tokens = encoder.embed_pixels_with_tokens(encoder.prepare(Image.open(path).convert("RGB"))[None])
        logits[path.name] = float(matcher.match_logits(texts, matcher.project(tokens))[0, 0])
    return logits


def test_hits_are_in_the_order_of_similarity_and_match_logit(
    store: Path, pictures: Path, tiny_encoder: ComposedEncoder, fusion: Path
) -> None:
    logits = plain_logits(pictures, tiny_encoder, fusion)
    with opened(store, tiny_encoder, fusion) as sightline:
        first = sightline.search(WORDS, k=NUM_PICTURES, reranking=None)
        second = sightline.search(WORDS, k=NUM_PICTURES)

    assert first.reranked is None
    assert all(hit.first_rank is None and hit.match_probability is None for hit in first)
    assert second.reranked is not None
    assert (second.reranked.depth, second.reranked.num_read) == (NUM_PICTURES, NUM_PICTURES)
    rank_by_key = {hit.key: hit.rank for hit in first}
    assert {hit.key: hit.first_rank for hit in second} == rank_by_key
    weight = WEIGHT * evidence_of(tiny_encoder, WORDS)
    assert second.reranked.logit_weight == pytest.approx(WEIGHT)
    values = [hit.similarity + weight * logits[hit.key] for hit in second]
    # int8 patches and half precision move a logit by some hundredths, of which the weight leaves a thousandth.
    assert all(values[n] >= values[n + 1] - 2e-2 for n in range(len(values) - 1))
    assert [hit.key for hit in second] != [hit.key for hit in first]
    for hit in second:
        expected = 1 / (1 + np.exp(-(0.5 * logits[hit.key] - 0.1)))
        assert hit.match_probability == pytest.approx(expected, abs=0.08)


def test_a_query_of_a_word_is_left_to_the_similarity_but_has_match_probabilities(
    store: Path, tiny_encoder: ComposedEncoder, fusion: Path
) -> None:
    with opened(store, tiny_encoder, fusion) as sightline:
        first = sightline.search("ball", k=NUM_PICTURES, reranking=None)
        second = sightline.search("ball", k=NUM_PICTURES)
    assert [hit.key for hit in second] == [hit.key for hit in first]
    assert len({hit.match_probability for hit in second}) > 1


def test_depth_is_independent_of_the_number_of_hits(store: Path, tiny_encoder: ComposedEncoder, fusion: Path) -> None:
    with opened(store, tiny_encoder, fusion) as sightline:
        whole = sightline.search(WORDS, k=NUM_PICTURES)
        three = sightline.search(WORDS, k=3)
        shallow = sightline.search(WORDS, k=NUM_PICTURES, reranking=Reranking(depth=2))

    assert [hit.key for hit in three] == [hit.key for hit in whole][:3]
    assert {hit.first_rank for hit in shallow[:2]} == {1, 2}
    assert [hit.first_rank for hit in shallow[2:]] == list(range(3, NUM_PICTURES + 1))
    assert all(hit.match_probability is None for hit in shallow[2:])


def test_what_matches_too_little_is_left_out_and_an_empty_answer_says_so(store: Path, tiny_encoder: ComposedEncoder, fusion: Path) -> None:
    with opened(store, tiny_encoder, fusion) as sightline:
        everything = sightline.search(WORDS, k=NUM_PICTURES)
        probabilities = sorted(hit.match_probability or 0.0 for hit in everything)
        cut = (probabilities[5] + probabilities[6]) / 2
        some = sightline.search(WORDS, k=NUM_PICTURES, reranking=Reranking(min_match=cut))
        none = sightline.search(WORDS, k=NUM_PICTURES, reranking=Reranking(min_match=1.0))

    assert sorted(hit.match_probability or 0.0 for hit in some) == pytest.approx(probabilities[6:])
    assert len(none) == 0
    assert none.notes == ("nothing here matches with a probability of 1 or more",)


MANY = (WORDS, "two dogs on a beach", "ball", "a green cube on the grass::2 the sky", "a man who plays a guitar in a room full of people")


@pytest.mark.parametrize("reranking", [Reranking(), Reranking(depth=3), Reranking(min_match=0.4)])
def test_many_queries_are_looked_at_again_as_one_by_one(
    store: Path, tiny_encoder: ComposedEncoder, fusion: Path, monkeypatch: pytest.MonkeyPatch, reranking: Reranking
) -> None:
    """In common passes, with candidates of their own, but for those of several texts."""
    passes = []
    whole = FusionMatcher.match_logits_each

    def counted(self: FusionMatcher, texts: TextTokens, *rest: Any, **named: Any) -> NDArray[np.float32]:
        passes.append(len(texts.num_tokens))
        return whole(self, texts, *rest, **named)

    monkeypatch.setattr(FusionMatcher, "match_logits_each", counted)
    queries = [parse_query(words) for words in MANY]
    with opened(store, tiny_encoder, fusion) as sightline:
        together = sightline.search_many(queries, k=5, reranking=reranking)
        assert passes == [4], "the fourth has two parts"
        alone = [sightline.search(query, k=5, reranking=reranking) for query in queries]
    for one, answer in zip(alone, together, strict=True):
        assert {hit.key: hit.first_rank for hit in answer} == {hit.key: hit.first_rank for hit in one}
        probabilities = {hit.key: hit.match_probability for hit in answer}
        assert probabilities == pytest.approx({hit.key: hit.match_probability for hit in one}, abs=1e-3)
        assert (answer.reranked, answer.notes, answer.next_place is None) == (one.reranked, one.notes, one.next_place is None)


def test_many_queries_with_a_deadline_are_looked_at_one_by_one(store: Path, tiny_encoder: ComposedEncoder, fusion: Path) -> None:
    queries = [parse_query(words) for words in MANY]
    with opened(store, tiny_encoder, fusion) as sightline:
        first = sightline.search_many(queries, reranking=None)
        late = sightline.search_many(queries, reranking=Reranking(deadline_ms=1e-9))
    assert [[hit.key for hit in answer] for answer in late] == [[hit.key for hit in answer] for answer in first]


def test_many_queries_over_damaged_patches_are_answered_by_similarity_and_say_so(
    store: Path, tiny_encoder: ComposedEncoder, fusion: Path
) -> None:
    (path,) = store.glob("segments/*/*/patches.i8")
    path.write_bytes(path.read_bytes()[:-1])
    with opened(store, tiny_encoder, fusion) as sightline:
        for answer in sightline.search_many([parse_query(words) for words in MANY]):
            assert len(answer) == 10
            assert "there was no second look" in answer.notes[-1]
        with pytest.raises(InvalidQuery, match=r"none is known here: there was no second look: .*patches"):
            sightline.search(WORDS, reranking=Reranking(min_match=0.0))


def test_a_deadline_that_has_passed_leaves_the_first_order_and_says_so(store: Path, tiny_encoder: ComposedEncoder, fusion: Path) -> None:
    with opened(store, tiny_encoder, fusion) as sightline:
        first = sightline.search(WORDS, reranking=None)
        late = sightline.search(WORDS, reranking=Reranking(deadline_ms=1e-9))
    assert [hit.key for hit in late] == [hit.key for hit in first]
    assert late.reranked is not None
    assert late.reranked.num_read == 0
    assert late.notes == (f"the second look read 0 of {NUM_PICTURES} candidates by its deadline; the others keep their place",)


def test_what_was_not_read_by_the_deadline_is_not_said_to_match_or_not(store: Path, tiny_encoder: ComposedEncoder, fusion: Path) -> None:
    with opened(store, tiny_encoder, fusion) as sightline:
        late = sightline.search(WORDS, reranking=Reranking(deadline_ms=1e-9, min_match=0.0))
    left_out = "the others are left out, since how well they match is not known"
    assert late.hits == ()
    assert late.notes == (f"the second look read 0 of {NUM_PICTURES} candidates by its deadline; {left_out}",)
    partly = SecondLook((), (), num_to_read=12, num_read=3, logit_weight=1.0, num_unreadable=0)
    assert notes_of(partly, lacks="have no patches", damage=None, min_match=0.9999999) == (
        f"the second look read 3 of 12 candidates by its deadline; {left_out}",
        "nothing that was read matches with a probability of 0.9999999 or more",
    )
    gone = SecondLook((), (), num_to_read=12, num_read=9, logit_weight=1.0, num_unreadable=3)
    assert notes_of(gone, lacks="have no patches", damage=None, min_match=0.5) == (
        "3 of 12 candidates have no patches and are left out, since how well they match is not known",
        "nothing that was read matches with a probability of 0.5 or more",
    )


def test_patches_of_another_fusion_encoder_are_told_apart_from_none(
    store: Path, tiny_encoder: ComposedEncoder, fusion: Path, tmp_path: Path
) -> None:
    other = save_fusion(
        tmp_path / "other",
        encoder_fingerprint=tiny_encoder.fingerprint,
        token_dim=tiny_encoder.image_token_dim,
        text_width=tiny_encoder.text_token_dim,
        seed=7,
    )
    with opened(store, tiny_encoder, fusion) as sightline:
        (patches,) = sightline.store.statistics(sightline.store.collection("default").collection_id).patches
    with opened(store, tiny_encoder, other) as sightline:
        (note,) = sightline.search(WORDS).notes
    assert f"and there are some of {patches.fusion_fingerprint[:12]}: name that one with --fusion, or let `sightline" in note
    assert "let a job of kind patches (POST /v1/jobs) put others in their place" in over_http(note)


@pytest.mark.parametrize("name", ["patches.i8", "patch_priors.f32"])
def test_where_patches_are_damaged_searches_go_by_similarity_and_deleting_goes_on(
    store: Path, tiny_encoder: ComposedEncoder, fusion: Path, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    with opened(store, tiny_encoder, fusion) as sightline:
        first = sightline.search(WORDS, k=NUM_PICTURES, reranking=None)
    (path,) = store.glob(f"segments/*/*/{name}")
    path.write_bytes(path.read_bytes()[:-1])
    with opened(store, tiny_encoder, fusion) as sightline:
        answer = sightline.search(WORDS, k=NUM_PICTURES)
        assert [hit.key for hit in answer] == [hit.key for hit in first]
        assert answer.reranked is None
        (note,) = answer.notes
        assert f"{name} is damaged" in note
        assert "sightline verify" in note
        gone = [hit.key for hit in answer[: NUM_PICTURES - 2]]  # so many that the segment is worth merging
        assert sightline.delete(gone) == len(gone)
        assert f"were not merged: {path} is damaged" in caplog.text
        assert {hit.key for hit in sightline.search(WORDS, k=NUM_PICTURES)} == {hit.key for hit in first} - set(gone)


@pytest.mark.parametrize("is_alone", [True, False])
def test_damage_to_some_patches_costs_those_candidates_alone_their_second_look(
    tmp_path: Path, pictures: Path, tiny_encoder: ComposedEncoder, fusion: Path, is_alone: bool
) -> None:
    """Two segments, of whose patches those of the second are damaged; one query, and many in common passes."""
    paths = sorted(pictures.glob("*.png"))
    num_whole = len(paths) // 2
    half = tmp_path / "half"
    half.mkdir()
    for path in paths[:num_whole]:
        (half / path.name).write_bytes(path.read_bytes())

    def found(sightline: Sightline, reranking: Reranking | None = DEFAULT_RERANKING) -> Answer:
        if is_alone:
            return sightline.search(WORDS, k=NUM_PICTURES, reranking=reranking)
        return sightline.search_many([parse_query(WORDS), parse_query("two dogs on a beach")], k=NUM_PICTURES, reranking=reranking)[0]

    with opened(tmp_path / "two", tiny_encoder, fusion) as sightline:
        sightline.index(half)
        whole = {path.name for path in paths[:num_whole]}
        (former,) = (tmp_path / "two").glob("segments/*/*/patches.i8")
        for path in paths[num_whole:]:
            (half / path.name).write_bytes(path.read_bytes())
        sightline.index(half)
        first, undamaged = found(sightline, None), found(sightline)
        (damaged,) = set((tmp_path / "two").glob("segments/*/*/patches.i8")) - {former}
    damaged.write_bytes(damaged.read_bytes()[:-1])
    with opened(tmp_path / "two", tiny_encoder, fusion) as sightline:
        answer = found(sightline)
        sure = found(sightline, Reranking(min_match=0.0))
        explained = sightline.explain_hits(answer)

    assert answer.reranked is not None
    assert answer.reranked.num_read == num_whole
    assert [place for place, hit in enumerate(answer) if hit.key not in whole] == [
        place for place, hit in enumerate(first) if hit.key not in whole
    ], "they keep their places"
    assert [hit.key for hit in answer if hit.key in whole] == [hit.key for hit in undamaged if hit.key in whole]
    assert [hit.key for hit in answer] != [hit.key for hit in first]
    probabilities = {hit.key: hit.match_probability for hit in undamaged}
    assert {hit.key: hit.match_probability for hit in answer} == pytest.approx(
        {key: probability if key in whole else None for key, probability in probabilities.items()}, abs=1e-3
    )
    (note,) = answer.notes
    assert note.startswith(
        f"{NUM_PICTURES - num_whole} of {NUM_PICTURES} candidates could not be read and keep their place: {damaged} is damaged"
    )
    assert {hit.key for hit in sure} == whole, "of the others no probability is known"
    assert {each.hit.key for each in explained if each.match is not None} == whole
    assert all("patches.i8 is damaged" in str(each.why_not) for each in explained if each.hit.key not in whole)


class CountingEncoder:
    """An encoder that remembers whether it was asked for tokens."""

    def __init__(self, encoder: ComposedEncoder) -> None:
        self._encoder = encoder
        self.num_asked_for_tokens = 0

    def embed_texts_with_tokens(self, texts: Sequence[str]) -> tuple[Embeddings, TextTokens]:
        self.num_asked_for_tokens += 1
        return self._encoder.embed_texts_with_tokens(texts)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._encoder, name)


@pytest.mark.parametrize("has_patches", [True, False])
def test_nothing_is_prepared_for_a_second_look_that_cannot_be(
    tmp_path: Path, pictures: Path, tiny_encoder: ComposedEncoder, fusion: Path, monkeypatch: pytest.MonkeyPatch, has_patches: bool
) -> None:
    asked = []
    text_priors = FusionMatcher.text_priors

    def noted_priors(self: FusionMatcher, texts: TextTokens) -> NDArray[np.float32]:
        asked.append(texts)
        return text_priors(self, texts)

    monkeypatch.setattr(FusionMatcher, "text_priors", noted_priors)
    encoder = CountingEncoder(tiny_encoder)
    with opened(tmp_path / "bare", cast("ComposedEncoder", encoder), fusion) as sightline:
        sightline.index(pictures, patches=has_patches)
        sightline.search(WORDS)
    assert encoder.num_asked_for_tokens == len(asked) == has_patches


def test_without_patches_the_way_to_them_is_named_and_works(
    tmp_path: Path, pictures: Path, tiny_encoder: ComposedEncoder, fusion: Path, store: Path
) -> None:
    with opened(tmp_path / "bare", tiny_encoder, fusion) as sightline:
        sightline.index(pictures, patches=False)
        bare = sightline.search(WORDS)
        assert bare.reranked is None
        assert bare.notes == ("no candidate in collection default has patches for the second look; " + REMEDY,)
        with pytest.raises(InvalidQuery, match="none is known here: no candidate in collection default has patches") as refused:
            sightline.search(WORDS, reranking=Reranking(min_match=0.5))
        assert str(refused.value).endswith(REMEDY)
        (pictures_gone := tmp_path / "away").mkdir()
        (pictures / "00.png").rename(pictures_gone / "00.png")
        try:
            report = sightline.add_patches()
        finally:
            (pictures_gone / "00.png").rename(pictures / "00.png")
        assert (report.num_patched, report.num_had_patches) == (NUM_PICTURES - 1, 0)
        assert report.skipped == (("00.png", "the file is not there any more"),)
        partly = sightline.search(WORDS)
        assert partly.notes == (f"1 of {NUM_PICTURES} candidates have no patches and keep their place",)
        assert sightline.add_patches().num_patched == 1
        patched = sightline.search(WORDS, k=NUM_PICTURES)
    with opened(store, tiny_encoder, fusion) as sightline:
        at_indexing = sightline.search(WORDS, k=NUM_PICTURES)
    assert [hit.key for hit in patched] == [hit.key for hit in at_indexing]
    assert [hit.match_probability for hit in patched] == pytest.approx([hit.match_probability for hit in at_indexing], abs=0.03)


CAPTIONS = (
    "a red ball lies on the grass beside a bat",
    "two dogs run over the snow in bright sunshine",
    "a blue cube on the table in front of a window",
    "people in a boat on a wide river in the evening",
    "a dog::",
    "grass",
)


@pytest.fixture
def mixed(tmp_path: Path, store: Path, tiny_encoder: ComposedEncoder, fusion: Path) -> Path:
    """The pictures, and some texts, in one collection."""
    (tmp_path / "notes.txt").write_text("\n".join(CAPTIONS) + "\n")
    with opened(store, tiny_encoder, fusion) as sightline:
        sightline.index(tmp_path / "notes.txt")
    return store


def test_texts_for_a_picture_are_read_against_it(mixed: Path, pictures: Path, tiny_encoder: ComposedEncoder, fusion: Path) -> None:
    matcher = load_fusion_checkpoint(fusion).matcher(torch.device("cpu"))
    _, texts = tiny_encoder.embed_texts_with_tokens(CAPTIONS)
    _, tokens = tiny_encoder.embed_pixels_with_tokens(tiny_encoder.prepare(Image.open(pictures / "03.png").convert("RGB"))[None])
    logits = dict(zip(CAPTIONS, matcher.match_logits(texts, matcher.project(tokens))[:, 0].tolist(), strict=True))
    with opened(mixed, tiny_encoder, fusion) as sightline:
        first = sightline.search(pictures / "03.png", modality=Modality.TEXT, reranking=None)
        second = sightline.search(pictures / "03.png", modality=Modality.TEXT)
        like = sightline.search(parse_query(like=["03.png"], modality=Modality.TEXT))

    assert second.reranked is not None
    assert (second.reranked.num_read, second.reranked.logit_weight) == (len(CAPTIONS), IMAGE_TO_TEXT_WEIGHT)
    lengths = {text: (len(tiny_encoder.token_spans(text)) / 13) ** LENGTH_EXPONENT for text in logits}
    shares = {text: max(0.0, evidence_of(tiny_encoder, text)) * lengths[text] for text in logits}
    added = {text: IMAGE_TO_TEXT_WEIGHT * shares[text] * logit for text, logit in logits.items()}
    values = {hit.text: hit.similarity + added[hit.text or ""] for hit in first}
    assert [hit.text for hit in second] == sorted(values, key=lambda text: -values[text])
    assert [hit.text for hit in second] != [hit.text for hit in first]
    assert like.reranked is not None
    np.testing.assert_allclose(  # stored patches are rounded to int8
        sorted(hit.match_probability or 0.0 for hit in like), sorted(hit.match_probability or 0.0 for hit in second), atol=0.03
    )


class LoadingEncoder:
    """An encoder that remembers what it was told to load, and when it was first asked for tokens of texts."""

    def __init__(self, encoder: ComposedEncoder) -> None:
        self._encoder = encoder
        self.told: list[str] = []

    def load(self, modality: Modality) -> None:
        self.told.append(f"load {modality}")
        self._encoder.load(modality)

    def embed_texts_with_tokens(self, texts: Sequence[str]) -> tuple[Embeddings, TextTokens]:
        self.told.append("tokens")
        return self._encoder.embed_texts_with_tokens(texts)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._encoder, name)


@pytest.mark.parametrize(("modality", "expected"), [(Modality.TEXT, ["load text", "tokens"]), (Modality.IMAGE, [])])
def test_asked_by_an_item_what_reads_texts_is_loaded_before_the_clock_of_the_look_runs(
    mixed: Path, tiny_encoder: ComposedEncoder, fusion: Path, modality: Modality, expected: list[str]
) -> None:
    encoder = LoadingEncoder(tiny_encoder)
    with opened(mixed, cast("ComposedEncoder", encoder), fusion) as sightline:
        sightline.search(parse_query(like=["03.png"], modality=modality))
    assert encoder.told == expected


def test_among_both_modalities_only_what_can_be_read_moves(mixed: Path, tiny_encoder: ComposedEncoder, fusion: Path) -> None:
    with opened(mixed, tiny_encoder, fusion) as sightline:
        first = sightline.search(WORDS, k=30, reranking=None)
        second = sightline.search(WORDS, k=30)
        like_text = sightline.search(parse_query(like=["notes.txt:1"]), k=30)

    assert second.reranked is not None
    assert second.reranked.num_read == NUM_PICTURES
    places = [(hit.rank, hit.key) for hit in first if hit.modality is Modality.TEXT]
    assert [(hit.rank, hit.key) for hit in second if hit.modality is Modality.TEXT] == places
    assert all((hit.match_probability is None) == (hit.modality is Modality.TEXT) for hit in second)
    assert like_text.reranked is not None  # a text of the collection asks as words do
    assert like_text.reranked.num_read == NUM_PICTURES


def test_what_cannot_be_read_is_ranked_by_similarity_and_says_so(
    mixed: Path, pictures: Path, tiny_encoder: ComposedEncoder, fusion: Path
) -> None:
    with opened(mixed, tiny_encoder, fusion) as sightline:
        text_to_text = sightline.search(WORDS, modality=Modality.TEXT)
        image_to_image = sightline.search(pictures / "00.png", modality=Modality.IMAGE)
        both = sightline.search(parse_query(WORDS, images=[pictures / "00.png"]))
    assert all(answer.reranked is None for answer in (text_to_text, image_to_image, both))
    assert both.notes == ("the second look reads words or pictures, not both at once; the order is by similarity",)
    assert text_to_text.notes == ("the second look reads words against pictures, and these are texts; the order is by similarity",)
    assert image_to_image.notes == ()


@pytest.mark.parametrize(
    ("asked", "why"),
    [
        ({"words": WORDS, "modality": Modality.TEXT}, "the second look reads words against pictures, and these are texts"),
        ({"like": ["notes.txt:1"], "modality": Modality.TEXT}, "the second look reads words against pictures, and these are texts"),
        ({"images": ["00.png"], "modality": Modality.IMAGE}, "the second look reads pictures against words, and these are pictures"),
        ({"words": WORDS, "images": ["00.png"]}, "the second look reads words or pictures, not both at once"),
        ({"others": [GivenEmbedding(np.ones(24), Modality.TEXT)]}, "the second look reads words or pictures, and no embeddings"),
    ],
)
def test_what_cannot_be_read_has_no_least_match_probability(
    mixed: Path, pictures: Path, tiny_encoder: ComposedEncoder, fusion: Path, asked: dict[str, Any], why: str
) -> None:
    query = parse_query(**{**asked, "images": [pictures / name for name in asked.get("images", ())]})
    with (
        opened(mixed, tiny_encoder, fusion) as sightline,
        pytest.raises(InvalidQuery, match=f"by their match probability, and none is known here: {why}$"),
    ):
        sightline.search(query, reranking=Reranking(min_match=0.0))


def test_patches_of_another_fusion_encoder_are_replaced_and_counted(
    store: Path, tiny_encoder: ComposedEncoder, fusion: Path, tmp_path: Path
) -> None:
    shapes = {"token_dim": tiny_encoder.image_token_dim, "text_width": tiny_encoder.text_token_dim}
    other = save_fusion(tmp_path / "other", encoder_fingerprint=tiny_encoder.fingerprint, seed=1, **shapes)
    with opened(store, tiny_encoder, other) as sightline:
        report = sightline.add_patches()
        assert (report.num_patched, report.num_had_patches, report.num_replaced) == (NUM_PICTURES, 0, NUM_PICTURES)
        again = sightline.add_patches()
        assert (again.num_patched, again.num_had_patches, again.num_replaced) == (0, NUM_PICTURES, 0)
        answer = sightline.search(WORDS)
        assert answer.reranked is not None


def _shorten(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:1000])


def _change(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("harm", [_shorten, _change, Path.unlink])
def test_damaged_patches_are_made_anew_and_counted(
    store: Path, tiny_encoder: ComposedEncoder, fusion: Path, capsys: pytest.CaptureFixture[str], harm: Callable[[Path], None]
) -> None:
    with opened(store, tiny_encoder, fusion) as sightline:
        before = [(hit.key, hit.match_probability) for hit in sightline.search(WORDS)]
    (patch_file,) = store.glob("segments/*/*/patches.i8")
    harm(patch_file)
    assert main(["--store", str(store), "patches", "--fusion", str(fusion)]) == ExitCode.OK
    said = capsys.readouterr().out
    assert f"default: {NUM_PICTURES} pictures patched, 0 had patches" in said
    assert f"{NUM_PICTURES} pictures had damaged patches, which were dropped and made anew" in said
    with opened(store, tiny_encoder, fusion) as sightline:
        assert sightline.verify() == []
        assert [(hit.key, hit.match_probability) for hit in sightline.search(WORDS)] == before
        assert sightline.add_patches().num_damaged == 0


@pytest.mark.parametrize(("commit_seconds", "expected"), [(1e-9, [5, 5, 2]), (600.0, [NUM_PICTURES])])
def test_patches_are_committed_after_a_time_and_not_at_the_end_alone(
    tmp_path: Path,
    pictures: Path,
    tiny_encoder: ComposedEncoder,
    fusion: Path,
    monkeypatch: pytest.MonkeyPatch,
    commit_seconds: float,
    expected: list[int],
) -> None:
    monkeypatch.setattr("indexer.patching.WORK_BETWEEN_COMMITS", 0)
    settings = load_settings(store=tmp_path / "bare", fusion=str(fusion))
    settings = settings.model_copy(update={"batch_images": 5, "commit_seconds": commit_seconds})
    committed: list[int] = []
    told: list[tuple[str, int, int]] = []
    with open_store(encoder=tiny_encoder, settings=settings) as sightline:
        sightline.index(pictures, patches=False)
        sightline.add_patches(progress=lambda *progress: told.append(progress), committed=committed.append)
    assert committed == expected
    assert told == [("patching pictures", num_done, NUM_PICTURES) for num_done in (5, 10, 12)]


class InterruptedEncoder(CountingEncoder):
    """One at whose third pass over pictures somebody presses Ctrl-C."""

    def embed_pixels_with_tokens(self, pixels: NDArray[Any]) -> Any:
        self.num_asked_for_tokens += 1
        if self.num_asked_for_tokens == 3:
            raise KeyboardInterrupt
        return self._encoder.embed_pixels_with_tokens(pixels)


def test_patches_that_were_made_before_an_interrupt_are_kept(
    tmp_path: Path, pictures: Path, tiny_encoder: ComposedEncoder, fusion: Path
) -> None:
    settings = load_settings(store=tmp_path / "bare", fusion=str(fusion)).model_copy(update={"batch_images": 5})
    committed: list[int] = []
    with open_store(encoder=cast("ComposedEncoder", InterruptedEncoder(tiny_encoder)), settings=settings) as sightline:
        sightline.index(pictures, patches=False)
        with pytest.raises(KeyboardInterrupt):
            sightline.add_patches(committed=committed.append)
        assert committed == [10]
        rest = sightline.add_patches()
        assert (rest.num_patched, rest.num_had_patches) == (2, 10)
        assert sightline.verify() == []


def test_a_picture_without_patches_that_asks_for_texts_names_the_way_to_them(
    tmp_path: Path, pictures: Path, tiny_encoder: ComposedEncoder, fusion: Path
) -> None:
    (tmp_path / "notes.txt").write_text("\n".join(CAPTIONS) + "\n")
    with opened(tmp_path / "bare", tiny_encoder, fusion) as sightline:
        sightline.index(pictures, patches=False)
        sightline.index(tmp_path / "notes.txt")
        answer = sightline.search(parse_query(like=["03.png"], modality=Modality.TEXT))
    assert answer.reranked is None
    assert answer.notes == ("the picture of the query has no patches for the second look; " + REMEDY,)


def test_a_fusion_encoder_of_another_encoder_is_refused(tmp_path: Path, pictures: Path, tiny_encoder: ComposedEncoder) -> None:
    stranger = save_fusion(tmp_path / "stranger", encoder_fingerprint="0" * 64, token_dim=5, text_width=5)
    with opened(tmp_path / "store", tiny_encoder, stranger) as sightline:
        with pytest.raises(EncoderMismatch, match="train one for it with `sightline train fusion`"):
            sightline.index(pictures)
        sightline.index(pictures, patches=False)
        with pytest.raises(EncoderMismatch, match="collection 'default' was embedded by"):
            sightline.search(WORDS)


def test_without_any_fusion_encoder_a_search_is_as_it_was(tmp_path: Path, pictures: Path, tiny_encoder: ComposedEncoder) -> None:
    with opened(tmp_path / "store", tiny_encoder, None) as sightline:
        sightline.index(pictures)
        answer = sightline.search(WORDS)
        assert (answer.reranked, answer.notes) == (None, ())
        with pytest.raises(InvalidQuery, match=r"none is known here: no fusion encoder fits collection default$"):
            sightline.search(WORDS, reranking=Reranking(min_match=0.5))
        with pytest.raises(EncoderUnavailable, match="sightline train fusion"):
            sightline.add_patches()


def test_patches_whose_fusion_encoder_was_not_named_are_told_of_where_it_could_have_read_them(
    mixed: Path, pictures: Path, tiny_encoder: ComposedEncoder, fusion: Path
) -> None:
    fingerprint = load_fusion_checkpoint(fusion).matcher(torch.device("cpu")).fingerprint[:12]
    note = (
        f"there was no second look: collection default has patches of the fusion encoder {fingerprint}, which is not beside its encoder; "
        "name its folder with --fusion for a second look"
    )
    picture = pictures / "00.png"
    with opened(mixed, tiny_encoder, None) as sightline:
        assert sightline.search(WORDS).notes == (note,)
        with pytest.raises(InvalidQuery, match="none is known here: there was no second look: collection default has patches of"):
            sightline.search(WORDS, reranking=Reranking(min_match=0.5))
        assert [answer.notes for answer in sightline.search_many(list(map(parse_query, MANY[:2])))] == [(note,), (note,)]
        assert sightline.search(picture).notes == sightline.search(picture, modality=Modality.TEXT).notes == (note,)
        for answer in (
            sightline.search(WORDS, reranking=None),
            sightline.search(WORDS, modality=Modality.TEXT),
            sightline.search(picture, modality=Modality.IMAGE),
            sightline.search(parse_query(WORDS, images=[picture])),
            sightline.search(parse_query(like=["00.png"])),
        ):
            assert answer.notes == ()
    assert "SIGHTLINE_FUSION" in over_http(note)
    assert "--fusion" not in over_http(note)


@pytest.mark.parametrize(
    "values", [{"depth": 0}, {"depth": -4}, {"depth": 10**6}, {"deadline_ms": 0.0}, {"min_match": 1.5}, {"min_match": float("nan")}]
)
def test_absurd_ways_to_rerank_are_refused(values: dict[str, float]) -> None:
    with pytest.raises(InvalidQuery):
        Reranking(**values)  # type: ignore[arg-type]


def test_what_was_not_read_keeps_its_place() -> None:
    order = combined_order([0.9, 0.8, 0.7, 0.6, 0.5], [1.0, None, 5.0, 2.0, None], weight=0.1)
    assert order == [2, 1, 0, 3, 4]  # 1.0, kept, 1.2, 0.8, kept -> places 0, 2, 3 hold 1.2, 1.0, 0.8
    assert combined_order([0.9, 0.8], [0.0, 0.0], weight=1.0) == [0, 1]
    assert combined_order([0.9, 0.8], [0.0, 9.0], weight=0.0) == [0, 1]
    assert combined_order([], [], weight=1.0) == []


def test_the_command_line_takes_the_second_look(
    tmp_path: Path, pictures: Path, tiny_encoder: ComposedEncoder, fusion: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(*arguments: object) -> str:
        assert main(["--store", str(tmp_path / "store"), *map(str, arguments)]) == ExitCode.OK
        return capsys.readouterr().out

    run("index", pictures, "--encoder", tiny_encoder.name, "--no-patches")
    assert f"default: {NUM_PICTURES} pictures patched, 0 had patches" in run("patches", "--fusion", fusion)
    table = run("search", WORDS, "--fusion", fusion, "-k", 3).splitlines()
    assert table[0].split()[:3] == ["rank", "was", "match"]
    assert all(row.split()[2].endswith("%") for row in table[2:5])
    assert table[-1].endswith(f"; second look at {NUM_PICTURES} of {NUM_PICTURES} candidates")
    assert "second look" not in run("search", WORDS, "--fusion", fusion, "--no-rerank")
    found = json.loads(run("search", WORDS, "--fusion", fusion, "--rerank-depth", 5, "--json"))
    assert found["reranked"] == {"depth": 5, "num_read": 5, "logit_weight": WEIGHT}
    for depth, told in ((NUM_PICTURES, []), (64, ["there are 12 candidates for the second look to read; --rerank-depth asked for 64"])):
        assert json.loads(run("search", WORDS, "--fusion", fusion, "--rerank-depth", depth, "--json"))["notes"] == told
    assert json.loads(run("search", WORDS, "--fusion", fusion, "--json"))["notes"] == []  # the default's 64 are nobody's wish
    assert "patches" in run("collections", "show", "default")


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (["--rerank-depth", "0"], 12, "rerank_depth is 0; it must be between 1 and 10,000"),
        (["--rerank-depth", "-3"], 12, "rerank_depth is -3"),
        (["--min-match", "2"], 12, "it must be a probability, from 0 to 1"),
        (["--fusion", "/nowhere"], 51, "/nowhere: there is no such folder; expected one with a fusion encoder\n"),
        (["--no-rerank", "--min-match", "0.5"], 2, "exclude each other"),
    ],
)
def test_bad_ways_to_rerank_get_a_sentence_and_a_code(
    store: Path, tiny_encoder: ComposedEncoder, capsys: pytest.CaptureFixture[str], arguments: list[str], code: int, sentence: str
) -> None:
    assert main(["--store", str(store), "search", WORDS, "--encoder", tiny_encoder.name, *arguments]) == code
    assert sentence in capsys.readouterr().err
