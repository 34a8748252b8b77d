"""How good a ranking is: metrics as pure functions of a run and of judgements, both by key and as TREC knows them.

A run is what was found: for each query the first keys of its ranking. Judgements (qrels) are what should have been found. Every way to
search gives a run, so a second stage stands beside the first as a second run over the same judgements (`search.comparison`).

All values are in percent. Definitions are those of trec_eval: gains of nDCG are the grades themselves, precision@10 divides by ten also
where fewer were found, a query that the run does not answer counts as nothing found. One thing differs: the order is the run's own and
trec_eval sorts equal scores by key, descending. Runs made here order equal similarities as the search does, by item id, or by key where
there are no ids.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from sightline.metrics import REPORTED_KS

MIN_DEPTH = max(REPORTED_KS)
"""A run has to keep so many keys a query for its metrics to mean what they say."""

Grades = Mapping[str, int]
"""Key -> how relevant it is, from 1; 0 and below is irrelevant, as is every key that is not named."""

Judgements = Mapping[str, Grades]
"""Query id -> grades, at least one of them above 0."""


class Metric(StrEnum):
    """What is measured, a percentage each."""

    HIT_RATE_AT_1 = "hit_rate_at_1"  # any relevant key among the first k: what CLIP papers print as R@k
    HIT_RATE_AT_5 = "hit_rate_at_5"
    HIT_RATE_AT_10 = "hit_rate_at_10"
    MRR = "mrr"  # of the first relevant key; nothing for one beyond the run's depth
    NDCG_AT_10 = "ndcg_at_10"
    PRECISION_AT_10 = "precision_at_10"


@dataclass(frozen=True, slots=True)
class Ranking:
    """What was found for one query, best first, each key once."""

    keys: tuple[str, ...]
    run_scores: tuple[float, ...]  # what the run is ordered by, descending: the similarity, after reranking what the two stages make of it


@dataclass(frozen=True, slots=True)
class Run:
    """Rankings by query id, under the name that a run file has in its last column."""

    name: str
    ranking_by_query: Mapping[str, Ranking]

    @property
    def depth(self) -> int:
        """Keys of the longest ranking."""
        return max((len(ranking.keys) for ranking in self.ranking_by_query.values()), default=0)

    def cut(self, depth: int) -> "Run":
        """The first `depth` keys of each ranking."""
        cut = {query: Ranking(each.keys[:depth], each.run_scores[:depth]) for query, each in self.ranking_by_query.items()}
        return Run(self.name, cut)


@dataclass(frozen=True, slots=True)
class QueryTimes:
    """Mean milliseconds a query."""

    embed_ms: float
    search_ms: float
    rerank_ms: float = 0.0  # of the second look, in a run that took one

    @property
    def total_ms(self) -> float:
        """All of them."""
        return self.embed_ms + self.search_ms + self.rerank_ms


@dataclass(frozen=True, slots=True)
class MeasuredRun:
    """A run, what it is judged by, and what it cost."""

    run: Run
    judgements: Judgements
    num_candidates: int  # how many items a query was compared with
    times: QueryTimes
    plan: str  # how the candidates were found

    def percent_by_metric(self) -> dict[Metric, float]:
        """Means over the judged queries."""
        return {metric: float(values.mean()) for metric, values in query_values(self.run, self.judgements).items()}

    def num_without_hit(self) -> int:
        """Queries with nothing right among the first ten."""
        return int((query_values(self.run, self.judgements)[Metric.HIT_RATE_AT_10] == 0).sum())


def query_values(run: Run, judgements: Judgements) -> dict[Metric, NDArray[np.float64]]:
    """Every metric of every judged query, in percent: (queries,) in the order of `judgements`, which must not be empty."""
    nothing = Ranking((), ())
    rows = [_values(run.ranking_by_query.get(query, nothing).keys, grades) for query, grades in judgements.items()]
    table = 100.0 * np.asarray(rows, dtype=np.float64)  # (queries, metrics)
    return dict(zip(Metric, table.T, strict=True))


def _values(keys: Sequence[str], grades: Grades) -> tuple[float, ...]:
    """The metrics of one query in the order of `Metric`, each in [0, 1]."""
    gains = [max(0, grades.get(key, 0)) for key in keys]
    first_rank = next((rank for rank, gain in enumerate(gains, start=1) if gain), math.inf)
    ideal = _discounted(sorted((grade for grade in grades.values() if grade > 0), reverse=True))
    assert ideal > 0, "judgements hold queries with something relevant only"
    hits = (float(first_rank <= k) for k in REPORTED_KS)
    return (*hits, 1 / first_rank, _discounted(gains) / ideal, sum(gain > 0 for gain in gains[:10]) / 10)


def _discounted(gains: Sequence[int]) -> float:
    """Discounted cumulative gain of the first ten."""
    return sum(gain / math.log2(rank + 1) for rank, gain in enumerate(gains[:10], start=1))
