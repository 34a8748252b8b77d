"""Exact search on a torch device against that of the processor; torch's own "cpu" stands for a GPU where there is none."""
# ruff: noqa: E741  (D and I are FAISS's names)

import gc
import logging
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from sightline.storage import device_index
from sightline.storage.device_index import DeviceIndex, half_products
from sightline.storage.exact_index import ExactIndex, Found, search_rows
from sightline.storage.segment_rows import SegmentRows
from sightline.types import Embeddings
from tests.sightline.storage.synthetic import unit_rows

_DIM = 30  # biased rows are 32 wide
_NUM_ROWS = 3000
_BLOCK = 700  # several blocks, the last one cut off

_SUM_TOLERANCE = 1e-5
"""The same numbers, summed in another order."""


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> str:
    """Where the rows are held."""
    name: str = request.param
    return name


def some_rows(weight: float | None, *, num_rows: int = _NUM_ROWS) -> SegmentRows:
    """With biases unless `weight` is None."""
    biases = None if weight is None else np.random.default_rng(7).normal(0.2, 0.03, num_rows).astype(np.float32)
    return SegmentRows(unit_rows(num_rows, _DIM).astype(np.float16), biases)


def bitmap(is_live: NDArray[np.bool_]) -> NDArray[np.uint8]:
    return np.packbits(is_live, bitorder="little")


def live_rows(kind: str, *, num_rows: int = _NUM_ROWS) -> NDArray[np.uint8] | None:
    generator = np.random.default_rng(3)
    match kind:
        case "all":
            return None
        case "most":
            return bitmap(generator.random(num_rows) < 0.9)
        case "ten":
            return bitmap(generator.permutation(num_rows) < 10)
        case "one":
            return bitmap(np.arange(num_rows) == num_rows - 1)
        case _:
            return bitmap(np.zeros(num_rows, dtype=np.bool_))


def assert_equal(found: Found, expected: Found) -> None:
    """Similarities, and rows wherever the next similarity is not the same one."""
    width = min(found[1].shape[1], expected[1].shape[1])
    assert all((I[:, width:] < 0).all() for _, I in (found, expected))  # padding, which one may leave out
    (D, I), (exact_similarities, exact_rows) = ((D[:, :width], I[:, :width]) for D, I in (found, expected))
    is_found = I >= 0
    np.testing.assert_array_equal(is_found, exact_rows >= 0)
    np.testing.assert_allclose(D[is_found], exact_similarities[is_found], atol=_SUM_TOLERANCE)
    gaps = -np.diff(np.where(is_found, D, -9), axis=1, prepend=9)
    is_alone = is_found & (gaps > 2 * _SUM_TOLERANCE)
    is_alone[:, :-1] &= gaps[:, 1:] > 2 * _SUM_TOLERANCE
    np.testing.assert_array_equal(I[is_alone], exact_rows[is_alone])


@pytest.mark.parametrize("num_queries", [1, 5, 70])
@pytest.mark.parametrize("kind", ["all", "most", "ten", "one", "none"])
@pytest.mark.parametrize("weight", [None, 0.0, 0.5, 1.0])
def test_a_device_finds_what_the_processor_finds(
    device: str, weight: float | None, kind: str, num_queries: int, caplog: pytest.LogCaptureFixture
) -> None:
    rows, xq, live, taken = some_rows(weight), unit_rows(num_queries, _DIM, seed=1), live_rows(kind), weight or 0.0
    found = DeviceIndex(rows, device, rows_at_once=_BLOCK).search(xq, 10, live=live, weight=taken)
    assert_equal(found, ExactIndex(rows).search(xq, 10, live=live, weight=taken))
    if kind != "none":
        assert_equal(found, search_rows(rows, xq, 10, live=live, weight=taken))
    assert not caplog.records  # nothing was searched by the processor in its place


@pytest.mark.parametrize("kind", ["all", "most", "none"])
@pytest.mark.parametrize(("num_rows", "k"), [(1, 1), (1, 5), (9, 50), (100, 100), (100, 99), (3000, 2000)])
def test_any_number_of_results_may_be_asked_for(device: str, num_rows: int, k: int, kind: str) -> None:
    rows, xq, live = some_rows(0.5, num_rows=num_rows), unit_rows(3, _DIM, seed=1), live_rows(kind, num_rows=num_rows)
    D, I = DeviceIndex(rows, device, rows_at_once=_BLOCK).search(xq, k, live=live, weight=0.5)
    assert D.shape == I.shape == (3, min(k, num_rows))
    assert_equal((D, I), ExactIndex(rows).search(xq, k, live=live, weight=0.5))


def test_no_queries_find_nothing(device: str) -> None:
    D, I = DeviceIndex(some_rows(None), device).search(unit_rows(0, _DIM), 5, live=None)
    assert D.shape == I.shape == (0, 5)


_POOL = unit_rows(12, _DIM).astype(np.float16)
_POOL_QUERY = unit_rows(1, _DIM, seed=1)


@given(
    picks=st.lists(st.integers(0, 11), min_size=1, max_size=300),
    dead=st.sets(st.integers(0, 299)),
    k=st.integers(1, 20),
    rows_at_once=st.integers(1, 400),
    num_queries=st.integers(1, 3),
)
def test_equal_similarities_come_by_row(picks: list[int], dead: set[int], k: int, rows_at_once: int, num_queries: int) -> None:
    similarities = (_POOL_QUERY @ _POOL.astype(np.float32).T)[0]
    is_live = np.array([row not in dead for row in range(len(picks))])
    expected = sorted(np.flatnonzero(is_live).tolist(), key=lambda row: (-similarities[picks[row]], row))[:k]
    index = DeviceIndex(SegmentRows(_POOL[picks]), "cpu", rows_at_once=rows_at_once)
    _, I = index.search(np.repeat(_POOL_QUERY, num_queries, axis=0), k, live=bitmap(is_live))
    assert [[row for row in found if row >= 0] for found in I.tolist()] == [expected] * num_queries


@pytest.mark.parametrize(("num_copies", "is_searched_by_processor"), [(30, False), (600, False), (2000, True)])
def test_a_picture_that_is_there_many_times_is_found_in_the_order_of_its_rows(
    device: str, num_copies: int, is_searched_by_processor: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """More often than there are candidates, so that the device alone can't tell which of them are the first."""
    xq = unit_rows(2, _DIM, seed=1)
    others = unit_rows(_NUM_ROWS - num_copies, _DIM).astype(np.float16)
    others = others[others.astype(np.float32) @ xq[0] < 0.8]
    embeddings = np.concatenate((np.repeat(xq[:1], num_copies, axis=0).astype(np.float16), others))
    order = np.random.default_rng(4).permutation(len(embeddings))
    copies = np.flatnonzero(order < num_copies)
    is_live = np.ones(len(order), dtype=np.bool_)
    is_live[copies[:5]] = False
    with caplog.at_level(logging.DEBUG, logger=device_index.__name__):
        D, I = DeviceIndex(SegmentRows(embeddings[order]), device, rows_at_once=_BLOCK).search(xq, 10, live=bitmap(is_live))
    assert I[0].tolist() == copies[5:15].tolist()
    assert_equal((D[1:], I[1:]), ExactIndex(SegmentRows(embeddings[order])).search(xq[1:], 10, live=bitmap(is_live)))
    assert bool(caplog.records) is is_searched_by_processor


def test_similarities_that_differ_by_less_than_the_rounding_of_a_query_keep_their_order(device: str) -> None:
    """Rows around the query like a cone: 0.8 but for what their own rounding has made of it."""
    xq = unit_rows(1, _DIM, seed=1)
    aside = unit_rows(20_000, _DIM, seed=5)
    aside -= (aside @ xq[0])[:, np.newaxis] * xq
    embeddings = (0.8 * xq + 0.6 * aside / np.linalg.norm(aside, axis=1, keepdims=True)).astype(np.float16)
    D, I = DeviceIndex(SegmentRows(embeddings), device, rows_at_once=_BLOCK).search(xq, 10, live=None)
    oracle = embeddings.astype(np.float64) @ xq[0]
    np.testing.assert_allclose(D[0], -np.sort(-oracle)[:10], atol=1e-6)
    np.testing.assert_allclose(oracle[I[0]], D[0], atol=1e-6)


def test_two_rows_that_differ_by_less_than_the_rounding_of_a_bias_keep_their_order(device: str) -> None:
    """0.25 and 0.25 + 1e-5 are one number in fp16."""
    embeddings = np.repeat(unit_rows(1, 16), 2, axis=0).astype(np.float16)
    rows = SegmentRows(embeddings, np.array([0.25001, 0.25], dtype=np.float32))
    _, I = DeviceIndex(rows, device).search(unit_rows(1, 16), 2, live=None, weight=1.0)
    assert I.tolist() == [[1, 0]]


def test_a_bitmap_is_moved_once_and_its_mask_goes_with_it(device: str) -> None:
    index = DeviceIndex(some_rows(0.5), device)
    assert index.memory_bytes == _NUM_ROWS * 2 * 32
    live, xq = live_rows("most"), unit_rows(1, _DIM, seed=1)
    for _ in range(2):
        index.search(xq, 10, live=live, weight=0.5)
        index.search(xq, 10, live=None)
        assert index.memory_bytes == _NUM_ROWS * (2 * 32 + 1)
    del live
    gc.collect()
    assert index.memory_bytes == _NUM_ROWS * 2 * 32


def test_threads_search_at_once(device: str) -> None:
    """Each with its own queries, filter and weight, and with those of others."""
    rows = some_rows(0.5)
    index, exact = DeviceIndex(rows, device, rows_at_once=_BLOCK), ExactIndex(rows)
    lives = [live_rows(kind) for kind in ("all", "most", "ten")]

    def search(number: int) -> tuple[Found, Found]:
        xq, live, weight = unit_rows(3, _DIM, seed=number), lives[number % 3], (number % 5) / 4
        return index.search(xq, 10, live=live, weight=weight), exact.search(xq, 10, live=live, weight=weight)

    with ThreadPoolExecutor(8) as threads:
        for found, expected in threads.map(search, range(64)):
            assert_equal(found, expected)


_FULL = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 MiB.\nmore"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("CUDA error: out of memory"),
]


@pytest.mark.parametrize("error", _FULL, ids=str)
def test_a_device_that_is_full_when_it_searches_leaves_it_to_the_processor(
    error: RuntimeError, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    rows, xq, live = some_rows(0.5), unit_rows(2, _DIM, seed=1), live_rows("most")
    index = DeviceIndex(rows, "cpu")

    def fail(*tensors: torch.Tensor) -> torch.Tensor:
        raise error

    monkeypatch.setattr(device_index, "half_products", fail)
    assert_equal(index.search(xq, 10, live=live, weight=0.5), search_rows(rows, xq, 10, live=live, weight=0.5))
    assert caplog.messages == [f"the processor searches 3000 rows in place of the GPU: {str(error).splitlines()[0]}"]


def test_another_failure_of_torch_is_none_of_memory() -> None:
    index = DeviceIndex(some_rows(None), "cpu")
    with pytest.raises(RuntimeError, match="shapes"):
        index.search(unit_rows(1, _DIM + 1), 10, live=None)


@pytest.mark.parametrize("error", _FULL, ids=str)
def test_rows_that_find_no_room_are_refused(error: RuntimeError, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> torch.Tensor:
        raise error

    monkeypatch.setattr(torch, "empty", fail)
    with pytest.raises(MemoryError, match=r"out of memory|ALLOC_FAILED"):
        DeviceIndex(some_rows(None), "cpu")


def test_the_product_of_a_gpu_is_in_float32() -> None:
    """Of tensors without numbers, since the processor knows no such product."""
    queries, vectors = (torch.empty((rows, 16), dtype=torch.float16, device="meta") for rows in (3, 7))
    product = half_products(queries, vectors)
    assert (product.shape, product.dtype) == ((3, 7), torch.float32)


@pytest.mark.gpu
def test_the_product_of_a_gpu_is_that_of_the_processor() -> None:
    queries, vectors = (torch.from_numpy(unit_rows(rows, 528, seed=rows).astype(np.float16)) for rows in (3, 5000))
    product = half_products(queries.cuda(), vectors.cuda()).cpu()
    torch.testing.assert_close(product, half_products(queries, vectors), atol=_SUM_TOLERANCE, rtol=0)


@pytest.mark.gpu
@pytest.mark.parametrize("weight", [None, 0.5])
def test_a_gpu_searches_rows_of_the_usual_width(weight: float | None, caplog: pytest.LogCaptureFixture) -> None:
    embeddings: Embeddings = unit_rows(200_000, 512)
    biases = None if weight is None else np.random.default_rng(7).normal(0.2, 0.03, 200_000).astype(np.float32)
    rows, xq = SegmentRows(embeddings.astype(np.float16), biases), unit_rows(65, 512, seed=1)
    live = live_rows("most", num_rows=200_000)
    found = DeviceIndex(rows, "cuda").search(xq, 10, live=live, weight=weight or 0.0)
    assert_equal(found, ExactIndex(rows).search(xq, 10, live=live, weight=weight or 0.0))
    assert not caplog.records
