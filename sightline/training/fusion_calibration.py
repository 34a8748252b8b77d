"""What is read off validation pictures once a fusion encoder is trained: how much it counts in the order, and what its logits mean.

Pure functions of similarities, match logits and judgements over the candidates of each query, (queries, depth).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

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
_RIDGE = np.array([1e-9, 1e-9, 1e-4, 1e-4])  # of slope and intercept, and of what few words change about them


@dataclass(frozen=True, slots=True)
class JudgedCandidates:
    """The candidates of one validation source's queries, in one direction; each array (queries, depth)."""

    name: str
    similarities: NDArray[np.float32]  # what the first stage orders by
    logits: NDArray[np.float32]
    is_relevant: NDArray[np.bool_]  # a query without any relevant candidate is lost to both stages
    evidence: NDArray[np.float32] | float = 1.0  # (queries, depth) or (queries, 1), of the texts: the share of the weight that a logit gets
    length_factors: NDArray[np.float32] | float = 1.0  # of texts that are candidates, likewise; see `Combination`
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

    @property
    def confidence(self) -> float:
        """What the source counts in a mean over sources: the root of its number of queries, as what chance does to its quality falls."""
        return float(np.sqrt(len(self.logits)))

    def hit_rates(self, weight: float) -> HitRates:
        """Hit rate@1/5/10 of that order."""
        is_hit = np.take_along_axis(self.is_relevant, self._order(weight), axis=1)  # (queries, depth)
        first = np.where(is_hit.any(axis=1), is_hit.argmax(axis=1) + 1, is_hit.shape[1] + max(REPORTED_KS))
        return hit_rates(first)

    def _order(self, weight: float) -> NDArray[np.int64]:
        values = self.similarities.astype(np.float64) + weight * self.evidence * self.length_factors * self.logits
        return np.lexsort((self.is_relevant, -values), axis=1)


def fit_weight(judged: Sequence[JudgedCandidates], *, weights: Sequence[float] = WEIGHTS) -> float:
    """The weight with the best mean quality among those that lower no source's by more than `TOLERANCE`; the least among equals.

    A weight that helps on one kind of picture and harms on another is no weight to ship.
    """
    first = np.array([source.quality(0.0) for source in judged])
    confidences = np.array([source.confidence for source in judged])
    rates = np.array([[source.quality(weight) for source in judged] for weight in weights])  # (weights, sources)
    is_allowed = (rates >= first - TOLERANCE).all(axis=1)
    means = np.where(is_allowed, rates @ confidences / confidences.sum(), -np.inf)
    return float(weights[int(np.argmax(means))])


def mean_quality(chosen: Sequence[tuple[JudgedCandidates, float]]) -> float:
    """Of sources at weights, each by its confidence."""
    confidences = [source.confidence for source, _ in chosen]
    return float(np.average([source.quality(weight) for source, weight in chosen], weights=confidences))


@dataclass(frozen=True, slots=True)
class JudgedPairs:
    """Texts and pictures that a calibration is fitted to or judged by; each array (pairs,)."""

    logits: NDArray[np.float32]
    is_match: NDArray[np.bool_]  # with some of either kind
    evidence: NDArray[np.float32]  # of the texts, in [0, 1]
    weights: NDArray[np.float64]  # in which matches and others of a source weigh the same: 0.5 is to mean equally likely

    @classmethod
    def of(cls, sources: Sequence[JudgedCandidates], *, first: int) -> Self:
        """The candidates of every second query of the sources, from the first or the second query on."""
        parts = [_pairs(source, first=first) for source in sources if source.is_relevant[first::2].any()]
        return cls(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))

    def error(self, calibration: Calibration) -> float:
        """Expected calibration error, in percent."""
        return expected_calibration_error(calibration.probabilities(self.logits, self.evidence), self.is_match, self.weights)

    def kept_at_half(self, calibration: Calibration) -> tuple[float, float]:
        """What a least match probability of 0.5 keeps of the matches and of the others, in percent, weighted as the fit's."""
        is_kept = calibration.probabilities(self.logits, self.evidence) >= 0.5
        of_matches, of_others = (
            100 * float(np.average(is_kept[chosen], weights=self.weights[chosen])) for chosen in (self.is_match, ~self.is_match)
        )
        return of_matches, of_others


def _pairs(source: JudgedCandidates, *, first: int) -> tuple[NDArray[Any], ...]:
    logits, is_match = source.logits[first::2].reshape(-1), source.is_relevant[first::2].reshape(-1)
    evidence = np.broadcast_to(source.evidence, source.logits.shape)[first::2].reshape(-1)
    weights = np.where(is_match, 0.5 / is_match.sum(), 0.5 / max(1, (~is_match).sum()))
    return logits, is_match, evidence, weights * source.confidence


def fit_calibration(pairs: JudgedPairs) -> Calibration:
    """Platt scaling (1999) by Newton's method, with a line for texts of many words and one for texts of few.

    A slope is never negative: a higher logit never means a lower probability. Targets are smoothed as Platt's are, so that separable
    logits give finite numbers.
    """
    num_matches, num_others = int(pairs.is_match.sum()), int((~pairs.is_match).sum())
    assert num_matches
    assert num_others
    mean, spread = float(pairs.logits.mean()), float(pairs.logits.std()) or 1.0
    line = np.stack([(pairs.logits - mean) / spread, np.ones(len(pairs.logits))], axis=1).astype(np.float64)  # (pairs, 2)
    targets = np.where(pairs.is_match, (num_matches + 1) / (num_matches + 2), 1 / (num_others + 2))
    # The second half is by how much few words differ from many: nothing, but for what the pairs say.
    columns = np.concatenate([line, line * (1 - pairs.evidence.astype(np.float64)[:, np.newaxis])], axis=1)  # (pairs, 4)
    found = _logistic_regression(columns, targets, pairs.weights / pairs.weights.sum())
    many, few = (_in_units_of_the_logit(*each, mean=mean, spread=spread) for each in (found[:2].tolist(), (found[:2] + found[2:]).tolist()))
    return Calibration(*many, *few)


def _logistic_regression(columns: NDArray[np.float64], targets: NDArray[np.float64], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """The weights of the columns (pairs, columns) that make the cross-entropy with the targets least, kept finite by a trace of ridge."""
    found = np.zeros(columns.shape[1])
    for _ in range(_NEWTON_STEPS):
        probabilities = 1 / (1 + np.exp(-np.clip(columns @ found, -60, 60)))
        gradient = columns.T @ (weights * (probabilities - targets)) + _RIDGE * found
        hessian = columns.T @ (columns * (weights * probabilities * (1 - probabilities))[:, np.newaxis]) + np.diag(_RIDGE)
        step = np.linalg.solve(hessian, gradient)
        found -= step
        if np.abs(step).max() < 1e-9:
            break
    return found


def _in_units_of_the_logit(slope: float, intercept: float, *, mean: float, spread: float) -> tuple[float, float]:
    slope = max(0.0, float(slope) / spread)
    return slope, intercept - slope * mean if slope else 0.0


def expected_calibration_error(probabilities: NDArray[np.float32], is_match: NDArray[np.bool_], weights: NDArray[np.float64]) -> float:
    """In percent: mean distance of probability and frequency over `CALIBRATION_BINS` bins of equal width (Naeini et al. 2015)."""
    bins = np.minimum((probabilities * CALIBRATION_BINS).astype(np.int64), CALIBRATION_BINS - 1)
    total = np.zeros(CALIBRATION_BINS)
    np.add.at(total, bins, weights * (probabilities - is_match))
    return 100 * float(np.abs(total).sum() / weights.sum())
