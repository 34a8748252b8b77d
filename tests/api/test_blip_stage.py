"""BLIP as the second stage of a search: it reads the pictures of the candidates themselves."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from api import match_picture
from api.cli import main
from api.exit_codes import ExitCode
from search.query import parse_query
from search.readers import opened_picture
from sightline.encoders.blip_matcher import BlipMatcher, KeyedPicture
from sightline.encoders.composed import ComposedEncoder
from sightline.encoders.load import load_picture_matcher
from sightline.errors import EncoderUnavailable, UnreadableImage
from sightline.settings import load_settings
from sightline.types import Modality
from tests.api.tiny_fusion import NUM_PICTURES, WORDS, opened
from tests.sightline.encoders.tiny_hub_models import save_blip


@pytest.fixture(scope="module")
def blip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny seeded BLIP for image-text matching, as transformers saves it."""
    return save_blip(tmp_path_factory.mktemp("blip"))


@pytest.fixture
def photos(tmp_path: Path, pictures: Path) -> Path:
    """The pictures where a test may move them, and two texts."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for path in pictures.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    (tmp_path / "notes.txt").write_text("a red ball\ndogs on the cat\n")
    return folder


def plain_logit(matcher: BlipMatcher, text: str, picture: Path) -> float:
    with Image.open(picture) as image:
        pixels = image.convert("RGB")
    return float(matcher.match_logits([text], [KeyedPicture(str(picture), lambda: pixels)])[0, 0])


def test_hits_are_in_the_order_of_similarity_and_blips_logit(
    tmp_path: Path, photos: Path, tiny_encoder: ComposedEncoder, blip: Path
) -> None:
    matcher = load_picture_matcher(str(blip))
    with opened(tmp_path / "store", tiny_encoder, blip) as sightline:
        sightline.index(photos)  # stores no patches: BLIP reads none
        first = sightline.search(WORDS, k=NUM_PICTURES, reranking=None)
        second = sightline.search(WORDS, k=NUM_PICTURES)
        with pytest.raises(EncoderUnavailable, match="it needs no patches"):
            sightline.add_patches()
        with pytest.raises(EncoderUnavailable, match="does not explain"):
            sightline.explain("03.png", WORDS)

    assert second.reranked is not None
    assert second.reranked.num_read == NUM_PICTURES
    values = {hit.key: hit.similarity + plain_logit(matcher, WORDS, photos / hit.key) for hit in first}
    assert [hit.key for hit in second] == sorted(values, key=lambda key: -values[key])
    assert [hit.key for hit in second] != [hit.key for hit in first]
    for hit in second:
        assert hit.match_probability == pytest.approx(1 / (1 + np.exp(-(values[hit.key] - hit.similarity))), abs=1e-4)


def test_a_picture_that_is_gone_keeps_its_place_and_the_answer_says_so(
    tmp_path: Path, photos: Path, tiny_encoder: ComposedEncoder, blip: Path
) -> None:
    with opened(tmp_path / "store", tiny_encoder, blip) as sightline:
        sightline.index(photos)
        first = sightline.search(WORDS, k=NUM_PICTURES, reranking=None)
        (photos / first[2].key).unlink()
        (photos / first[9].key).write_text("no picture any more")
        second = sightline.search(WORDS, k=NUM_PICTURES)

    assert second.reranked is not None
    assert second.reranked.num_read == NUM_PICTURES - 2
    assert second.notes == (f"2 of {NUM_PICTURES} candidates cannot be read any more and keep their place",)
    for place in (2, 9):
        assert (second[place].key, second[place].match_probability) == (first[place].key, None)


def test_texts_for_a_picture_are_read_too(tmp_path: Path, photos: Path, tiny_encoder: ComposedEncoder, blip: Path) -> None:
    matcher = load_picture_matcher(str(blip))
    with opened(tmp_path / "store", tiny_encoder, blip) as sightline:
        sightline.index(photos)
        sightline.index(tmp_path / "notes.txt")
        by_file = sightline.search(photos / "03.png", modality=Modality.TEXT)
        by_item = sightline.search(parse_query(like=["03.png"], modality=Modality.TEXT))

    for answer in (by_file, by_item):
        assert answer.reranked is not None
        assert answer.reranked.num_read == 2
        for hit in answer:
            logit = plain_logit(matcher, hit.text or "", photos / "03.png")
            assert hit.match_probability == pytest.approx(1 / (1 + np.exp(-logit)), abs=1e-4)


def test_a_match_has_a_probability_and_no_map(
    photos: Path, tiny_encoder: ComposedEncoder, blip: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = match_picture(photos / "03.png", [WORDS, "cat"], encoder=tiny_encoder, settings=load_settings(fusion=str(blip)))
    logits = [plain_logit(load_picture_matcher(str(blip)), text, photos / "03.png") for text in (WORDS, "cat")]
    assert [match.match_logit for match in found.matches] == pytest.approx(logits, abs=1e-4)
    assert all(match.explanation is None for match in found.matches)
    ask = ["match", str(photos / "03.png"), WORDS, "--encoder", tiny_encoder.name, "--fusion", str(blip)]
    assert main(ask) == ExitCode.OK
    assert "%" in capsys.readouterr().out
    assert main([*ask, "--out", str(photos / "heat.png")]) == 50
    assert "nothing here explains" in capsys.readouterr().err


def test_a_picture_that_cannot_be_opened_is_known_by_its_location_as_written() -> None:
    """By that name the reader leaves it out; by another it would ask for it for ever."""
    for location in ("http://nowhere/one.png", "/nowhere//one.png"):
        with pytest.raises(UnreadableImage) as caught:
            opened_picture(location, max_pixels=1000)
        assert caught.value.name == location
