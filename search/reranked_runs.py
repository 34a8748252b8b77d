"""What a second look makes of a run, as pure functions of the run, of match logits and of judgements.

Logits are of the first candidates of each query, in first-stage order, NaN for those that could not be read. Whatever depth they were
read to serves every shallower one: a look at the first 16 sees what a look at the first 256 saw of them.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from search.evaluation import Grades, Judgements, Metric, Ranking, Run, query_values
from search.rerank import combined_order

CURVE_DEPTHS = (4, 8, 16, 32, 64, 128, 256)

LogitsByQuery = Mapping[str, NDArray[np.float32]]
"""Query id -> (candidates that were to be read,), in first-stage order, NaN for those that could not be."""

_KEYS_THAT_COUNT = 10
"""No metric but MRR looks further, and a curve is not of MRR."""


@dataclass(frozen=True, slots=True)
class CurvePoint:
    """The second look at one depth."""

    depth: int  # candidates a query that are read
    percent: float  # of the curve's metric
    ceiling: float  # the same if what is relevant among the first `depth` stood in front


def reranked_run(first: Run, logits: LogitsByQuery, *, name: str, depth: int, weight: float) -> Run:
    """The first `depth` candidates ordered by what the first stage orders by + weight x logit, see `search.rerank.combined_order`."""
    return _reordered_run(first, logits, name=name, depth=depth, weight=weight, similarity_weight=1.0)


def run_by_logit(first: Run, logits: LogitsByQuery, *, name: str, depth: int) -> Run:
    """The same by match logit alone, as if the first stage had only chosen the candidates; equal logits keep their order."""
    return _reordered_run(first, logits, name=name, depth=depth, weight=1.0, similarity_weight=0.0)


def best_possible(first: Run, judgements: Judgements, *, depth: int) -> Run:
    """The first `depth` candidates with the most relevant ones in front: what no second look at them can surpass."""
    return Run(first.name, {q: _best_possible(each, judgements.get(q, {}), depth=depth) for q, each in first.ranking_by_query.items()})


def mean_percent(run: Run, judgements: Judgements, metric: Metric) -> float:
    """One metric over the judged queries; not for MRR, since it looks at the first ten keys alone."""
    assert metric is not Metric.MRR
    return float(query_values(run.cut(_KEYS_THAT_COUNT), judgements)[metric].mean())


def curve_depths(*, rerank_depth: int, deepest: int, num_candidates: int) -> list[int]:
    """Those of `CURVE_DEPTHS` down to `deepest` and `rerank_depth`, as far as there are candidates."""
    wanted = {depth for depth in CURVE_DEPTHS if depth <= deepest} | {rerank_depth}
    return sorted({min(depth, num_candidates) for depth in wanted})


def rerank_curve(
    first: Run, logits: LogitsByQuery, *, judgements: Judgements, metric: Metric, depths: Iterable[int], weight: float
) -> tuple[CurvePoint, ...]:
    """The metric after a second look at each of the depths."""
    return tuple(
        CurvePoint(
            depth,
            mean_percent(reranked_run(first, logits, name=first.name, depth=depth, weight=weight), judgements, metric),
            mean_percent(best_possible(first, judgements, depth=depth), judgements, metric),
        )
        for depth in depths
    )


def _reordered_run(first: Run, logits: LogitsByQuery, *, name: str, depth: int, weight: float, similarity_weight: float) -> Run:
    nothing = np.empty(0, dtype=np.float32)
    return Run(
        name,
        {
            query: _reordered(ranking, logits.get(query, nothing)[:depth], weight=weight, similarity_weight=similarity_weight)
            for query, ranking in first.ranking_by_query.items()
        },
    )


def _reordered(ranking: Ranking, logits: NDArray[np.float32], *, weight: float, similarity_weight: float) -> Ranking:
    read = [None if np.isnan(logit) else logit for logit in logits.tolist()]
    bases = [similarity_weight * similarity for similarity in ranking.run_scores[: len(read)]]
    order = [*combined_order(bases, read, weight=weight), *range(len(read), len(ranking.keys))]
    value_by_place = {place: bases[place] + weight * logit for place, logit in enumerate(read) if logit is not None}
    run_scores = _descending([value_by_place.get(place) for place in order], ranking.run_scores)
    return Ranking(tuple(ranking.keys[place] for place in order), run_scores)


def _descending(values: Sequence[float | None], similarities: Sequence[float]) -> tuple[float, ...]:
    """Scores for a run file, whose readers sort by them: the values of what was read, and between and beside them what keeps the order.

    What was not read has no value. Between two that were it lies in the middle of theirs, and before and after them all it is as far
    from the nearest as it was in the first stage.
    """
    places = np.array([place for place, value in enumerate(values) if value is not None], dtype=np.int64)
    if not len(places):
        return tuple(similarities)
    first_stage = np.array(similarities, dtype=np.float64)
    run_scores = np.interp(np.arange(len(values)), places, [value for value in values if value is not None])
    first, last = places[0], places[-1]
    run_scores[:first] += first_stage[:first] - first_stage[first]
    run_scores[last + 1 :] += first_stage[last + 1 :] - first_stage[last]
    return tuple(np.minimum.accumulate(run_scores).tolist())  # interpolation may round upwards


def _best_possible(ranking: Ranking, grades: Grades, *, depth: int) -> Ranking:
    """Scores stay where they are: this is no run that anybody made."""
    head = sorted(ranking.keys[:depth], key=lambda key: -max(0, grades.get(key, 0)))
    return Ranking((*head, *ranking.keys[depth:]), ranking.run_scores)
