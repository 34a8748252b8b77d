"""Which index a segment gets: a pure function of rows, width and memory.

Exact search reads every fp16 row: at 512 dimensions some 3.5 ms for 100,000 rows on one core, and it is always right. Past that an
inverted file reads a share of the rows, in codes that fit the memory, and the first candidates are re-scored with the fp16 rows (refine),
which stay on disk and in the page cache. Between the codes the choice is by memory alone: 8-bit scalars lose almost nothing, RaBitQ (Gao
and Long, SIGMOD 2024) needs a deeper refine, product quantisation is for what fits in no other way.

What is built is for any reader. A reader with a GPU may hold the rows themselves there and search them exactly, whatever index the segment
has: that is decided when it is searched, by what is left of the GPU's memory (`belongs_on_device`).
"""

import math
from dataclasses import dataclass

from sightline.types import Embeddings

EXACT_MAX_ROWS = 50_000
"""Rows that are searched exactly, in under 2 ms at 512 dimensions."""

DEVICE_MIN_ROWS = 10_000
"""Fewer are searched by one core in 0.4 ms at 512 dimensions; a dozen kernels, two copies and their wait cost about as much."""

DEVICE_MEMORY_SHARE = 0.5
"""Of the memory that is free on a GPU when it is first asked; networks that are loaded later, their batches and searches take the rest."""

_TRAINING_ROWS_PER_CELL = 39
"""FAISS warns below this; more hardly moves the centroids."""


@dataclass(frozen=True, slots=True)
class _Coding:
    factory: str
    code_bytes: int
    refine_factor: int
    reason: str


@dataclass(frozen=True, slots=True)
class IndexPlan:
    """What to build."""

    factory: str | None  # FAISS factory string; None: exact search
    nlist: int
    refine_factor: int  # candidates a result, re-scored with the fp16 rows
    memory_bytes: int  # that the index takes, not counting the fp16 rows on disk
    reason: str


@dataclass(frozen=True, slots=True, eq=False)
class TuningQueries:
    """Embeddings to tune an index with, and how much of the hubness bias they take off."""

    xq: Embeddings
    kind: str  # in words: "text queries"
    target_recall: float
    weight: float = 0.0

    def __str__(self) -> str:
        return f"{len(self.xq)} {self.kind}" + (f", {self.weight:g} of the hubness bias taken off" if self.weight else "")


def plan_index(num_rows: int, index_dim: int, *, memory_bytes: int, exact_max_rows: int = EXACT_MAX_ROWS) -> IndexPlan:
    """The index for a segment of `num_rows` that may take `memory_bytes`; `index_dim` is the width that is indexed (`SegmentRows`)."""
    exact_bytes = 2 * index_dim * num_rows
    if num_rows <= exact_max_rows:
        reason = f"{num_rows:,} rows: at most {exact_max_rows:,} are searched exactly"
        return IndexPlan(None, 0, 1, exact_bytes, reason)
    nlist = num_cells(num_rows)
    overhead_bytes = 8 * num_rows + 4 * index_dim * nlist  # the rows' numbers, the cells' centroids
    codings = _codings(index_dim)
    coding = next((c for c in codings if c.code_bytes * num_rows + overhead_bytes <= memory_bytes), codings[-1])
    index_bytes = coding.code_bytes * num_rows + overhead_bytes
    reason = f"{num_rows:,} rows of {index_dim}: {coding.reason} {memory_bytes / 1e9:.2f} GB ({index_bytes / 1e9:.2f} GB)"
    return IndexPlan(f"IVF{nlist},{coding.factory}", nlist, coding.refine_factor, index_bytes, reason)


def belongs_on_device(num_rows: int, index_dim: int, *, left_bytes: int, min_rows: int = DEVICE_MIN_ROWS) -> bool:
    """Whether a segment is to be searched on a GPU where its rows may take `left_bytes` more."""
    return num_rows >= min_rows and device_bytes(num_rows, index_dim) <= left_bytes


def device_bytes(num_rows: int, index_dim: int) -> int:
    """What rows take on a GPU: fp16 components, and for each a byte that says whether it is dead."""
    return (2 * index_dim + 1) * num_rows


def num_cells(num_rows: int) -> int:
    """About twice the square root of `num_rows`, a power of two, and never so many that cells would be trained on too few rows."""
    most = max(1, num_rows // _TRAINING_ROWS_PER_CELL)
    wanted = 2 * math.sqrt(num_rows)
    return int(2 ** min(math.floor(math.log2(most)), round(math.log2(wanted))))


def num_training_rows(nlist: int) -> int:
    """Rows to train `nlist` cells on; 256 at least, which product quantisation needs for its 8 bits."""
    return max(nlist * 64, 39 * 256)


def _codings(index_dim: int) -> tuple[_Coding, ...]:
    """From the most faithful to the smallest; `np` leaves out the training of polysemous codes, minutes for nothing that we use."""
    dims_per_code = next(n for n in (16, 8, 4, 2, 1) if index_dim % n == 0)
    pq_codes = index_dim // dims_per_code
    return (
        _Coding("SQ8", index_dim, 4, "8-bit codes fit"),
        _Coding("RaBitQ", math.ceil(index_dim / 8) + 8, 12, "8-bit codes would not fit, 1-bit codes do fit"),
        _Coding(f"PQ{pq_codes}np", pq_codes, 24, "only product quantisation comes near"),
    )
