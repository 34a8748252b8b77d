"""Runs after a second look beside a plain reading of what should come out: one query, one candidate after the other."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from search.evaluation import Metric, Ranking, Run
from search.reranked_runs import best_possible, curve_depths, mean_percent, rerank_curve, reranked_run, run_by_logit

NAN = math.nan


def logits_of(*values: float) -> np.ndarray:
    return np.array(values, dtype=np.float32)


@st.composite
def read_runs(draw: st.DrawFn) -> tuple[Run, dict[str, np.ndarray]]:
    """One to three queries of up to a dozen candidates, some of which could not be read; few values, so that many are equal."""
    rankings, logits = {}, {}
    for number in range(draw(st.integers(1, 3))):
        num_keys = draw(st.integers(1, 12))
        similarities = sorted(draw(st.lists(st.integers(-8, 8), min_size=num_keys, max_size=num_keys)), reverse=True)
        rankings[f"q{number}"] = Ranking(tuple(f"k{place}" for place in range(num_keys)), tuple(value / 8 for value in similarities))
        read = draw(st.lists(st.one_of(st.integers(-4, 4).map(float), st.just(NAN)), max_size=num_keys))
        logits[f"q{number}"] = logits_of(*read)
    return Run("first", rankings), logits


def plainly_reranked(ranking: Ranking, logits: list[float], *, depth: int, weight: float) -> list[str]:
    """Candidate by candidate: the places of those that were read are given out again, best first."""
    read = [place for place, logit in enumerate(logits[:depth]) if not math.isnan(logit)]
    best_first = list(read)
    for end in range(len(best_first) - 1, 0, -1):  # bubble sort: equal neighbours are not exchanged
        for place in range(end):
            left, right = (ranking.run_scores[each] + weight * logits[each] for each in best_first[place : place + 2])
            if right > left:
                best_first[place], best_first[place + 1] = best_first[place + 1], best_first[place]
    keys = list(ranking.keys)
    for place, chosen in zip(read, best_first, strict=True):
        keys[place] = ranking.keys[chosen]
    return keys


@given(read_runs(), st.integers(1, 14), st.sampled_from([0.0, 0.125, 1.0]))
def test_the_order_is_that_of_a_plain_reading(read: tuple[Run, dict[str, np.ndarray]], depth: int, weight: float) -> None:
    first, logits = read
    second = reranked_run(first, logits, name="second", depth=depth, weight=weight)

    assert second.name == "second"
    for query, ranking in first.ranking_by_query.items():
        expected = plainly_reranked(ranking, logits[query].tolist(), depth=depth, weight=weight)
        assert list(second.ranking_by_query[query].keys) == expected


@given(read_runs(), st.integers(1, 14), st.sampled_from([0.0, 0.125, 1.0]))
def test_run_scores_fall_and_are_what_was_made_of_both_stages(read: tuple[Run, dict[str, np.ndarray]], depth: int, weight: float) -> None:
    first, logits = read
    second = reranked_run(first, logits, name="second", depth=depth, weight=weight)

    for query, ranking in second.ranking_by_query.items():
        assert all(higher >= lower for higher, lower in zip(ranking.run_scores, ranking.run_scores[1:], strict=False))
        before = first.ranking_by_query[query]
        logit_by_key = dict(zip(before.keys, logits[query].tolist()[:depth], strict=False))
        similarity_by_key = dict(zip(before.keys, before.run_scores, strict=True))
        for key, run_score in zip(ranking.keys, ranking.run_scores, strict=True):
            if not math.isnan(logit_by_key.get(key, NAN)):
                assert run_score == pytest.approx(similarity_by_key[key] + weight * logit_by_key[key], abs=1e-12)


def test_scores_of_what_was_not_read_lie_where_they_belong() -> None:
    first = Run("first", {"q": Ranking(tuple("abcdef"), (0.9, 0.8, 0.7, 0.6, 0.5, 0.2))})
    logits = {"q": logits_of(NAN, 1.0, NAN, 3.0)}
    (ranking,) = reranked_run(first, logits, name="second", depth=4, weight=0.5).ranking_by_query.values()

    assert ranking.keys == ("a", "d", "c", "b", "e", "f")
    # Read: d 0.6 + 1.5, b 0.8 + 0.5. Not read: a 0.1 before the place of b; c halfway; e and f 0.1 and 0.4 after the place of d.
    np.testing.assert_allclose(ranking.run_scores, (2.2, 2.1, 1.7, 1.3, 1.2, 0.9))


def test_without_anything_read_a_run_is_as_it_was() -> None:
    first = Run("first", {"q": Ranking(("a", "b"), (0.9, 0.8)), "r": Ranking((), ())})
    for logits in ({"q": logits_of(NAN, NAN)}, {}):
        second = reranked_run(first, logits, name="first", depth=2, weight=1.0)
        assert second == first


def test_by_logit_alone_similarities_only_chose_the_candidates() -> None:
    first = Run("first", {"q": Ranking(("a", "b", "c", "d"), (0.9, 0.8, 0.7, 0.6))})
    (ranking,) = run_by_logit(first, {"q": logits_of(-1.0, 2.0, 2.0)}, name="logit", depth=3).ranking_by_query.values()
    assert ranking.keys == ("b", "c", "a", "d")
    np.testing.assert_allclose(ranking.run_scores, (2.0, 2.0, -1.0, -1.1))


@given(read_runs(), st.integers(1, 14))
def test_no_second_look_surpasses_the_best_order(read: tuple[Run, dict[str, np.ndarray]], depth: int) -> None:
    first, logits = read
    judgements = {query: {"k1": 1, "k3": 2, "k5": 0} for query in first.ranking_by_query}
    ideal = best_possible(first, judgements, depth=depth)
    second = reranked_run(first, logits, name="second", depth=depth, weight=1.0)
    for metric in (Metric.HIT_RATE_AT_1, Metric.PRECISION_AT_10, Metric.NDCG_AT_10):
        assert mean_percent(ideal, judgements, metric) >= mean_percent(second, judgements, metric) - 1e-9


def test_with_one_right_answer_the_best_order_has_the_hit_rate_at_its_depth() -> None:
    run = Run("first", {f"q{rank}": Ranking(tuple("abcde"), (0.5, 0.4, 0.3, 0.2, 0.1)) for rank in range(5)})
    judgements = {f"q{rank}": {"abcde"[rank]: 1} for rank in range(5)}
    assert [mean_percent(best_possible(run, judgements, depth=d), judgements, Metric.HIT_RATE_AT_1) for d in (1, 2, 4, 9)] == [
        20.0,
        40.0,
        80.0,
        100.0,
    ]


@given(read_runs())
def test_a_curve_at_a_depth_is_reranking_to_that_depth(read: tuple[Run, dict[str, np.ndarray]]) -> None:
    first, logits = read
    judgements = {query: {"k2": 1} for query in first.ranking_by_query}
    points = rerank_curve(first, logits, judgements=judgements, metric=Metric.HIT_RATE_AT_1, depths=(1, 3, 20), weight=0.5)

    assert [point.depth for point in points] == [1, 3, 20]
    for point in points:
        cut = {query: row[: point.depth] for query, row in logits.items()}  # as if no more had been read
        second = reranked_run(first, cut, name="second", depth=point.depth, weight=0.5)
        assert point.percent == mean_percent(second, judgements, Metric.HIT_RATE_AT_1)
        assert point.ceiling >= point.percent


def test_depths_of_a_curve_go_as_far_as_candidates_and_wishes() -> None:
    assert curve_depths(rerank_depth=64, deepest=64, num_candidates=1000) == [4, 8, 16, 32, 64]
    assert curve_depths(rerank_depth=64, deepest=256, num_candidates=1000) == [4, 8, 16, 32, 64, 128, 256]
    assert curve_depths(rerank_depth=50, deepest=256, num_candidates=100) == [4, 8, 16, 32, 50, 64, 100]
    assert curve_depths(rerank_depth=64, deepest=256, num_candidates=36) == [4, 8, 16, 32, 36]
    assert curve_depths(rerank_depth=3, deepest=3, num_candidates=36) == [3]
    assert curve_depths(rerank_depth=64, deepest=64, num_candidates=2) == [2]
