"""Exact rankings against a sort, with ties everywhere."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from search.exact_ranking import best_rows, rank_exactly


@given(
    st.integers(1, 9).flatmap(
        lambda columns: hnp.arrays(
            np.float32, st.tuples(st.integers(1, 5), st.just(columns)), elements=st.sampled_from([-0.5, 0.0, 0.5, 1.0])
        )
    ),
    st.integers(1, 10),
)
def test_the_best_rows_are_those_of_a_stable_sort(similarities: np.ndarray, depth: int) -> None:
    for row, found in zip(similarities, best_rows(similarities, depth=depth), strict=True):
        assert found.tolist() == sorted(range(len(row)), key=lambda column: (-row[column], column))[:depth]


def test_equal_similarities_are_ordered_by_key_wherever_they_stand() -> None:
    same = np.ones((3, 1), dtype=np.float32)
    found = rank_exactly(same[:1], same, queries=["q"], keys=["b", "c", "a"], depth=2)
    assert found["q"].keys == ("a", "b")


def test_what_is_taken_off_decides_the_order() -> None:
    xq = np.array([[1.0, 0.0]], dtype=np.float32)
    xb = np.array([[0.9, 0.0], [0.8, 0.0], [0.7, 0.0]], dtype=np.float32)
    taken_off = np.array([0.3, 0.0, 0.0], dtype=np.float32)
    found = rank_exactly(xq, xb, queries=["q"], keys=["c", "b", "a"], depth=3, taken_off=taken_off)["q"]
    assert found.keys == ("b", "a", "c")
    np.testing.assert_allclose(found.run_scores, [0.8, 0.7, 0.6], atol=1e-6)


def test_blocks_of_queries_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = np.random.default_rng(0)
    xq, xb = (generator.normal(size=(rows, 8)).astype(np.float32) for rows in (23, 40))
    queries, keys = [f"q{row}" for row in range(23)], [f"k{row}" for row in generator.permutation(40)]
    whole = rank_exactly(xq, xb, queries=queries, keys=keys, depth=7)

    monkeypatch.setattr("search.exact_ranking._SIMILARITIES_AT_ONCE", 5 * 40)
    in_blocks = rank_exactly(xq, xb, queries=queries, keys=keys, depth=7)

    assert list(in_blocks) == queries
    for query, ranking in whole.items():
        expected = np.sort(xb @ xq[queries.index(query)])[::-1][:7]
        for found in (ranking, in_blocks[query]):
            # A product of matrices of another shape may round in another order.
            np.testing.assert_allclose(found.run_scores, expected, atol=1e-5)
        assert set(ranking.keys) == {keys[row] for row in np.argsort(-(xb @ xq[queries.index(query)]))[:7]}
