"""Exact and approximate search against brute force."""

import numpy as np
import pytest

from sightline.storage.exact_index import ExactIndex, merge_found, search_rows, search_selected
from sightline.storage.index_plan import IndexPlan
from sightline.storage.vector_index import build_index, load_index, save_index, tune
from tests.sightline.storage.synthetic import SIMILARITY_TOLERANCE, best_similarities, unit_rows

_DIM = 32


def _bitmap(is_live: np.ndarray) -> np.ndarray:
    return np.packbits(is_live, bitorder="little")


@pytest.mark.parametrize("num_queries", [1, 5, 40])
@pytest.mark.parametrize("num_rows", [1, 7, 1000, 40_000])
def test_each_way_of_exact_search_finds_what_brute_force_finds(num_rows: int, num_queries: int) -> None:
    rows, xq = unit_rows(num_rows, _DIM), unit_rows(num_queries, _DIM, seed=1)
    is_live = np.random.default_rng(2).random(num_rows) < 0.7
    is_live[0] = True
    live_rows = np.flatnonzero(is_live)
    stored, k = rows.astype(np.float16), min(10, len(live_rows))
    expected = best_similarities(rows[is_live], xq, k)
    for D, found in (
        ExactIndex(stored).search(xq, k, live=_bitmap(is_live)),
        search_rows(stored, xq, k, live=_bitmap(is_live)),
        search_selected(live_rows, stored, xq, k),
    ):
        np.testing.assert_allclose(D, expected, atol=SIMILARITY_TOLERANCE)
        assert is_live[found].all()
        np.testing.assert_allclose(np.einsum("qd,qkd->qk", xq, stored[found].astype(np.float32)), D, atol=1e-5)


def test_too_few_live_rows_are_padded_at_the_end() -> None:
    rows = unit_rows(20, _DIM)
    is_live = np.arange(20) == 3
    for num_queries in (1, 30):
        _, found = search_rows(rows.astype(np.float16), unit_rows(num_queries, _DIM), 5, live=_bitmap(is_live))
        assert (found[:, 0] == 3).all()
        assert (found[:, 1:] == -1).all()


def test_merging_keeps_the_best_and_breaks_ties_by_row() -> None:
    first = np.array([[0.9, 0.5]], np.float32), np.array([[7, 2]])
    second = np.array([[0.9, 0.6, 0.1]], np.float32), np.array([[4, 9, 1]])
    D, rows = merge_found(first, second, 3)
    assert rows.tolist() == [[4, 7, 9]]
    np.testing.assert_array_equal(D, np.array([[0.9, 0.9, 0.6]], np.float32))


@pytest.mark.parametrize(("codes", "refine_factor", "floor"), [("SQ8", 4, 0.93), ("RaBitQ", 12, 0.85), ("PQ8np", 24, 0.85)])
def test_an_index_reaches_its_recall_and_returns_exact_similarities(
    tmp_path_factory: pytest.TempPathFactory, codes: str, refine_factor: int, floor: float
) -> None:
    rows, xq = unit_rows(10_000, _DIM), unit_rows(60, _DIM, seed=1)
    stored = rows.astype(np.float16)
    index = build_index(stored, IndexPlan(f"IVF64,{codes}", 64, refine_factor, 0, ""))
    card = tune(index, xq[:30], factory="x", kind_of_queries="queries", target_recall=0.95)
    path = tmp_path_factory.mktemp("index") / "index.faiss"
    save_index(index, path)
    loaded = load_index(np.fromfile(path, dtype=np.uint8), stored, card)
    D, found = loaded.search(xq, 10, live=None)
    np.testing.assert_allclose(np.einsum("qd,qkd->qk", xq, stored[found].astype(np.float32)), D, atol=1e-5)
    expected = best_similarities(stored.astype(np.float32), xq, 10)
    assert np.mean(expected[:, -1:] <= D + 1e-5) >= floor
    assert 1 <= card.nprobe <= 64
    assert card.ann_recall >= 0.95
    is_live = np.arange(10_000) % 3 == 0
    _, found = loaded.search(xq, 10, live=_bitmap(is_live))
    assert (found[found >= 0] % 3 == 0).all()


def test_building_twice_gives_the_same_index() -> None:
    stored, xq = unit_rows(3000, _DIM).astype(np.float16), unit_rows(5, _DIM, seed=1)
    plan = IndexPlan("IVF16,SQ8", 16, 4, 0, "")
    first, second = (build_index(stored, plan).search(xq, 10, live=None) for _ in range(2))
    np.testing.assert_array_equal(first[0], second[0])
