"""The second look over a run, with a real fusion encoder of few parameters, beside a reading of one pair after the other."""

import math

import numpy as np
import pytest
import torch

from search.evaluation import Judgements, MeasuredRun, Metric, QueryTimes, Ranking, Run
from search.evaluator import IMAGE_TO_TEXT, TEXT_TO_IMAGE, tell_nobody
from search.match_inputs import KeptTokens, KnownPatches, patches_in_memory
from search.second_stage import MeasuredReranking, ReadDepths, SecondStage
from sightline.encoders.fusion_encoder import FusionEncoder, FusionEncoderConfig, Words
from sightline.encoders.matcher import USUAL_TOKENS, Calibration, Combination, FusionMatcher, evidence
from sightline.errors import InvalidCheckpoint
from sightline.storage.patches import PatchFormat, quantised_batch

NUM_PICTURES, NUM_TEXTS, TEXT_WIDTH = 24, 30, 16
PICTURES = [f"{number}.png" for number in range(NUM_PICTURES)]
TEXTS = [f"{number % NUM_PICTURES}.png#{1 + number // NUM_PICTURES}" for number in range(NUM_TEXTS)]
LENGTH_EXPONENT = -0.4
WEIGHT_BY_NAME = {TEXT_TO_IMAGE: 0.03, IMAGE_TO_TEXT: 0.07}


@pytest.fixture(autouse=True)
def single_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    """A processor with bfloat16 would use it, and a logit of thirty would be off by a tenth."""
    monkeypatch.setattr("sightline.encoders.matcher.autocast_dtype", lambda _: None)


def seeded_model() -> FusionEncoder:
    """One layer over four patches, with a head that says something."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = FusionEncoder(FusionEncoderConfig(8, TEXT_WIDTH, 2, 2, width=32, num_layers=1, num_heads=4, hidden_dim=32))
        torch.nn.init.normal_(model.head.weight)
    return model.eval()


@pytest.fixture(scope="module")
def model() -> FusionEncoder:
    return seeded_model()


def matcher_of(model: FusionEncoder) -> FusionMatcher:
    combination = Combination(WEIGHT_BY_NAME[TEXT_TO_IMAGE], WEIGHT_BY_NAME[IMAGE_TO_TEXT], length_exponent=LENGTH_EXPONENT)
    return FusionMatcher(
        model,
        fingerprint="f" * 64,
        encoder_fingerprint="e" * 64,
        combination=combination,
        calibration=Calibration(0.7, -0.2),
        device=torch.device("cpu"),
    )


@pytest.fixture(scope="module")
def patches() -> KnownPatches:
    generator = np.random.default_rng(1)
    values = generator.normal(size=(NUM_PICTURES, 4, 32)).astype(np.float32)
    values /= np.linalg.norm(values, axis=-1, keepdims=True)
    return patches_in_memory(PICTURES, quantised_batch(values, PatchFormat("f" * 64, 2, 2, 32)))


@pytest.fixture(scope="module")
def tokens() -> KeptTokens:
    generator = np.random.default_rng(2)
    lengths = generator.integers(2, 9, size=NUM_TEXTS)
    hidden_states = generator.normal(size=(lengths.sum(), TEXT_WIDTH)).astype(np.float16)
    token_ids = generator.integers(0, 9, size=lengths.sum())
    return KeptTokens({key: row for row, key in enumerate(TEXTS)}, hidden_states, token_ids, np.concatenate([[0], np.cumsum(lengths)]))


def first_stage(name: str) -> MeasuredRun:
    generator = np.random.default_rng(3)
    queries, candidates = (TEXTS, PICTURES) if name == TEXT_TO_IMAGE else (PICTURES, TEXTS)
    rankings: dict[str, Ranking] = {}
    for query in queries:
        similarities = generator.normal(0.2, 0.05, size=len(candidates))
        order = np.argsort(-similarities)
        rankings[query] = Ranking(tuple(candidates[column] for column in order), tuple(similarities[order].tolist()))
    judgements: Judgements = {
        query: {key: 1 for key in candidates if key.partition("#")[0] == query.partition("#")[0]} for query in queries
    }
    return MeasuredRun(Run(name, rankings), judgements, len(candidates), QueryTimes(1.0, 2.0), plan="exact")


def look(
    model: FusionEncoder, tokens: KeptTokens, patches: KnownPatches, name: str, *, rerank: int = 8, deepest: int = 8
) -> MeasuredReranking:
    stage = SecondStage(matcher_of(model), tokens, patches, ReadDepths(rerank, deepest))
    return stage.look_at(first_stage(name), metric=Metric.HIT_RATE_AT_1, kept=20, advanced=tell_nobody)


def plain_logit(model: FusionEncoder, tokens: KeptTokens, patches: KnownPatches, *, text: str, picture: str) -> float:
    """One pair, through the network's other way: `forward_pairs`."""
    start, end = tokens.starts[tokens.row_by_key[text] :][:2]
    hidden = torch.from_numpy(tokens.hidden_states[start:end].astype(np.float32))[None]  # (1, words, width)
    pictures = torch.from_numpy(patches.read(np.array([patches.row_by_key[picture]])).dequantised())
    zero = torch.zeros(1, dtype=torch.int64)
    words = Words(hidden, torch.ones(hidden.shape[:2], dtype=torch.bool))
    with torch.inference_mode():
        return float(model.forward_pairs(words, pictures, text_by_pair=zero, image_by_pair=zero)[0])


@pytest.mark.parametrize("name", [TEXT_TO_IMAGE, IMAGE_TO_TEXT])
def test_every_query_is_ordered_as_by_a_reading_of_single_pairs(
    model: FusionEncoder, tokens: KeptTokens, patches: KnownPatches, name: str
) -> None:
    found = look(model, tokens, patches, name, rerank=8)

    assert found.reranked.run.name == f"{name}-reranked"
    assert found.logit_weight == WEIGHT_BY_NAME[name]
    assert found.first.run.depth == found.reranked.run.depth == found.by_logit.depth == 20
    for query, ranking in first_stage(name).run.ranking_by_query.items():
        plain: dict[str, float] = {}
        for key, similarity in zip(ranking.keys[:8], ranking.run_scores, strict=False):
            text, picture = (query, key) if name == TEXT_TO_IMAGE else (key, query)
            num_tokens = tokens.of([text]).num_tokens
            share = evidence(num_tokens)[0] * (1 if name == TEXT_TO_IMAGE else (num_tokens[0] / USUAL_TOKENS) ** LENGTH_EXPONENT)
            plain[key] = similarity + WEIGHT_BY_NAME[name] * share * plain_logit(model, tokens, patches, text=text, picture=picture)
        reranked = found.reranked.run.ranking_by_query[query]
        assert set(reranked.keys[:8]) == set(plain)
        assert reranked.keys[8:] == ranking.keys[8:20]
        # Texts side by side are padded, and the processor may have bfloat16: a logit of some units is off by hundredths.
        np.testing.assert_allclose(reranked.run_scores[:8], [plain[key] for key in reranked.keys[:8]], atol=1e-5)
    assert any(
        found.reranked.run.ranking_by_query[query].keys != ranking.keys for query, ranking in found.first.run.ranking_by_query.items()
    )


@pytest.mark.parametrize("name", [TEXT_TO_IMAGE, IMAGE_TO_TEXT])
def test_a_deeper_reading_gives_every_shallower_one(model: FusionEncoder, tokens: KeptTokens, patches: KnownPatches, name: str) -> None:
    deep = look(model, tokens, patches, name, rerank=6, deepest=16)

    assert [point.depth for point in deep.curve] == [4, 6, 8, 16]
    assert deep.num_pairs == 6 * len(deep.first.judgements)
    for point in deep.curve:
        alone = look(model, tokens, patches, name, rerank=point.depth, deepest=point.depth)
        assert alone.curve[-1] == point
        assert (alone.reranked_percent, alone.ceiling_percent) == (point.percent, point.ceiling)
    assert deep.reranked_percent == next(point.percent for point in deep.curve if point.depth == 6)


def test_beyond_the_last_candidate_nothing_is_read(model: FusionEncoder, tokens: KeptTokens, patches: KnownPatches) -> None:
    found = look(model, tokens, patches, TEXT_TO_IMAGE, rerank=500, deepest=500)
    assert found.num_pairs == NUM_TEXTS * NUM_PICTURES
    assert found.curve[-1].depth == NUM_PICTURES
    assert found.ceiling_percent == 100
    assert found.reranked.plan == f"exact, the first {NUM_PICTURES} read again"


def test_figures_and_headroom_are_those_of_the_runs(model: FusionEncoder, tokens: KeptTokens, patches: KnownPatches) -> None:
    found = look(model, tokens, patches, TEXT_TO_IMAGE, rerank=8)

    first = found.first.percent_by_metric()[Metric.HIT_RATE_AT_1]
    assert found.first_percent == first
    assert found.reranked_percent == found.reranked.percent_by_metric()[Metric.HIT_RATE_AT_1]
    at_depth = [set(ranking.keys[:8]) & set(found.first.judgements[q]) for q, ranking in found.first.run.ranking_by_query.items()]
    assert found.ceiling_percent == pytest.approx(100 * np.mean([bool(hit) for hit in at_depth]))
    assert found.headroom_captured == pytest.approx((found.reranked_percent - first) / (found.ceiling_percent - first))
    assert (found.reranked.times.embed_ms, found.reranked.times.search_ms) == (1.0, 2.0)
    assert found.reranked.times.rerank_ms > 0
    assert found.pairs_per_s == pytest.approx(8 * 1000 / found.reranked.times.rerank_ms)
    difference = found.comparison.differences[0]
    assert (difference.metric, difference.former, difference.present) == (Metric.HIT_RATE_AT_1, first, found.reranked_percent)
    assert found.comparison.name == "text-to-image-reranked"


def test_without_headroom_there_is_no_share_of_it(model: FusionEncoder, tokens: KeptTokens, patches: KnownPatches) -> None:
    assert look(model, tokens, patches, TEXT_TO_IMAGE, rerank=1, deepest=1).headroom_captured is None


def test_pictures_without_patches_keep_their_place_and_ask_nothing(model: FusionEncoder, tokens: KeptTokens, patches: KnownPatches) -> None:
    some = KnownPatches(patches.row_by_key, np.arange(NUM_PICTURES) % 3 > 0, patches.read)
    assert some.num_missing == 8
    bare = {key for key, row in some.row_by_key.items() if not some.is_there[row]}

    to_image = look(model, tokens, some, TEXT_TO_IMAGE)
    for query, ranking in to_image.first.run.ranking_by_query.items():
        after = to_image.reranked.run.ranking_by_query[query].keys
        assert all(after[place] == key for place, key in enumerate(ranking.keys) if key in bare)
    to_text = look(model, tokens, some, IMAGE_TO_TEXT)
    for query in bare:
        assert to_text.reranked.run.ranking_by_query[query] == to_text.first.run.ranking_by_query[query]
    assert to_text.num_pairs == 8 * (NUM_PICTURES - 8)
    assert list(some.rows_of(["0.png", "1.png", "unknown.png"])) == [-1, 1, -1]


def test_logits_that_are_no_numbers_are_refused(tokens: KeptTokens, patches: KnownPatches) -> None:
    broken = seeded_model()
    torch.nn.init.constant_(broken.head.bias, math.nan)
    with pytest.raises(InvalidCheckpoint, match="match logits that are no numbers"):
        look(broken, tokens, patches, TEXT_TO_IMAGE)


def test_how_far_it_is_is_told(model: FusionEncoder, tokens: KeptTokens, patches: KnownPatches) -> None:
    told: list[tuple[str, int, int]] = []
    stage = SecondStage(matcher_of(model), tokens, patches, ReadDepths(4, 4))
    stage.look_at(
        first_stage(TEXT_TO_IMAGE), metric=Metric.HIT_RATE_AT_1, kept=20, advanced=lambda what, done, of: told.append((what, done, of))
    )
    assert told == [("reranking text-to-image", 20, NUM_TEXTS), ("reranking text-to-image", NUM_TEXTS, NUM_TEXTS)]


def test_probabilities_are_those_of_a_plain_sigmoid(model: FusionEncoder) -> None:
    logits = np.random.default_rng(4).normal(0, 40, size=200).astype(np.float32)
    found = matcher_of(model).calibration.probabilities(logits)
    for logit, probability in zip(logits.tolist(), found.tolist(), strict=True):
        assert probability == pytest.approx(1 / (1 + math.exp(-(0.7 * logit - 0.2))), rel=1e-6, abs=1e-12)
