"""Weights and probabilities of match logits, by tables that were worked out by hand and by made-up pairs of known odds."""

import numpy as np
import pytest
from numpy.typing import NDArray

from sightline.encoders.matcher import Calibration
from sightline.training.fusion_calibration import (
    WEIGHTS,
    JudgedCandidates,
    JudgedPairs,
    expected_calibration_error,
    fit_calibration,
    fit_weight,
)


def judged(similarities: list[list[float]], logits: list[list[float]], relevant: list[int]) -> JudgedCandidates:
    is_relevant = np.arange(len(similarities[0])) == np.array(relevant)[:, None]
    return JudgedCandidates("made-up", np.array(similarities, dtype=np.float32), np.array(logits, dtype=np.float32), is_relevant)


def test_hit_rates_of_a_hand_computed_table() -> None:
    source = judged([[0.30, 0.28], [0.40, 0.20], [0.25, 0.25]], [[1.0, 5.0], [0.0, 3.0], [2.0, 1.0]], relevant=[1, 0, 0])
    assert source.precision_at_k(0.0) == pytest.approx(100 / 3)  # a tie is lost
    assert source.precision_at_k(0.01) == 100  # 0.31 < 0.33, 0.40 > 0.23, 0.27 > 0.26
    assert source.precision_at_k(0.1) == pytest.approx(200 / 3)  # 0.40 < 0.50


def test_many_answers_are_counted_among_the_first_k() -> None:
    is_relevant = np.array([[True, False, True, False]])
    source = JudgedCandidates("classes", np.array([[0.4, 0.3, 0.2, 0.1]]), np.array([[0.0, 0.0, 2.0, 1.0]]), is_relevant, k=2)
    assert source.precision_at_k(0.0) == 50
    assert source.precision_at_k(0.1) == 100  # 0.4, 0.3, 0.4, 0.2
    rates = source.hit_rates(0.2)  # 0.4, 0.3, 0.6, 0.3
    assert (rates.at_1, rates.at_5) == (100, 100)
    nothing = JudgedCandidates("none", source.similarities, source.logits, np.zeros((1, 4), dtype=np.bool_))
    assert nothing.hit_rates(0.0).at_10 == 0


def test_the_weight_is_one_that_helps() -> None:
    source = judged([[0.30, 0.28], [0.40, 0.20]], [[1.0, 5.0], [0.0, 3.0]], relevant=[1, 0])
    weight = fit_weight([source])
    assert weight in WEIGHTS
    assert source.precision_at_k(weight) == 100
    assert weight == min(w for w in WEIGHTS if source.precision_at_k(w) == 100)


def test_what_harms_anywhere_counts_nothing() -> None:
    helped = judged([[0.30, 0.28]], [[0.0, 9.0]], relevant=[1])
    harmed = judged([[0.30, 0.2999]], [[0.0, 9.0]], relevant=[0])
    assert fit_weight([helped]) > 0
    assert fit_weight([harmed]) == 0
    assert fit_weight([helped, harmed]) == 0


def balanced(logits: NDArray[np.float32], is_match: NDArray[np.bool_], evidence: NDArray[np.float32] | None = None) -> JudgedPairs:
    weights = np.where(is_match, 0.5 / is_match.sum(), 0.5 / (~is_match).sum())
    return JudgedPairs(logits, is_match, np.ones(len(logits), dtype=np.float32) if evidence is None else evidence, weights)


def test_every_source_has_as_much_of_matches_as_of_others() -> None:
    few, many = np.zeros((4, 8), dtype=np.bool_), np.ones((6, 8), dtype=np.bool_)
    few[:, 0], many[:, 0] = True, False
    sources = [JudgedCandidates("", *(np.zeros(each.shape, dtype=np.float32),) * 2, each) for each in (few, many)]
    pairs = JudgedPairs.of(sources, first=0)
    assert len(pairs.logits) == 2 * 8 + 3 * 8
    for own in (slice(0, 16), slice(16, 40)):
        of_matches = pairs.weights[own][pairs.is_match[own]].sum()
        assert of_matches == pytest.approx(pairs.weights[own].sum() / 2)


def test_probabilities_are_the_odds_that_pairs_were_made_with() -> None:
    generator = np.random.default_rng(0)
    is_match = np.repeat([True, False], [4000, 12000])
    logits = np.where(is_match, generator.normal(3, 2, 16000), generator.normal(-1, 2, 16000)).astype(np.float32)

    pairs = balanced(logits, is_match)
    calibration = fit_calibration(pairs)

    # two normal curves of one width and equal weight: log odds (x - 1) * (3 + 1) / 2^2
    assert calibration.slope == pytest.approx(1.0, abs=0.05)
    assert calibration.intercept == pytest.approx(-1.0, abs=0.1)
    assert pairs.error(calibration) < 2
    assert pairs.error(Calibration()) > 5


def test_separable_and_useless_logits_give_finite_probabilities() -> None:
    is_match = np.array([True, True, False, False])
    separable = fit_calibration(balanced(np.array([5, 4, -4, -5], dtype=np.float32), is_match))
    assert np.isfinite([separable.slope, separable.intercept]).all()
    assert separable.slope > 0
    backwards = fit_calibration(balanced(np.array([-5, -4, 4, 5], dtype=np.float32), is_match))
    assert (backwards.slope, backwards.intercept) == (0.0, 0.0)
    assert backwards.probabilities(np.array([7.0], dtype=np.float32)) == pytest.approx([0.5])


def test_texts_of_few_words_have_a_line_of_their_own() -> None:
    generator = np.random.default_rng(1)
    is_match = np.tile(np.repeat([True, False], [4000, 4000]), 2)
    evidence = np.repeat(np.array([0.75, 0.0], dtype=np.float32), 8000)
    middles = np.where(is_match, 3, -1) * np.where(evidence > 0, 1.0, 0.25)  # of few words: 0.75 and -0.25
    logits = generator.normal(middles, 2).astype(np.float32)

    pairs = balanced(logits, is_match, evidence)
    calibration = fit_calibration(pairs)

    assert calibration.few_words_slope == pytest.approx(0.25, abs=0.05)  # log odds (x - 0.25) * (0.75 + 0.25) / 2^2
    assert calibration.few_words_intercept == pytest.approx(-0.0625, abs=0.05)
    assert pairs.error(calibration) < 2
    alike = fit_calibration(balanced(logits, is_match))
    of_few = balanced(logits[8000:], is_match[8000:], evidence[8000:])
    assert of_few.error(calibration) < 2
    assert of_few.error(alike) > 3


def test_calibration_error_of_a_hand_computed_table() -> None:
    probabilities = np.array([0.9, 0.9, 0.1, 0.1], dtype=np.float32)
    is_match = np.array([True, False, False, False])
    assert expected_calibration_error(probabilities, is_match, np.ones(4)) == pytest.approx(100 * (2 * 0.4 + 2 * 0.1) / 4, abs=1e-4)


def test_probabilities_follow_the_definition() -> None:
    logits = np.array([[-2.0, 0.0], [1.0, 500.0]], dtype=np.float32)
    plain = [[1 / (1 + np.exp(-(0.5 * x - 1))) if x < 100 else 1.0 for x in row] for row in logits.tolist()]
    np.testing.assert_allclose(Calibration(0.5, -1.0).probabilities(logits), plain, atol=1e-6)
    mixed = Calibration(0.9, -2.0, 0.1, 0.0).probabilities(logits, np.array([[0.5], [0.5]], dtype=np.float32))
    np.testing.assert_allclose(mixed, plain, atol=1e-6)  # half of either line
