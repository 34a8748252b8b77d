"""The FAISS wrapper for approximate search: building, tuning and searching an inverted file over a segment's fp16 rows.

What FAISS finds in its codes is re-scored with the fp16 rows (refine), so that similarities are those of an exact search and only
recall is approximate. nprobe is tuned against exact search with queries of the kind that will be asked: a text's embedding lies off the
distribution of image embeddings, and an nprobe tuned with stored rows misses by far. Rows with a hubness bias are indexed with it, and
tuned with queries that take it off.
"""
# ruff: noqa: E741  (D and I are FAISS's names)

import logging
import time
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from sightline.storage.exact_index import Found, refine, search_rows, selector_of_bitmap
from sightline.storage.index_plan import IndexPlan, TuningQueries, num_training_rows
from sightline.storage.sealed_files import translated_disk_errors
from sightline.storage.segment import IndexCard, ascending_blocks
from sightline.storage.segment_rows import SegmentRows
from sightline.types import Embeddings

logger = logging.getLogger(__name__)

RECALL_K = 10
_SEED = 1234
_CLUSTERING_ROUNDS = (
    10  # FAISS's own for cells; for product quantisation it takes 25, for no recall that could be measured after the refine
)
_MAX_REFINE_FACTOR = 64
"""640 rows re-scored for ten results take some 0.3 ms from the page cache."""

_EQUAL_SIMILARITY = 1e-6
"""Two rows this near are the same answer; tied rows must not count as missed."""


class VectorIndex:
    """A FAISS inverted file in memory, over the rows of one segment."""

    def __init__(self, index: Any, rows: SegmentRows, *, nprobe: int, refine_factor: int) -> None:
        self._index = index
        self.rows = rows
        self.nlist = int(index.nlist)
        self.nprobe = nprobe
        self.refine_factor = refine_factor

    def search(self, xq: Embeddings, k: int, *, live: NDArray[np.uint8] | None, weight: float = 0.0, nprobe: int | None = None) -> Found:
        """The `k` best rows a query that were found; `live` and padding as in `ExactIndex.search`."""
        params = _parameters(self._index, live, min(nprobe or self.nprobe, self.nlist))
        depth = min(k * self.refine_factor, self._index.ntotal)
        _, I = self._index.search(self.rows.float32_queries(xq, weight=weight), depth, params=params)
        return refine(I, self.rows, xq, k, weight=weight)


def build_index(rows: SegmentRows, plan: IndexPlan) -> VectorIndex:
    """Train and fill the planned index; memory is the index and one sample of rows. Deterministic for the same rows."""
    assert plan.factory is not None
    started = time.perf_counter()
    num_rows = len(rows)
    index: Any = faiss.index_factory(rows.index_dim, plan.factory, faiss.METRIC_INNER_PRODUCT)
    for clustering in [index.cp, *([index.pq.cp] if isinstance(index, faiss.IndexIVFPQ) else [])]:
        clustering.niter = _CLUSTERING_ROUNDS
        clustering.seed = _SEED
    index.cp.max_points_per_centroid = 64
    sample_size = min(num_rows, num_training_rows(plan.nlist))
    sample = np.sort(np.random.default_rng(_SEED).choice(num_rows, sample_size, replace=False))
    index.train(rows.float32_vectors(sample))
    for block in ascending_blocks(num_rows):
        index.add(rows.float32_vectors(block))
    logger.info("index built factory=%s rows=%d seconds=%.1f", plan.factory, num_rows, time.perf_counter() - started)
    return VectorIndex(index, rows, nprobe=1, refine_factor=plan.refine_factor)


def tune(index: VectorIndex, queries: TuningQueries, *, factory: str) -> IndexCard:
    """The smallest nprobe whose measured recall@10 reaches the target.

    Where even all cells fall short the codes are too coarse for the depth of the refine, so that is doubled; what the most of both
    reaches is on the card, whatever it is.
    """
    target_recall = queries.target_recall
    k = min(RECALL_K, len(index.rows))
    exact, _ = search_rows(index.rows, queries.xq, k, live=None, weight=queries.weight)
    while _recall(index, queries, exact, index.nlist) < target_recall and index.refine_factor < _MAX_REFINE_FACTOR:
        index.refine_factor *= 2
    low, high = 0, 1  # recall(low) < target <= recall(high), once high has stopped growing
    recalls: dict[int, float] = {}
    while (recalls.setdefault(high, _recall(index, queries, exact, high)) < target_recall) and high < index.nlist:
        low, high = high, min(2 * high, index.nlist)
    while high - low > 1 and high - low > low // 8:
        middle = (low + high) // 2
        recalls[middle] = _recall(index, queries, exact, middle)
        low, high = (middle, high) if recalls[middle] < target_recall else (low, middle)
    index.nprobe = high
    return IndexCard(factory, high, index.refine_factor, recalls[high], k, str(queries))


def save_index(index: VectorIndex, path: Path) -> None:
    """Write the index; not synced. Raises `OutOfSpace`."""
    with translated_disk_errors(path.parent):
        faiss.serialize_index(index._index).tofile(path)


def load_index(content: NDArray[np.uint8], rows: SegmentRows, card: IndexCard) -> VectorIndex:
    """The index of a segment from its checked bytes."""
    return VectorIndex(faiss.deserialize_index(content), rows, nprobe=card.nprobe, refine_factor=card.refine_factor)


def _recall(index: VectorIndex, queries: TuningQueries, exact: NDArray[np.float32], nprobe: int) -> float:
    D, _ = index.search(queries.xq, exact.shape[1], live=None, weight=queries.weight, nprobe=nprobe)
    return float(np.mean(exact[:, -1:] - _EQUAL_SIMILARITY <= D))


def _parameters(index: Any, live: NDArray[np.uint8] | None, nprobe: int) -> Any:
    kind: Any = faiss.IVFRaBitQSearchParameters if isinstance(index, faiss.IndexIVFRaBitQ) else faiss.SearchParametersIVF
    return kind(nprobe=nprobe) if live is None else kind(nprobe=nprobe, sel=selector_of_bitmap(live))
