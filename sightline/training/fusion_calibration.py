"""What is read off validation pictures once a fusion encoder is trained: how much it counts in the order, and what its logits mean.

Pure functions of similarities, match logits and judgements over the candidates of each query, (queries, depth).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sightline.encoders.matcher import Calibration
from sightline.metrics import REPORTED_KS, HitRates, hit_rates

WEIGHTS = (0.0, *np.geomspace(1e-4, 1.0, 41).tolist())
"""What a match logit may count beside a similarity: logits spread over tens, similarities over tenths."""

TOLERANCE = 0.2
"""Points of quality that count as noise."""

CALIBRATION_BINS = 15
_NEWTON_STEPS = 50


@dataclass(frozen=True, slots=True)
class JudgedCandidates:
    """The candidates of one validation source's queries, in one direction; each array (queries, depth)."""

    name: str
    similarities: NDArray[np.float32]  # what the first stage orders by
    logits: NDArray[np.float32]
    is_relevant: NDArray[np.bool_]  # a query without any relevant candidate is lost to both stages
    evidence: NDArray[np.float32] | None = None  # (queries,), the share of the weight that a query's logits get; None: all of it
    k: int = 1  # 1 where a query has one answer, 10 where it has many (class names)

    def precision_at_k(self, weight: float) -> float:
        """Percent of relevant candidates among the first k by similarity + weight * logit; ties count as lost. At k = 1, hit rate@1."""
        k = min(self.k, self.similarities.shape[1])
        return 100 * float(np.take_along_axis(self.is_relevant, self._order(weight)[:, :k], axis=1).mean())

    def quality(self, weight: float) -> float:
        """What weights are fitted by, in percent: precision@k, and where a query has one answer the mean reciprocal rank.

        On two hundred queries a single one is half a point of hit rate@1; the reciprocal rank moves with every place.
        """
        if self.k > 1:
            return self.precision_at_k(weight)
        is_hit = np.take_along_axis(self.is_relevant, self._order(weight), axis=1)  # (queries, depth)
        return 100 * float(np.where(is_hit.any(axis=1), 1 / (is_hit.argmax(axis=1) + 1), 0.0).mean())

    def hit_rates(self, weight: float) -> HitRates:
        """Hit rate@1/5/10 of that order."""
        is_hit = np.take_along_axis(self.is_relevant, self._order(weight), axis=1)  # (queries, depth)
        first = np.where(is_hit.any(axis=1), is_hit.argmax(axis=1) + 1, is_hit.shape[1] + max(REPORTED_KS))
        return hit_rates(first)

    def _order(self, weight: float) -> NDArray[np.int64]:
        shares = 1.0 if self.evidence is None else self.evidence[:, np.newaxis]
        values = self.similarities.astype(np.float64) + weight * shares * self.logits
        return np.lexsort((self.is_relevant, -values), axis=1)


def fit_weight(judged: Sequence[JudgedCandidates], *, weights: Sequence[float] = WEIGHTS) -> float:
    """The weight with the best mean quality among those that lower no source's by more than `TOLERANCE`; the least among equals.

    A weight that helps on one kind of picture and harms on another is no weight to ship.
    """
    first = np.array([source.quality(0.0) for source in judged])
    rates = np.array([[source.quality(weight) for source in judged] for weight in weights])  # (weights, sources)
    is_allowed = (rates >= first - TOLERANCE).all(axis=1)
    means = np.where(is_allowed, rates.mean(axis=1), -np.inf)
    return float(weights[int(np.argmax(means))])


def fit_calibration(logits: NDArray[np.float32], is_match: NDArray[np.bool_]) -> Calibration:
    """Platt scaling (1999) by Newton's method: matches and others weigh the same in all, so that 0.5 means equally likely.

    Args:
        logits: (pairs,).
        is_match: (pairs,), with some of either kind.

    The slope is never negative: a higher logit never means a lower probability. Targets are smoothed as Platt's are, so that separable
    logits give finite numbers.
    """
    num_matches = int(is_match.sum())
    num_others = len(is_match) - num_matches
    assert num_matches
    assert num_others
    mean, spread = float(logits.mean()), float(logits.std()) or 1.0
    columns = np.stack([(logits - mean) / spread, np.ones(len(logits))], axis=1).astype(np.float64)  # (pairs, 2)
    targets = np.where(is_match, (num_matches + 1) / (num_matches + 2), 1 / (num_others + 2))
    weights = np.where(is_match, 0.5 / num_matches, 0.5 / num_others)
    line = np.zeros(2)
    for _ in range(_NEWTON_STEPS):
        probabilities = 1 / (1 + np.exp(-np.clip(columns @ line, -60, 60)))
        gradient = columns.T @ (weights * (probabilities - targets))
        hessian = columns.T @ (columns * (weights * probabilities * (1 - probabilities))[:, np.newaxis]) + 1e-9 * np.eye(2)
        step = np.linalg.solve(hessian, gradient)
        line -= step
        if np.abs(step).max() < 1e-9:
            break
    slope = max(0.0, float(line[0]) / spread)
    intercept = float(line[1]) - slope * mean if slope else 0.0
    return Calibration(slope, intercept)


def expected_calibration_error(probabilities: NDArray[np.float32], is_match: NDArray[np.bool_], weights: NDArray[np.float64]) -> float:
    """In percent: mean distance of probability and frequency over `CALIBRATION_BINS` bins of equal width (Naeini et al. 2015)."""
    bins = np.minimum((probabilities * CALIBRATION_BINS).astype(np.int64), CALIBRATION_BINS - 1)
    total = np.zeros(CALIBRATION_BINS)
    np.add.at(total, bins, weights * (probabilities - is_match))
    return 100 * float(np.abs(total).sum() / weights.sum())
