"""Exact search on a torch device: a product in half precision finds candidates, the fp16 rows on the host have the last word.

FAISS's own GPU indexes take no selector (facebookresearch/faiss#3114, #3924; those of cuVS do, which the build that pip installs is
without), so they can leave out neither deleted rows nor those that a filter does not pass. A matrix product can, and takes the memory
that it needs where the networks take theirs.

The device ranks by queries that are rounded to fp16. By how much that can move a similarity is known for each query (Cauchy and Schwarz),
so it is known too whether the candidates must hold the best rows. Where they need not, because more rows than there are candidates are as
good as the last result (a picture that is there a thousand times), more are taken, and at the end the processor searches: the result is
always that of exact search, ties by row.
"""
# ruff: noqa: E741  (D and I are FAISS's names)

import logging
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sightline.storage.exact_index import Found, RowMatrix, Similarities, refine, search_rows
from sightline.storage.segment import ascending_blocks
from sightline.storage.segment_rows import SegmentRows
from sightline.types import Embeddings

logger = logging.getLogger(__name__)

_QUERIES_AT_ONCE = 64

_ROWS_AT_ONCE = 2**20
"""At 512 dimensions 1 GB of them: some 0.3 ms for a card that reads 3 TB/s, to which launching a block's kernels adds little."""

_PRODUCTS_AT_ONCE = 2**24
"""Similarities that a search holds at once, 67 MB: those of a million rows for 16 queries, of a quarter of a million for 64."""

_MIN_SPARE = 32
"""Candidates beyond `k`. Between ranks 10 and 42 of a million rows similarities fall by some hundredths, and rounding a query to fp16
moves none by more than 5e-4."""

_DEEPER = 16
"""The second attempt's candidates for one of the first's: 672 for ten results, whose rows are read in some 0.3 ms."""

_SUM_ERROR = 2.0**-22
"""Of sums in float32, for each component: 2**-24 where they are rounded, as on the host, twice that where tensor cores cut them off."""


class DeviceIndex:
    """All rows of a segment on a device, in fp16. Thread-safe: one search at a time computes there."""

    def __init__(self, rows: SegmentRows, device: str, *, rows_at_once: int = _ROWS_AT_ONCE) -> None:
        """Raises `MemoryError` where the device has no room."""
        assert len(rows)
        self._rows = rows
        self._rows_at_once = rows_at_once
        with translated_memory_errors():
            self._vectors, self._max_norm = _moved(rows, torch.device(device))
        self._masks = _DeadMasks(len(rows), self._vectors.device)
        self._lock = threading.Lock()

    @property
    def memory_bytes(self) -> int:
        """On the device: rows and masks, not what a search takes while it runs."""
        return self._vectors.nbytes + self._masks.memory_bytes

    def search(self, xq: Embeddings, k: int, *, live: NDArray[np.uint8] | None, weight: float = 0.0) -> Found:
        """As `ExactIndex.search`, of at most as many columns as there are rows.

        A bitmap is moved to the device once: it must not change, and its mask stays there for as long as the bitmap is in use. A device
        that is full meanwhile costs a warning and a search by the processor.
        """
        k = min(k, len(self._rows))
        D, I = np.empty((len(xq), k), dtype=np.float32), np.empty((len(xq), k), dtype=np.int64)
        try:
            with translated_memory_errors():
                for start in range(0, len(xq), _QUERIES_AT_ONCE):
                    block = slice(start, start + _QUERIES_AT_ONCE)
                    D[block], I[block] = self._search(xq[block], k, live, weight)
        except MemoryError as error:
            logger.warning("the processor searches %d rows in place of the GPU: %s", len(self._rows), error)
            return search_rows(self._rows, xq, k, live=live, weight=weight)
        return D, I

    def _search(self, xq: Embeddings, k: int, live: NDArray[np.uint8] | None, weight: float) -> Found:
        D, I = np.empty((len(xq), k), dtype=np.float32), np.empty((len(xq), k), dtype=np.int64)
        unsure = np.arange(len(xq))
        depth = k + max(k, _MIN_SPARE)
        for its_depth in (min(depth, len(self._rows)), min(_DEEPER * depth, len(self._rows))):
            (D[unsure], I[unsure]), is_sure = self._attempt(xq[unsure], k, its_depth, live, weight)
            unsure = unsure[~is_sure]
            if not len(unsure):
                return D, I
        logger.debug("%d queries have more than %d rows that may be among their best %d", len(unsure), _DEEPER * depth, k)
        D[unsure], I[unsure] = search_rows(self._rows, xq[unsure], k, live=live, weight=weight)
        return D, I

    def _attempt(
        self, xq: Embeddings, k: int, depth: int, live: NDArray[np.uint8] | None, weight: float
    ) -> tuple[Found, NDArray[np.bool_]]:
        """The `k` best of `depth` candidates, and for which queries they must be the best of all rows."""
        queries = self._rows.float16_queries(xq, weight=weight)
        rounded = queries.astype(np.float16)
        products, candidates = self._candidates(rounded, depth, live)
        D, I = refine(candidates, self._rows, xq, k, weight=weight)
        rounding = np.linalg.norm(queries - rounded.astype(np.float32), axis=1)
        errors = self._max_norm * (rounding + _SUM_ERROR * queries.shape[1] * np.linalg.norm(queries, axis=1))  # (queries,)
        has_all = (depth == len(self._rows)) | (candidates[:, -1] < 0)
        return (D, I), has_all | (D[:, -1] > products[:, -1] + errors)

    @torch.inference_mode()
    def _candidates(self, xq: NDArray[np.float16], depth: int, live: NDArray[np.uint8] | None) -> tuple[Similarities, RowMatrix]:
        """(queries, depth) products and rows, the highest first; -inf and -1 where fewer rows are alive."""
        with self._lock:
            queries = torch.from_numpy(xq).to(self._vectors.device)  # (queries, index_dim)
            is_dead = None if live is None else self._masks.of(live)
            best = queries.new_empty((len(xq), 0), dtype=torch.float32)
            rows = queries.new_empty((len(xq), 0), dtype=torch.int64)
            rows_at_once = min(self._rows_at_once, _PRODUCTS_AT_ONCE // len(xq))
            for start in range(0, len(self._vectors), rows_at_once):
                products = half_products(queries, self._vectors[start : start + rows_at_once])  # (queries, block)
                if is_dead is not None:
                    products.masked_fill_(is_dead[start : start + rows_at_once], -torch.inf)
                of_block, places = products.topk(min(depth, products.shape[1]), dim=1)
                best, rows = torch.cat((best, of_block), dim=1), torch.cat((rows, places + start), dim=1)
                best, places = best.topk(min(depth, best.shape[1]), dim=1)
                rows = rows.gather(1, places)
            D, I = best.cpu().numpy(), rows.cpu().numpy()
        return D, np.where(np.isneginf(D), -1, I)


class _DeadMasks:
    """For bitmaps of live rows, masks of the others on a device, each kept for as long as its bitmap is."""

    def __init__(self, num_rows: int, device: torch.device) -> None:
        self._num_rows = num_rows
        self._device = device
        self._by_bitmap: dict[int, Tensor] = {}  # by identity: a snapshot asks with one and the same array

    @property
    def memory_bytes(self) -> int:
        return sum(mask.nbytes for mask in list(self._by_bitmap.values()))

    def of(self, live: NDArray[np.uint8]) -> Tensor:
        """(rows,) bool."""
        mask = self._by_bitmap.get(id(live))
        if mask is None:
            is_dead = np.unpackbits(live, count=self._num_rows, bitorder="little") == 0
            mask = torch.from_numpy(is_dead).to(self._device)
            self._by_bitmap[id(live)] = mask
            weakref.finalize(live, self._by_bitmap.pop, id(live), None).atexit = False
        return mask


@contextmanager
def translated_memory_errors() -> Iterator[None]:
    """Turn what torch raises where a device is full into `MemoryError`: cuBLAS, which allocates by itself, has no class for it."""
    try:
        yield
    except RuntimeError as error:
        is_full = isinstance(error, torch.OutOfMemoryError) or "out of memory" in str(error) or "ALLOC_FAILED" in str(error)
        if not is_full:
            raise
        raise MemoryError(_first_line(error)) from error


def free_bytes(device: str) -> int:
    """What is free on a CUDA device; 0 where torch can't use it."""
    if torch.version.cuda is None or not torch.cuda.is_available():
        return 0
    try:
        return torch.cuda.mem_get_info(device)[0]
    except RuntimeError as error:  # another process has it to itself, or has filled it to the last byte
        logger.warning("nothing is searched on the GPU: %s", _first_line(error))
        return 0


def half_products(queries: Tensor, vectors: Tensor) -> Tensor:
    """(queries, dim) and (rows, dim), both in fp16 -> (queries, rows) in float32, in which they are summed."""
    if queries.device.type == "cpu":  # which knows no such product
        return queries.float() @ vectors.float().T  # (queries, rows)
    return torch.mm(queries, vectors.T, out_dtype=torch.float32)  # (queries, rows)


def _moved(rows: SegmentRows, device: torch.device) -> tuple[Tensor, float]:
    """(rows, index_dim) fp16 on the device, copied block by block, and the length of the longest."""
    vectors = torch.empty((len(rows), rows.index_dim), dtype=torch.float16, device=device)
    max_norm = torch.zeros((), device=device)
    for block in ascending_blocks(len(rows)):
        vectors[block] = torch.from_numpy(np.array(rows[block].float16_vectors()))  # a copy, for torch takes no read-only maps
        norms = torch.linalg.vector_norm(vectors[block], dim=1, dtype=torch.float32)  # (block,)
        max_norm = torch.maximum(max_norm, norms.max())
    return vectors, float(max_norm)


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]
