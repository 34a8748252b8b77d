"""Metrics of a run against a hand-computed table and against trec_eval."""

import math
from random import Random

import numpy as np
import pytest
import pytrec_eval
from hypothesis import given
from hypothesis import strategies as st

from search.evaluation import Judgements, MeasuredRun, Metric, QueryTimes, Ranking, Run, query_values

KEYS = [f"k{number:02}" for number in range(14)]


def run_of(**keys_by_query: str) -> Run:
    """Rankings from keys that are one letter each."""
    return Run(
        "by hand",
        {query: Ranking(tuple(keys), tuple(-float(place) for place in range(len(keys)))) for query, keys in keys_by_query.items()},
    )


def test_a_table_by_hand() -> None:
    run = run_of(first="abcdefghijk", third="abcdefghijk", eleventh="abcdefghijk", never="abc", two="abcd")
    judgements = {
        "first": {"a": 1},
        "third": {"c": 1},
        "eleventh": {"k": 1},
        "never": {"z": 1},
        "two": {"b": 1, "d": 2, "a": 0, "c": -1},
        "unanswered": {"a": 1},
    }

    values = query_values(run, judgements)

    expected: dict[Metric, list[float]] = {
        Metric.HIT_RATE_AT_1: [100, 0, 0, 0, 0, 0],
        Metric.HIT_RATE_AT_5: [100, 100, 0, 0, 100, 0],
        Metric.HIT_RATE_AT_10: [100, 100, 0, 0, 100, 0],
        Metric.MRR: [100, 100 / 3, 100 / 11, 0, 50, 0],
        # Gains 0, 1, 0, 2 where 2, 1 are ideal: (1 / log2(3) + 2 / log2(5)) / (2 / log2(2) + 1 / log2(3)).
        Metric.NDCG_AT_10: [100, 100 / 2, 0, 0, 100 * (1 / math.log2(3) + 2 / math.log2(5)) / (2 + 1 / math.log2(3)), 0],
        Metric.PRECISION_AT_10: [10, 10, 0, 0, 20, 0],
    }
    assert list(values) == list(expected)
    for metric, column in expected.items():
        np.testing.assert_allclose(values[metric], column, atol=1e-12, err_msg=metric)


def test_a_measured_run_tells_means_and_queries_with_nothing_right() -> None:
    run = run_of(q="ab", r="ab")
    measured = MeasuredRun(run, {"q": {"a": 1}, "r": {"c": 1}}, 3, QueryTimes(1.0, 2.0), plan="exact")

    assert measured.percent_by_metric()[Metric.MRR] == 50.0
    assert measured.num_without_hit() == 1
    assert measured.times.total_ms == 3.0
    assert run.depth == 2
    assert Run("empty", {}).depth == 0


def judged_runs() -> st.SearchStrategy[tuple[Run, Judgements]]:
    """Runs of one to four queries over fourteen keys, not all of them found, with grades from -1 to 3."""
    rankings = st.lists(st.sampled_from(KEYS), unique=True, min_size=1).map(
        lambda keys: Ranking(tuple(keys), tuple(-float(place) for place in range(len(keys))))
    )
    grades = st.dictionaries(st.sampled_from(KEYS), st.integers(-1, 3), min_size=1).filter(lambda found: max(found.values()) > 0)
    queries = st.integers(1, 4).map(lambda number: [f"q{each}" for each in range(number)])
    return queries.flatmap(
        lambda names: st.tuples(
            st.fixed_dictionaries(dict.fromkeys(names, rankings)).map(lambda found: Run("any", found)),
            st.fixed_dictionaries(dict.fromkeys(names, grades)),
        )
    )


TREC_NAMES = {
    Metric.HIT_RATE_AT_1: "success_1",
    Metric.HIT_RATE_AT_5: "success_5",
    Metric.HIT_RATE_AT_10: "success_10",
    Metric.MRR: "recip_rank",
    Metric.NDCG_AT_10: "ndcg_cut_10",
    Metric.PRECISION_AT_10: "P_10",
}


@given(judged_runs())
def test_every_metric_is_that_of_trec_eval(judged: tuple[Run, Judgements]) -> None:
    run, judgements = judged
    evaluator = pytrec_eval.RelevanceEvaluator(judgements, {"success.1,5,10", "recip_rank", "ndcg_cut.10", "P.10"})
    scores = {query: dict(zip(each.keys, each.run_scores, strict=True)) for query, each in run.ranking_by_query.items()}
    expected = evaluator.evaluate(scores)

    for metric, values in query_values(run, judgements).items():
        oracle = [100 * expected[query][TREC_NAMES[metric]] for query in judgements]
        np.testing.assert_allclose(values, oracle, atol=1e-9, err_msg=metric)


@given(judged_runs(), st.randoms(use_true_random=False))
def test_moving_a_relevant_key_up_never_harms(judged: tuple[Run, Judgements], random: Random) -> None:
    run, judgements = judged
    query = next(iter(judgements))
    keys = list(run.ranking_by_query[query].keys)
    places = [
        place for place, key in enumerate(keys) if place and judgements[query].get(key, 0) > judgements[query].get(keys[place - 1], 0)
    ]
    if not places:
        return
    place = random.choice(places)
    keys[place - 1], keys[place] = keys[place], keys[place - 1]
    better = Run("better", {**run.ranking_by_query, query: Ranking(tuple(keys), run.ranking_by_query[query].run_scores)})

    for metric, values in query_values(better, judgements).items():
        assert values[0] >= query_values(run, judgements)[metric][0] - 1e-9


def test_judgements_without_anything_relevant_are_a_mistake_of_the_caller() -> None:
    with pytest.raises(AssertionError, match="something relevant"):
        query_values(run_of(q="a"), {"q": {"a": 0}})
