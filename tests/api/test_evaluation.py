"""An encoder measured on a source and a collection on itself: the same figures, and those of the plain metrics."""

import io
import tarfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from api import Sightline, open_store
from api.evaluation import MAX_DEPTH, EvaluationOptions
from search.evaluation import Metric, Ranking, Run
from search.evaluation_files import read_judgement_table
from search.judgements import JudgedBy
from sightline.errors import CollectionNotFound, EncoderMismatch, InvalidCheckpoint, InvalidInput, InvalidSource
from sightline.metrics import caption_hit_rates, class_precision
from sightline.types import Embeddings
from tests.api.conftest import COLOURS
from tests.histogram_encoder import HistogramEncoder

WORDS = ("wall", "house", "sky", "car", "flower", "door")


@pytest.fixture
def captioned(tmp_path: Path) -> Path:
    """36 noisy pictures; each has two captions with its colour, some of them with a wrong one, so that not everything is found."""
    folder = tmp_path / "captioned"
    folder.mkdir()
    generator = np.random.default_rng(0)
    for number in range(36):
        colour, other = COLOURS[number % 6], COLOURS[(number // 6) % 6]
        image = Image.new("RGB", (32, 32), colour)
        image.paste(Image.new("RGB", (32, int(generator.integers(2, 12))), other))
        image.save(folder / f"{number:02} {colour}.png")
        (folder / f"{number:02} {colour}.txt").write_text(f"a {colour} {WORDS[number % 5]}\n{other} {colour} {other}\n")
    return folder


@pytest.fixture
def empty(tmp_path: Path) -> Sightline:
    return open_store(tmp_path / "store", encoder=HistogramEncoder())


def test_a_source_gives_the_figures_of_the_plain_metrics(empty: Sightline, captioned: Path) -> None:
    evaluation = empty.evaluate(captioned)

    encoder = HistogramEncoder()
    paths = sorted(captioned.glob("*.png"))
    images = encoder.embed_pixels(np.stack([encoder.prepare(Image.open(path)) for path in paths]))
    texts = encoder.embed_texts([line for path in paths for line in path.with_suffix(".txt").read_text().splitlines()])
    expected = caption_hit_rates(texts, images, np.repeat(np.arange(36), 2))
    assert [measured.run.name for measured in evaluation.runs] == ["text-to-image", "image-to-text"]
    for measured, rates in zip(evaluation.runs, expected, strict=True):
        values = measured.percent_by_metric()
        found = [values[metric] for metric in (Metric.HIT_RATE_AT_1, Metric.HIT_RATE_AT_5, Metric.HIT_RATE_AT_10)]
        # Of equal similarities the plain metrics count the wrong one first, a ranking the one with the lower key.
        assert all(mine >= plain for mine, plain in zip(found, (rates.at_1, rates.at_5, rates.at_10), strict=True))
        assert 0 < values[Metric.HIT_RATE_AT_1] < 100
        assert measured.times.embed_ms > 0
    assert (evaluation.num_pictures, evaluation.judged_by, evaluation.depth) == (36, JudgedBy.CAPTIONS, 100)
    assert [len(measured.judgements) for measured in evaluation.runs] == [72, 36]
    assert [measured.num_candidates for measured in evaluation.runs] == [36, 72]
    assert empty.collections() == []


def test_a_collection_gives_the_figures_of_its_source(empty: Sightline, captioned: Path) -> None:
    empty.index(captioned, collection="colours")
    of_source, of_collection = empty.evaluate(captioned), empty.evaluate_collection(collection="colours")

    for one, other in zip(of_source.runs, of_collection.runs, strict=True):
        assert one.judgements == other.judgements
        for query, ranking in one.run.ranking_by_query.items():
            # Rows are stored in fp16.
            np.testing.assert_allclose(ranking.run_scores, other.run.ranking_by_query[query].run_scores, atol=2e-3)
    assert of_collection.name == "collection colours"
    assert of_collection.encoder_fingerprint == HistogramEncoder().fingerprint


def test_deleted_items_are_neither_asked_for_nor_found(empty: Sightline, captioned: Path) -> None:
    empty.index(captioned)
    empty.delete(["00 red.png"])
    evaluation = empty.evaluate_collection()
    assert evaluation.num_pictures == 35
    assert not any("00 red.png" in ranking.keys for ranking in evaluation.runs[0].run.ranking_by_query.values())


def class_shard(path: Path) -> Path:
    """Thirty pictures of three classes, as shards of labelled pictures have them."""
    with tarfile.open(path, "w") as tar:
        for number in range(30):
            colour = COLOURS[number % 3]
            buffer = io.BytesIO()
            Image.new("RGB", (16, 16), COLOURS[number % 7 % 6]).save(buffer, "PNG")
            name = f"bright_{colour}"
            for suffix, content in ("png", buffer.getvalue()), ("cls", name.encode()), ("txt", name.replace("_", " ").encode()):
                member = tarfile.TarInfo(f"{number:02}.{suffix}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    return path


def test_classes_are_asked_by_name_and_all_their_pictures_are_right(empty: Sightline, tmp_path: Path) -> None:
    shard = class_shard(tmp_path / "classes.tar")
    (measured,) = empty.evaluate(shard).runs

    assert list(measured.judgements) == ["bright_red", "bright_green", "bright_blue"]
    encoder = HistogramEncoder()
    colours = [Image.new("RGB", (1, 1), COLOURS[number % 7 % 6]).getpixel((0, 0)) for number in range(30)]
    images = encoder.embed_pixels(np.stack([np.full((32, 32, 3), colour, dtype=np.uint8) for colour in colours]))
    similarities = encoder.embed_texts(["bright red", "bright green", "bright blue"]) @ images.T
    plain = class_precision(similarities, [COLOURS[number % 3] for number in range(30)], ["red", "green", "blue"])
    # As above: equal similarities are the plain metric's loss.
    assert measured.percent_by_metric()[Metric.PRECISION_AT_10] >= plain.precision_at_10
    assert measured.num_without_hit() <= plain.num_without_hit

    empty.index(shard)
    (of_collection,) = empty.evaluate_collection().runs
    assert {query: {key.rpartition("/")[2] for key in grades} for query, grades in of_collection.judgements.items()} == {
        query: {key.rpartition("/")[2] for key in grades} for query, grades in measured.judgements.items()
    }


def test_a_persons_judgements_take_the_place_of_captions(empty: Sightline, captioned: Path, tmp_path: Path) -> None:
    (tmp_path / "judged.csv").write_text("red,00 red.png,06 red.png,lost.png\nblue,02 blue.png\n")
    judged = read_judgement_table(tmp_path / "judged.csv")

    evaluation = empty.evaluate(captioned, options=EvaluationOptions(judged, depth=20))

    (measured,) = evaluation.runs
    assert list(measured.run.ranking_by_query) == ["red", "blue"]
    assert {len(ranking.keys) for ranking in measured.run.ranking_by_query.values()} == {20}
    assert evaluation.judged_by is JudgedBy.PERSON
    assert evaluation.notes == (f"1 of 4 relevant keys are not in {captioned}/ and count as not found, such as 'lost.png'",)


def test_pictures_without_captions_are_still_in_the_way(empty: Sightline, photos: Path) -> None:
    (photos / "blue.txt").write_text("a blue wall\n")
    evaluation = empty.evaluate(photos)
    assert [measured.num_candidates for measured in evaluation.runs] == [6, 2]


def test_unreadable_pictures_are_left_out_and_told(empty: Sightline, captioned: Path) -> None:
    (captioned / "00 red.png").write_bytes(b"no picture")
    evaluation = empty.evaluate(captioned)
    assert evaluation.num_pictures == 35
    assert [skipped.key for skipped in evaluation.skipped] == ["00 red.png"]


def test_a_source_of_which_nothing_can_be_read_is_refused(empty: Sightline, photos: Path) -> None:
    for path in photos.glob("*.png"):
        path.write_bytes(b"no picture")
        path.with_suffix(".txt").write_text(path.stem)
    with pytest.raises(InvalidSource, match=r"holds no picture that can be read; black\.png: "):
        empty.evaluate(photos)


class LateEncoder(HistogramEncoder):
    """Must not be asked to embed."""

    def embed_pixels(self, pixels: object) -> Embeddings:
        raise AssertionError("a picture was embedded before the judgements were looked at")


def test_what_cannot_be_asked_is_told_before_pictures_are_embedded(tmp_path: Path, photos: Path) -> None:
    (photos / "red.txt").unlink()
    with open_store(tmp_path / "store", encoder=LateEncoder()) as sightline, pytest.raises(InvalidInput, match="none of the 6 pictures"):
        sightline.evaluate(photos)


class BrokenEncoder(HistogramEncoder):
    """Gives what a network with damaged weights gives."""

    def embed_texts(self, texts: Sequence[str]) -> Embeddings:
        return np.full((len(texts), 64), np.nan, dtype=np.float32)


def test_an_encoder_that_gives_no_numbers_is_refused(tmp_path: Path, captioned: Path) -> None:
    with open_store(tmp_path / "store", encoder=BrokenEncoder()) as sightline, pytest.raises(InvalidCheckpoint, match="72 of 72"):
        sightline.evaluate(captioned)


def test_a_collection_must_exist_and_be_the_encoders_own(tmp_path: Path, empty: Sightline, captioned: Path) -> None:
    with pytest.raises(CollectionNotFound):
        empty.evaluate_collection(collection="nowhere")
    empty.index(captioned)
    with open_store(tmp_path / "store", encoder=HistogramEncoder(version="2")) as other, pytest.raises(EncoderMismatch):
        other.evaluate_collection()


@pytest.mark.parametrize("depth", [0, 9, MAX_DEPTH + 1])
def test_a_depth_that_makes_no_sense_is_refused(depth: int) -> None:
    with pytest.raises(InvalidInput, match=f"the depth of a run is {depth}; it must be between 10 and 1,000"):
        EvaluationOptions(depth=depth)


def test_runs_are_compared_by_name(empty: Sightline, captioned: Path) -> None:
    evaluation = empty.evaluate(captioned)
    former = {measured.run.name: measured.run for measured in evaluation.runs}

    compared = evaluation.compared_with(former)
    assert [(each.name, each.num_queries, each.num_groups) for each in compared] == [("text-to-image", 72, 36), ("image-to-text", 36, 36)]
    assert all(difference.points == 0 for each in compared for difference in each.differences)

    bm25 = {"bm25": Run("bm25", former["text-to-image"].ranking_by_query)}
    assert [each.name for each in evaluation.compared_with(bm25)] == ["text-to-image"]
    with pytest.raises(InvalidInput, match="the former runs are called bm25, splade; the present ones text-to-image, image-to-text"):
        evaluation.compared_with({**bm25, "splade": bm25["bm25"]})
    with pytest.raises(InvalidInput, match="share no query"):
        evaluation.compared_with({"other": Run("other", {"q": Ranking(("k",), (1.0,))})})
