"""Sources and collections measured with a second look: beside each other, beside the search itself, and where none can be taken."""

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from api import Sightline, open_store
from api.evaluation import EvaluationOptions
from search.evaluation import Metric
from search.judgements import JudgedBy
from search.rerank import Reranking
from sightline.encoders.composed import ComposedEncoder
from sightline.errors import EncoderMismatch, EncoderUnavailable, InvalidInput, InvalidQuery, PatchesNotFound
from sightline.settings import load_settings
from tests.api.tiny_fusion import IMAGE_TO_TEXT_WEIGHT, WEIGHT, opened, save_fusion
from tests.histogram_encoder import HistogramEncoder
from tests.sightline.encoders.tiny_hub_models import save_blip
from tests.tiny_checkpoint import WORDS, write_tiny_checkpoint

NUM_PICTURES = 14


@pytest.fixture(autouse=True)
def single_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    """A processor with bfloat16 would use it, and batches of other sizes would round otherwise."""
    monkeypatch.setattr("sightline.encoders.matcher.autocast_dtype", lambda _: None)


@pytest.fixture(scope="module")
def captioned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Noisy pictures with two captions each."""
    folder = tmp_path_factory.mktemp("captioned")
    generator = np.random.default_rng(0)
    for number in range(NUM_PICTURES):
        picture(generator).save(folder / f"{number:02}.png")
        captions = (" ".join(generator.choice(WORDS, size=3 + line, replace=False)) for line in range(2))
        (folder / f"{number:02}.txt").write_text("\n".join(captions) + "\n")
    return folder


def picture(generator: np.random.Generator) -> Image.Image:
    pixels = generator.integers(0, 256, (5, 5, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize((64, 64), Image.Resampling.NEAREST)


@pytest.fixture
def sightline(tmp_path: Path, tiny_encoder: ComposedEncoder, fusion: Path) -> Sightline:
    return opened(tmp_path / "store", tiny_encoder, fusion)


def test_both_directions_are_measured_with_and_without_the_second_look(sightline: Sightline, captioned: Path) -> None:
    evaluation = sightline.evaluate(captioned)

    assert [measured.run.name for measured in evaluation.runs] == [
        "text-to-image",
        "text-to-image-reranked",
        "image-to-text",
        "image-to-text-reranked",
    ]
    to_image, to_text = evaluation.rerankings
    assert (to_image.logit_weight, to_text.logit_weight) == (WEIGHT, IMAGE_TO_TEXT_WEIGHT)
    assert (to_image.num_pairs, to_text.num_pairs) == (28 * NUM_PICTURES, NUM_PICTURES * 28)
    assert evaluation.runs == (to_image.first, to_image.reranked, to_text.first, to_text.reranked)
    for each in evaluation.rerankings:
        assert each.metric is Metric.HIT_RATE_AT_1
        assert each.depth == 64
        assert each.ceiling_percent == 100  # everything was read
        assert each.first.times.rerank_ms == 0
        assert each.reranked.times.total_ms > each.first.times.total_ms
        assert each.first.run != each.reranked.run
    assert [point.depth for point in to_image.curve] == [4, 8, 14]
    assert [point.depth for point in to_text.curve] == [4, 8, 16, 28]
    assert evaluation.fusion_fingerprint is not None
    assert sightline.collections() == []


def test_the_first_stage_is_the_one_of_an_evaluation_without_a_second_look(sightline: Sightline, captioned: Path) -> None:
    alone = sightline.evaluate(captioned, options=EvaluationOptions(rerank_depth=None, depth=10))
    both = sightline.evaluate(captioned, options=EvaluationOptions(rerank_depth=12, curve_depth=256, depth=10))

    assert (alone.rerankings, alone.fusion_fingerprint, len(alone.runs)) == ((), None, 2)
    for measured, reranking in zip(alone.runs, both.rerankings, strict=True):
        assert measured.run.name == reranking.first.run.name
        assert measured.percent_by_metric() == reranking.first.percent_by_metric()
        assert {query: each.keys for query, each in measured.run.ranking_by_query.items()} == {
            query: each.keys for query, each in reranking.first.run.ranking_by_query.items()
        }
        # The second look chose among twelve, of which ten are kept.
        assert reranking.reranked.run.depth == 10
    assert [point.depth for point in both.rerankings[0].curve] == [4, 8, 12, 14]
    assert [point.depth for point in both.rerankings[1].curve] == [4, 8, 12, 16, 28]


def test_a_curve_is_what_its_depths_give_alone(sightline: Sightline, captioned: Path) -> None:
    deep = sightline.evaluate(captioned, options=EvaluationOptions(rerank_depth=2, curve_depth=256))
    for position, reranking in enumerate(deep.rerankings):
        for point in reranking.curve:
            alone = sightline.evaluate(captioned, options=EvaluationOptions(rerank_depth=point.depth)).rerankings[position]
            assert (alone.reranked_percent, alone.ceiling_percent) == (point.percent, point.ceiling)


def test_a_collection_gives_what_its_source_gives(sightline: Sightline, captioned: Path) -> None:
    sightline.index(captioned)
    of_source, of_collection = sightline.evaluate(captioned), sightline.evaluate_collection()

    assert of_collection.fusion_fingerprint == of_source.fusion_fingerprint
    assert of_collection.notes == ()
    for one, other in zip(of_source.rerankings, of_collection.rerankings, strict=True):
        assert (one.num_pairs, one.logit_weight) == (other.num_pairs, other.logit_weight)
        for query, ranking in one.reranked.run.ranking_by_query.items():
            stored = other.reranked.run.ranking_by_query[query]
            # Rows are stored in fp16; the patches are the same 8 bits.
            np.testing.assert_allclose(ranking.run_scores, stored.run_scores, atol=2e-3)


def test_a_collection_is_reranked_as_a_search_reranks_it(sightline: Sightline, captioned: Path) -> None:
    sightline.index(captioned)
    measured = sightline.evaluate_collection(options=EvaluationOptions(rerank_depth=6)).rerankings[0].reranked
    for query in list(measured.judgements)[:6]:
        key, _, number = query.partition("#")
        text = (captioned / key).with_suffix(".txt").read_text().splitlines()[int(number) - 1]
        hits = sightline.search(text, k=NUM_PICTURES, reranking=Reranking(depth=6))
        assert sorted(hit.key for hit in hits[:6]) == sorted(measured.run.ranking_by_query[query].keys[:6])
        value_by_key = dict(zip(measured.run.ranking_by_query[query].keys, measured.run.ranking_by_query[query].run_scores, strict=True))
        # Text tokens are kept in fp16 here.
        values = [value_by_key[hit.key] for hit in hits]
        assert all(values[n] >= values[n + 1] - 1e-3 for n in range(len(values) - 1))


def test_classes_are_measured_by_their_precision(sightline: Sightline, tmp_path: Path) -> None:
    generator = np.random.default_rng(1)
    with tarfile.open(tmp_path / "classes.tar", "w") as tar:
        for number in range(24):
            buffer = io.BytesIO()
            picture(generator).save(buffer, "PNG")
            for suffix, content in ("png", buffer.getvalue()), ("cls", ("red", "dog", "beach")[number % 3].encode()):
                member = tarfile.TarInfo(f"{number:02}.{suffix}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))

    evaluation = sightline.evaluate(tmp_path / "classes.tar")

    assert evaluation.judged_by is JudgedBy.CLASSES
    (reranking,) = evaluation.rerankings
    assert reranking.metric is Metric.PRECISION_AT_10
    assert reranking.reranked_percent == reranking.reranked.percent_by_metric()[Metric.PRECISION_AT_10]
    assert reranking.ceiling_percent == 80  # eight of each class, ten places
    assert {difference.uncertainty for difference in reranking.comparison.differences} == {None}
    assert [point.depth for point in reranking.curve] == [4, 8, 16, 24]


def test_without_patches_the_first_stage_is_measured_and_the_way_to_them_is_told(sightline: Sightline, captioned: Path) -> None:
    sightline.index(captioned, patches=False)
    evaluation = sightline.evaluate_collection()
    assert (len(evaluation.runs), evaluation.rerankings, evaluation.fusion_fingerprint) == (2, (), None)
    (note,) = evaluation.notes
    assert note.startswith("no picture in collection default has patches for the second look, so the first stage alone is measured")
    assert note.endswith("; `sightline patches default` adds them")
    with pytest.raises(PatchesNotFound, match="so there is no curve over rerank depths; `sightline patches default` adds them"):
        sightline.evaluate_collection(options=EvaluationOptions(curve_depth=256))


def test_pictures_without_patches_are_counted(sightline: Sightline, captioned: Path, tmp_path: Path) -> None:
    sightline.index(captioned, patches=False)
    hidden = (captioned / "00.png").rename(tmp_path / "00.png")
    try:
        assert sightline.add_patches().num_patched == NUM_PICTURES - 1
    finally:
        hidden.rename(captioned / "00.png")
    evaluation = sightline.evaluate_collection()
    (note,) = evaluation.notes
    assert note.startswith("1 of 14 pictures have no patches: as candidates they keep their place, as queries their order; `sightline")
    assert evaluation.rerankings[1].num_pairs == 28 * (NUM_PICTURES - 1)


def test_what_the_fusion_encoder_weighs_at_nothing_changes_no_order(tmp_path: Path, captioned: Path, tiny_encoder: ComposedEncoder) -> None:
    widths = {"token_dim": tiny_encoder.image_token_dim, "text_width": tiny_encoder.text_token_dim}
    fusion = save_fusion(tmp_path / "fusion", encoder_fingerprint=tiny_encoder.fingerprint, weight=0.0, **widths)
    with opened(tmp_path / "store", tiny_encoder, fusion) as sightline:
        to_image = sightline.evaluate(captioned).rerankings[0]
    assert to_image.reranked.run.ranking_by_query == to_image.first.run.ranking_by_query
    assert to_image.by_logit.ranking_by_query != to_image.first.run.ranking_by_query
    assert {point.percent for point in to_image.curve} == {to_image.first_percent}


def test_a_fusion_encoder_of_another_encoder_is_refused(tmp_path: Path, captioned: Path, fusion: Path) -> None:
    other = str(write_tiny_checkpoint(tmp_path / "other", seed=1))
    with open_store(encoder=other, settings=load_settings(store=tmp_path / "store", fusion=str(fusion))) as sightline:
        with pytest.raises(EncoderMismatch, match="/ was embedded by"):
            sightline.evaluate(captioned)
        assert sightline.evaluate(captioned, options=EvaluationOptions(rerank_depth=None)).rerankings == ()
        sightline.index(captioned, patches=False)
        with pytest.raises(EncoderMismatch, match="collection 'default' was embedded by"):
            sightline.evaluate_collection()


def test_a_curve_needs_a_fusion_encoder_and_says_so_before_anything_is_read(tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    with (
        open_store(tmp_path / "store", encoder=HistogramEncoder()) as sightline,
        pytest.raises(EncoderUnavailable, match="no fusion encoder comes with histogram, so there is no curve"),
    ):
        sightline.evaluate(tmp_path / "pictures", options=EvaluationOptions(curve_depth=256))


def test_what_reads_the_pictures_themselves_is_not_measured_and_says_so(
    tmp_path: Path, captioned: Path, tiny_encoder: ComposedEncoder
) -> None:
    blip = save_blip(tmp_path / "blip")
    with opened(tmp_path / "store", tiny_encoder, blip) as sightline:
        sightline.index(captioned)
        for evaluation in (sightline.evaluate(captioned), sightline.evaluate_collection()):
            assert (len(evaluation.runs), evaluation.rerankings) == (2, ())
            (note,) = evaluation.notes
            assert note.endswith(" reads the pictures themselves, which an evaluation does not: the first stage alone is measured")
        assert sightline.evaluate(captioned, options=EvaluationOptions(rerank_depth=None)).notes == ()
        with pytest.raises(EncoderUnavailable, match="reads the pictures themselves, which an evaluation does not, so there is no curve"):
            sightline.evaluate(captioned, options=EvaluationOptions(curve_depth=256))


@pytest.mark.parametrize("depths", [{"rerank_depth": 0}, {"rerank_depth": -3}, {"rerank_depth": 10**6}, {"curve_depth": 0}])
def test_depths_that_make_no_sense_are_refused(depths: dict[str, int]) -> None:
    with pytest.raises(InvalidQuery, match="it must be between 1 and 10,000"):
        EvaluationOptions(**depths)  # type: ignore[arg-type]


def test_a_curve_without_a_second_look_is_refused() -> None:
    with pytest.raises(InvalidInput, match="leave one of the two"):
        EvaluationOptions(rerank_depth=None, curve_depth=256)
