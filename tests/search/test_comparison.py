"""The paired bootstrap against every resample there is, and what must hold of two runs side by side."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from search.comparison import MIN_GROUPS, NUM_RESAMPLES, Uncertainty, compare_runs, paired_bootstrap
from search.evaluation import Judgements, Metric, Ranking, Run
from sightline.errors import InvalidInput

RIGHT, WRONG = ("right", "wrong"), ("wrong", "right")


def run_of(*rankings: tuple[str, ...]) -> Run:
    return Run("text-to-image", {f"q{number}": Ranking(keys, (1.0,) * len(keys)) for number, keys in enumerate(rankings)})


def judgements_for(num_queries: int) -> Judgements:
    """Every query has a relevant key of its own beside `right`, so that each is a group."""
    return {f"q{number}": {"right": 1, f"own {number}": 1} for number in range(num_queries)}


def every_resample(values: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Means of all draws with replacement, (groups ** groups,), from sums and sizes of groups."""
    draws = np.array(list(itertools.product(range(len(values)), repeat=len(values))))
    return np.asarray(values[draws].sum(axis=1) / sizes[draws].sum(axis=1))


@pytest.mark.parametrize("values", [[0.0, 100.0, 100.0, 0.0, 50.0], [100.0, -50.0, 100.0, 0.0, 100.0], [1.0, 2.0, 3.0, 4.0, 5.0]])
def test_the_bootstrap_agrees_with_the_enumeration_of_all_resamples(values: list[float]) -> None:
    column = np.array(values)
    means = every_resample(column, np.ones(5))
    exact_p = float((np.abs(means - column.mean()) >= abs(column.mean()) - 1e-9).mean())

    (found,) = paired_bootstrap(column[:, None], np.arange(5))

    # Four standard errors of a share over the resamples, and the one that the p-value adds.
    assert found.p_value == pytest.approx(exact_p, abs=4 * np.sqrt(exact_p * (1 - exact_p) / NUM_RESAMPLES) + 1 / NUM_RESAMPLES)
    # Quantiles of the same discrete distribution, read a little to either side of 2.5 and 97.5 %.
    low, high = (np.quantile(means, share) for share in ([0.018, 0.032], [0.968, 0.982]))
    assert low[0] <= found.low <= low[1]
    assert high[0] <= found.high <= high[1]


def test_queries_of_one_group_are_drawn_together() -> None:
    values, groups = np.array([10.0, 10.0, 10.0, -4.0, 6.0]), np.array([0, 0, 0, 1, 2])
    means = every_resample(np.array([30.0, -4.0, 6.0]), np.array([3, 1, 1]))

    (found,) = paired_bootstrap(values[:, None], groups)

    # Each of the 27 draws has more than 2.5 % of all, so the ends of the interval are draws themselves.
    low, high = np.quantile(means, [0.025, 0.975], method="inverted_cdf")
    np.testing.assert_allclose([found.low, found.high], [low, high])


def test_the_same_draws_come_again_and_serve_every_metric() -> None:
    values = np.random.default_rng(1).normal(size=(50, 1))
    one, other = paired_bootstrap(np.hstack([values, values]), np.arange(50))
    (again,) = paired_bootstrap(values, np.arange(50))
    (differently,) = paired_bootstrap(values, np.arange(50), seed=1)
    assert one == other
    # Sums over columns of another number may round in another order.
    np.testing.assert_allclose([again.low, again.high, again.p_value], [one.low, one.high, one.p_value])
    assert differently.low != pytest.approx(one.low)


def test_blocks_of_draws_are_like_one_block(monkeypatch: pytest.MonkeyPatch) -> None:
    values, groups = np.random.default_rng(2).normal(size=(30, 2)), np.repeat(np.arange(15), 2)
    whole = paired_bootstrap(values, groups, num_resamples=100)
    monkeypatch.setattr("search.comparison._DRAWS_AT_ONCE", 7 * 15)
    assert paired_bootstrap(values, groups, num_resamples=100) == whole


@given(st.lists(st.sampled_from([-100.0, 0.0, 100.0]), min_size=2, max_size=12))
def test_turned_round_the_interval_turns_and_the_p_value_stays(values: list[float]) -> None:
    column, groups = np.array(values)[:, None], np.arange(len(values))
    (there,) = paired_bootstrap(column, groups, num_resamples=200)
    (back,) = paired_bootstrap(-column, groups, num_resamples=200)

    assert there.p_value == back.p_value
    np.testing.assert_allclose([there.low, there.high], [-back.high, -back.low])


def test_a_run_is_as_good_as_itself() -> None:
    run = run_of(*[RIGHT, WRONG] * 10)
    compared = compare_runs(run, run, judgements=judgements_for(20))

    assert all(each.points == 0 for each in compared.differences)
    assert {each.uncertainty for each in compared.differences} == {Uncertainty(low=0.0, high=0.0, p_value=1.0)}


def test_what_is_better_everywhere_is_significantly_better() -> None:
    compared = compare_runs(run_of(*[RIGHT] * 20), run_of(*[WRONG] * 20), judgements=judgements_for(20))

    hit_rate = compared.differences[0]
    assert (hit_rate.metric, hit_rate.former, hit_rate.present, hit_rate.points) == (Metric.HIT_RATE_AT_1, 0, 100, 100)
    assert hit_rate.uncertainty == Uncertainty(100, 100, p_value=1 / (NUM_RESAMPLES + 1))
    assert (compared.num_queries, compared.num_groups, compared.depth) == (20, 20, 2)


def test_captions_of_one_picture_count_as_one() -> None:
    judgements = {f"q{number}": {f"picture {number // 5}": 1} for number in range(50)}
    compared = compare_runs(run_of(*[RIGHT] * 50), run_of(*[WRONG] * 50), judgements=judgements)
    assert (compared.num_queries, compared.num_groups) == (50, 10)


def test_too_few_queries_give_a_difference_without_an_interval() -> None:
    num_queries = MIN_GROUPS - 1
    compared = compare_runs(run_of(*[RIGHT] * num_queries), run_of(*[WRONG] * num_queries), judgements=judgements_for(num_queries))
    assert compared.differences[0].points == 100
    assert {each.uncertainty for each in compared.differences} == {None}


def test_only_queries_that_both_answer_are_compared() -> None:
    compared = compare_runs(run_of(*[RIGHT] * 20), run_of(*[RIGHT] * 15), judgements=judgements_for(18))
    assert compared.num_queries == 15


def test_runs_that_share_no_query_are_refused() -> None:
    other = Run("text-to-image", {"another": Ranking(("right",), (1.0,))})
    with pytest.raises(InvalidInput, match=r"share no query: the former one has queries like 'another', .* 'q0' and 'q1'"):
        compare_runs(run_of(RIGHT, RIGHT), other, judgements=judgements_for(2))


def test_the_deeper_run_gains_nothing_by_its_depth() -> None:
    deep = run_of(*[("a", "b", "right")] * 20)
    shallow = run_of(*[("a", "b")] * 20)
    compared = compare_runs(deep, shallow, judgements=judgements_for(20))
    assert compared.depth == 2
    assert all(each.points == 0 for each in compared.differences)
