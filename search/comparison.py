"""Whether one run is better than another: the difference of each metric with an interval and a p-value, from a paired bootstrap.

Both runs answered the same queries, so queries are drawn with both their values. Queries that have the same relevant keys, such as the
captions of one picture, stand or fall together; they are drawn together, since as independent draws they would make the interval too
narrow. The p-value is the share of resamples that lie as far from the mean as the mean lies from no difference (Efron and Tibshirani
1993, section 16.4; for retrieval Sakai, SIGIR 2006), two-sided, each draw from one fixed seed.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from search.evaluation import Judgements, Metric, Run, query_values
from sightline.errors import InvalidInput

NUM_RESAMPLES = 10_000
"""The smallest p-value is one over it, and the ends of the interval settle within a hundredth of its width."""

MIN_GROUPS = 10
"""Fewer independent queries say too little of their spread: a bootstrap over them finds almost anything significant."""

CONFIDENCE = 0.95

_DRAWS_AT_ONCE = 2_000_000  # 16 MB of row numbers
_ROUNDING = 1e-9  # percentage points: sums in another order must not decide whether two differences are equally far


@dataclass(frozen=True, slots=True)
class Uncertainty:
    """What a bootstrap says of a difference."""

    low: float  # the 95 % interval, in percentage points
    high: float
    p_value: float  # two-sided


@dataclass(frozen=True, slots=True)
class Difference:
    """One metric of two runs."""

    metric: Metric
    former: float  # percent
    present: float
    points: float  # present minus former
    uncertainty: Uncertainty | None  # None where there are too few independent queries for one


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two runs over the queries that both answer."""

    name: str  # of the present run
    num_queries: int
    num_groups: int  # of queries with the same relevant keys, which were drawn together
    depth: int  # keys a query that were looked at: as many as both runs keep
    differences: tuple[Difference, ...]


def compare_runs(present: Run, former: Run, *, judgements: Judgements) -> Comparison:
    """Every metric of both runs, over the judged queries that both answer and to the depth of the shallower run.

    Raises `InvalidInput` where no such query exists.
    """
    shared = {q: grades for q, grades in judgements.items() if q in present.ranking_by_query and q in former.ranking_by_query}
    if not shared:
        raise InvalidInput(
            f"the two runs {present.name!r} share no query: the former one has {_examples(former)}, the present one {_examples(present)}; "
            "compare runs over the same source and judgements"
        )
    depth = min(present.depth, former.depth)
    now = query_values(present.cut(depth), shared)
    before = query_values(former.cut(depth), shared)
    groups = _groups(shared)
    num_groups = int(groups.max()) + 1
    table = np.stack([now[metric] - before[metric] for metric in Metric], axis=1)  # (queries, metrics)
    found = paired_bootstrap(table, groups) if num_groups >= MIN_GROUPS else [None] * len(Metric)
    differences = tuple(
        Difference(metric, float(before[metric].mean()), float(now[metric].mean()), points=float(points), uncertainty=uncertainty)
        for metric, points, uncertainty in zip(Metric, table.mean(axis=0), found, strict=True)
    )
    return Comparison(present.name, len(shared), num_groups, depth, differences)


def paired_bootstrap(
    differences: NDArray[np.float64], groups: NDArray[np.int64], *, num_resamples: int = NUM_RESAMPLES, seed: int = 0
) -> list[Uncertainty]:
    """The uncertainty of each column's mean.

    Args:
        differences: (queries, metrics).
        groups: (queries,) numbers from 0 without a gap; queries of one group are drawn together.
    """
    num_groups = int(groups.max()) + 1
    sums = np.zeros((num_groups, differences.shape[1]))
    np.add.at(sums, groups, differences)
    means = _resampled_means(sums, np.bincount(groups), num_resamples=num_resamples, seed=seed)  # (resamples, metrics)
    mean = differences.mean(axis=0)
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(means, [tail, 1 - tail], axis=0)
    num_as_far = (np.abs(means - mean) >= np.abs(mean) - _ROUNDING).sum(axis=0)
    p_values = (1 + num_as_far) / (1 + num_resamples)
    return [Uncertainty(float(a), float(b), float(p)) for a, b, p in zip(low, high, p_values, strict=True)]


def _resampled_means(sums: NDArray[np.float64], sizes: NDArray[np.int64], *, num_resamples: int, seed: int) -> NDArray[np.float64]:
    """Means over queries of groups drawn with replacement, (resamples, metrics); the same draws for every metric."""
    num_groups = len(sizes)
    generator = np.random.default_rng(seed)
    rows_at_once = max(1, _DRAWS_AT_ONCE // num_groups)
    means = np.empty((num_resamples, sums.shape[1]))
    for start in range(0, num_resamples, rows_at_once):
        num_rows = min(rows_at_once, num_resamples - start)
        drawn = generator.integers(num_groups, size=(num_rows, num_groups))
        drawn += num_groups * np.arange(num_rows)[:, None]  # each resample counts in cells of its own
        counts = np.bincount(drawn.ravel(), minlength=num_rows * num_groups).reshape(num_rows, num_groups)
        means[start : start + num_rows] = (counts @ sums) / (counts @ sizes)[:, None]
    return means


def _groups(judgements: Judgements) -> NDArray[np.int64]:
    """(queries,) the same number for queries with the same relevant keys."""
    number_by_relevant: dict[frozenset[str], int] = {}
    numbers = [
        number_by_relevant.setdefault(frozenset(key for key, grade in grades.items() if grade > 0), len(number_by_relevant))
        for grades in judgements.values()
    ]
    return np.asarray(numbers, dtype=np.int64)


def _examples(run: Run) -> str:
    queries: Sequence[str] = list(run.ranking_by_query)[:2]
    return "queries like " + " and ".join(repr(query) for query in queries) if queries else "no query at all"
