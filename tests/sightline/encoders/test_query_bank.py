"""Banks of queries: biases against the formula, compression, what is refused, and the strength of a hand-computed table."""

import math
from collections.abc import Callable
from dataclasses import FrozenInstanceError
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load, save

from sightline.encoders import query_bank as module
from sightline.encoders.query_bank import QueryBank, bank_from_bytes, compressed_bank, fit_strength
from sightline.errors import InvalidInput
from sightline.types import Embeddings

DIM = 12
FP16_TOLERANCE = 1e-3  # queries and items are rounded to 11 bits


def unit_rows(num_rows: int, *, seed: int = 0, dim: int = DIM) -> Embeddings:
    rows = np.random.default_rng(seed).standard_normal((num_rows, dim), dtype=np.float32)
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), dtype=np.float32)


def small_bank(*, num_queries: int = 7, factor: float = 20.0, strength: float = 0.5) -> QueryBank:
    weights = np.arange(1, num_queries + 1, dtype=np.float32)
    return QueryBank(unit_rows(num_queries).astype(np.float16), weights / weights.sum(), factor=factor, strength=strength)


def by_the_formula(bank: QueryBank, embedding: Embeddings) -> float:
    """log(sum_i w_i exp(factor cos_i)) / factor, one number at a time."""
    cosines = [sum(float(a) * float(b) for a, b in zip(query, embedding, strict=True)) for query in bank.embeddings]
    weighted = [float(weight) * math.exp(bank.factor * cosine) for weight, cosine in zip(bank.weights, cosines, strict=True)]
    return math.log(sum(weighted)) / bank.factor


@pytest.mark.parametrize("factor", [0.5, 10.0, 20.0])
def test_biases_are_those_of_the_formula(factor: float) -> None:
    bank, items = small_bank(factor=factor), unit_rows(9, seed=1)
    expected = [by_the_formula(bank, item) for item in items]
    np.testing.assert_allclose(bank.biases(items), expected, atol=1e-5)  # float32 sums
    np.testing.assert_allclose(bank.biases(items.astype(np.float16)), expected, atol=FP16_TOLERANCE)


def test_a_large_factor_gives_the_nearest_query_and_overflows_nowhere() -> None:
    bank, items = small_bank(factor=900.0), unit_rows(9, seed=1)  # exp(900) is beyond float64
    nearest = (items @ bank.embeddings.astype(np.float32).T).max(axis=1)
    np.testing.assert_allclose(bank.biases(items), nearest, atol=0.01)  # less the log of a weight over 900


@given(st.integers(1, 40), st.integers(1, 30))
def test_a_bias_lies_between_the_least_and_the_greatest_similarity(num_queries: int, num_items: int) -> None:
    bank, items = small_bank(num_queries=num_queries), unit_rows(num_items, seed=1)
    similarities = items @ bank.embeddings.astype(np.float32).T
    biases = bank.biases(items)
    assert np.all(biases <= similarities.max(axis=1) + 1e-5)
    assert np.all(biases >= similarities.min(axis=1) - 1e-5)


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    bank, items = small_bank(), unit_rows(50, seed=1)
    whole = bank.biases(items)
    monkeypatch.setattr(module, "_SIMILARITIES_AT_ONCE", 21)  # three rows at a time
    np.testing.assert_allclose(bank.biases(items), whole, atol=1e-6)
    assert bank.biases(items[:0]).shape == (0,)


def test_a_bank_comes_back_from_its_bytes() -> None:
    bank = small_bank()
    again = bank_from_bytes(bank.to_bytes())
    np.testing.assert_array_equal(again.embeddings, bank.embeddings)
    np.testing.assert_array_equal(again.weights, bank.weights)
    assert (again.factor, again.strength, again.fingerprint) == (bank.factor, bank.strength, bank.fingerprint)


def test_the_fingerprint_is_of_what_the_biases_depend_on() -> None:
    bank = small_bank()
    assert bank.with_strength(1.0).fingerprint == bank.fingerprint
    assert bank.with_strength(1.0).strength == 1.0
    assert small_bank(factor=10.0).fingerprint != bank.fingerprint
    assert QueryBank(bank.embeddings, bank.weights[::-1].copy(), factor=20.0, strength=0.5).fingerprint != bank.fingerprint
    assert QueryBank(bank.embeddings[::-1].copy(), bank.weights, factor=20.0, strength=0.5).fingerprint != bank.fingerprint
    with pytest.raises(FrozenInstanceError):
        bank.strength = 0.7  # type: ignore[misc]


def _changed(**changes: Any) -> Callable[[], bytes]:
    return lambda: save({**load(small_bank().to_bytes()), **changes})


def _without(name: str) -> Callable[[], bytes]:
    return lambda: save({key: value for key, value in load(small_bank().to_bytes()).items() if key != name})


@pytest.mark.parametrize(
    "content",
    [
        lambda: b"",
        lambda: b"no safetensors at all",
        lambda: small_bank().to_bytes()[:-3],
        lambda: small_bank().to_bytes()[:-1] + b"\xff",
        _without("weights"),
        _without("format"),
        _changed(format=np.array([2], dtype=np.int64)),
        _changed(factor=np.array([21.0])),
        _changed(factor=np.array([-1.0])),
        _changed(strength=np.array([1.5])),
        _changed(strength=np.array([np.nan])),
        _changed(fingerprint=np.zeros(32, dtype=np.uint8)),
        _changed(embeddings=np.ones((7, DIM), dtype=np.float16)),
        _changed(weights=np.zeros(7, dtype=np.float32)),
        _changed(weights=np.ones(6, dtype=np.float32) / 6),
    ],
)
def test_what_is_no_bank_is_refused(content: Callable[[], bytes]) -> None:
    with pytest.raises(InvalidInput, match="bank of queries"):
        bank_from_bytes(content())


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"embeddings": unit_rows(3)}, "float32"),
        ({"embeddings": np.zeros((0, DIM), dtype=np.float16), "weights": np.zeros(0, dtype=np.float32)}, "shape"),
        ({"embeddings": np.full((3, DIM), np.nan, dtype=np.float16)}, "unit length"),
        ({"weights": np.array([0.5, 0.6, -0.1], dtype=np.float32)}, "not positive"),
        ({"weights": np.array([0.5, 0.5, 0.5], dtype=np.float32)}, "sum of 1"),
        ({"weights": np.full(3, np.nan, dtype=np.float32)}, "not positive"),
        ({"factor": 0.0}, "factor of 0.0"),
        ({"factor": math.nan}, "factor of nan"),
        ({"strength": -0.1}, "strength of -0.1"),
        ({"strength": math.nan}, "strength of nan"),
    ],
)
def test_values_that_make_no_bank_are_refused(changes: dict[str, Any], sentence: str) -> None:
    values: dict[str, Any] = {
        "embeddings": unit_rows(3).astype(np.float16),
        "weights": np.full(3, 1 / 3, dtype=np.float32),
        "factor": 20.0,
        "strength": 0.5,
    }
    with pytest.raises(InvalidInput, match=sentence):
        QueryBank(**{**values, **changes})


def test_few_queries_are_kept_as_they_are() -> None:
    queries = unit_rows(5)
    bank = compressed_bank(queries, num_centroids=5, factor=20.0, strength=0.5)
    np.testing.assert_allclose(bank.embeddings, queries, atol=FP16_TOLERANCE)
    np.testing.assert_allclose(bank.weights, np.full(5, 0.2))


def test_many_queries_become_weighted_centroids_of_nearly_the_same_biases() -> None:
    """Four hundred queries around eight topics of very different sizes."""
    generator = np.random.default_rng(0)
    topics = unit_rows(8, seed=2)[generator.choice(8, 400, p=[0.3, 0.2, 0.2, 0.1, 0.1, 0.05, 0.03, 0.02])]
    queries = topics + 0.1 * generator.standard_normal(topics.shape).astype(np.float32)
    queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    items = unit_rows(200, seed=3)
    whole, small = (compressed_bank(queries, num_centroids=n, factor=20.0, strength=0.5) for n in (400, 24))

    assert len(small.weights) <= 24
    assert small.weights.sum() == pytest.approx(1, abs=1e-5)
    np.testing.assert_allclose(np.linalg.norm(small.embeddings.astype(np.float32), axis=1), 1, atol=FP16_TOLERANCE)
    # Off by the spread within a cluster, which takes 0.1 from every cosine; what ranks is the difference between items.
    assert np.corrcoef(small.biases(items), whole.biases(items))[0, 1] > 0.99


def test_the_same_queries_give_the_same_bank_and_another_seed_another() -> None:
    first, again, other = (
        compressed_bank(unit_rows(300), num_centroids=10, factor=20.0, strength=0.5, seed=s).fingerprint for s in (0, 0, 1)
    )
    assert first == again != other


def test_equal_queries_leave_no_empty_centroid() -> None:
    queries = np.repeat(unit_rows(2), 50, axis=0)
    bank = compressed_bank(queries, num_centroids=10, factor=20.0, strength=0.5)
    assert np.all(bank.weights > 0)
    np.testing.assert_allclose(bank.biases(queries[:1]), small_biases(queries, queries[:1]), atol=FP16_TOLERANCE)


def small_biases(queries: Embeddings, items: Embeddings) -> Embeddings:
    return np.asarray(np.log(np.mean(np.exp(20.0 * items @ queries.T), axis=1)) / 20.0, dtype=np.float32)


@pytest.mark.parametrize(("num_queries", "num_centroids"), [(0, 4), (4, 0)])
def test_a_bank_of_nothing_is_refused(num_queries: int, num_centroids: int) -> None:
    with pytest.raises(InvalidInput, match="at least 1"):
        compressed_bank(unit_rows(num_queries), num_centroids=num_centroids, factor=20.0, strength=0.5)


# Three items, of which the first is a hub: nearest to every query, right for the first alone.
SIMILARITIES = np.array([[0.9, 0.5, 0.4], [0.8, 0.7, 0.1], [0.8, 0.2, 0.6]], dtype=np.float32)
BIASES = np.array([0.5, 0.2, 0.0], dtype=np.float32)
IS_RELEVANT = np.eye(3, dtype=np.bool_)


def test_the_strength_is_that_of_the_table() -> None:
    """Ranks of the right item, worked out by hand.

    strength 0:    1, 2, 2   mrr 66.7
    strength 0.25: 1, 2, 2   0.8 - 0.125 = 0.675 and 0.7 - 0.05 = 0.65;   0.675 and 0.6
    strength 0.5:  1, 1, 1   0.55 and 0.6;                                0.55 and 0.6
    strength 1:    1, 1, 1   0.9 - 0.5 = 0.4 and 0.4 - 0 = 0.4 tie at 1.0, which is lost
    """
    fitted = fit_strength(SIMILARITIES, BIASES, IS_RELEVANT)
    assert fitted.strength == 0.5
    assert fitted.helps
    assert fitted.num_queries == 3
    assert fitted.hit_rate_at_1_before == pytest.approx(100 / 3)
    assert fitted.mrr_before == pytest.approx(100 * (1 + 0.5 + 0.5) / 3)
    assert (fitted.hit_rate_at_1, fitted.mrr) == (100, 100)


def test_nothing_is_taken_off_where_it_does_not_help() -> None:
    """The right item of every query is the one with the greatest bias."""
    similarities = np.array([[0.9, 0.5, 0.4], [0.8, 0.7, 0.1]], dtype=np.float32)
    is_relevant = np.array([[True, False, False], [True, False, False]])
    fitted = fit_strength(similarities, BIASES, is_relevant)
    assert (fitted.strength, fitted.helps) == (0.0, False)
    assert (fitted.hit_rate_at_1, fitted.mrr) == (fitted.hit_rate_at_1_before, fitted.mrr_before) == (100, 100)


def test_a_better_mean_that_costs_the_first_place_is_not_taken() -> None:
    """One query falls from 1 to 2 and three climb from 4 to 2: MRR goes up, the hit rate@1 down to nothing."""
    climbing = [[0.3, 0.9, 0.8, 0.7, 0.31]] * 3
    similarities = np.array([[0.9, 0.5, 0.4, 0.3, 0.85], *climbing], dtype=np.float32)
    biases = np.array([0.1, 0.9, 0.9, 0.9, 0.0], dtype=np.float32)
    is_relevant = np.zeros((4, 5), dtype=np.bool_)
    is_relevant[:, 0] = True
    fitted = fit_strength(similarities, biases, is_relevant, strengths=[1.0])
    assert fitted.mrr_before < 100 * (0.5 + 3 * 0.5) / 4
    assert fitted.strength == 0.0


def test_of_equally_good_strengths_it_is_the_least() -> None:
    assert fit_strength(SIMILARITIES, BIASES, IS_RELEVANT, strengths=[0.75, 0.6, 0.5]).strength == 0.5
