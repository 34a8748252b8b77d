"""Merging segments: dead rows are dropped and an index is built where the planner wants one.

The rows are copied in blocks in the order of their item ids, so memory is that of the index. Nothing here touches the catalogue.
"""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sightline.storage.index_plan import IndexPlan, plan_index
from sightline.storage.records import SegmentRecord
from sightline.storage.segment import EMBEDDINGS, INDEX, ITEM_IDS, SUM, IndexCard, Manifest, SegmentBuilder, SegmentFiles, ascending_blocks
from sightline.storage.snapshot import LiveSegment
from sightline.types import Embeddings, ItemIds

logger = logging.getLogger(__name__)

MANY_SEGMENTS = 8
"""Each small segment costs a search some 30 microseconds; eight, a quarter of a millisecond."""

_DEAD_SHARE = 0.25
"""Dead rows cost room and, under a selector, time."""

_UNINDEXED_SHARE = 0.25
"""Of the indexed rows: an index is trained again once so many rows wait beside it, which keeps the work of all trainings linear."""

_TUNING_QUERIES = 256
_MIN_TUNING_QUERIES = 32
TARGET_RECALL = 0.95
_TARGET_RECALL_OF_STORED_ROWS = 0.99
"""Rows as queries find their neighbours more easily than texts do, so the mark is higher."""

_SEED = 4321


@dataclass(frozen=True, slots=True)
class IndexOptions:
    """What an index may take."""

    memory_bytes: int
    exact_max_rows: int


@dataclass(frozen=True, slots=True)
class TuningQueries:
    """Embeddings to tune an index with."""

    xq: Embeddings
    kind: str  # in words: "text queries"
    target_recall: float


def asked_queries(xq: Embeddings) -> TuningQueries:
    """Queries of the kind that will be asked, evenly drawn from those given."""
    return TuningQueries(xq[:: max(1, len(xq) // _TUNING_QUERIES)], "queries", TARGET_RECALL)


def worth_merging(segments: Sequence[SegmentRecord], *, exact_max_rows: int) -> list[SegmentRecord]:
    """Which live segments of one modality to merge now, by their number, dead rows and missing indexes; often none."""
    indexed = [s for s in segments if s.index_description is not None]
    unindexed = [s for s in segments if s.index_description is None]
    waiting_rows = sum(s.num_rows - s.num_tombstones for s in unindexed)
    indexed_rows = sum(s.num_rows for s in indexed)
    if waiting_rows > max(exact_max_rows, _UNINDEXED_SHARE * indexed_rows):
        return list(segments)
    mostly_dead = [s for s in segments if s.num_tombstones > _DEAD_SHARE * s.num_rows]
    if any(s.index_description is not None for s in mostly_dead):
        return list(segments)
    return unindexed if len(unindexed) >= MANY_SEGMENTS else mostly_dead


def merge_segments(
    folder: Path, segments: Sequence[LiveSegment], *, options: IndexOptions, tuning: TuningQueries | None
) -> tuple[Manifest, str]:
    """Write the live rows of `segments` (one modality, at least one row) into a new segment; returns manifest and its SHA-256.

    Raises `CorruptSegment` before it writes where a source is damaged, `OutOfSpace`.
    """
    for segment in segments:
        segment.files.check((EMBEDDINGS, ITEM_IDS, SUM))
    first = segments[0].files.manifest
    builder = SegmentBuilder(folder, modality=first.modality, embedding_dim=first.embedding_dim)
    try:
        for item_ids, embeddings in _merged_blocks(segments):
            builder.append(item_ids, embeddings)
        embeddings = builder.finish_rows()
        plan = plan_index(*embeddings.shape, memory_bytes=options.memory_bytes, exact_max_rows=options.exact_max_rows)
        logger.info("index planned folder=%s %s", folder.name, plan.reason)
        index = None if plan.factory is None else _build_index(folder, embeddings, plan, tuning)
        return builder.seal(index=index)
    except BaseException:
        builder.abandon()
        raise


def stored_queries(segments: Sequence[LiveSegment], other_modality: Sequence[LiveSegment]) -> TuningQueries:
    """Queries for want of real ones: rows of the other modality, as a search across the two asks, else mixtures of two rows."""
    if sum(segment.num_live for segment in other_modality) >= _MIN_TUNING_QUERIES:
        return TuningQueries(_sample(other_modality), "stored rows of the other modality", _TARGET_RECALL_OF_STORED_ROWS)
    rows = _sample(segments)
    mixed = rows + np.roll(rows, 1, axis=0)  # (queries, dim); a row itself would find its own cell and nothing else
    mixed /= np.maximum(np.linalg.norm(mixed, axis=1, keepdims=True), 1e-12)
    return TuningQueries(mixed, "mixtures of stored rows", _TARGET_RECALL_OF_STORED_ROWS)


def _build_index(folder: Path, embeddings: NDArray[np.float16], plan: IndexPlan, tuning: TuningQueries | None) -> IndexCard:
    from sightline.storage.vector_index import build_index, save_index, tune

    assert tuning is not None
    assert plan.factory is not None
    index = build_index(embeddings, plan)
    card = tune(index, tuning.xq[:_TUNING_QUERIES], factory=plan.factory, kind_of_queries=tuning.kind, target_recall=tuning.target_recall)
    save_index(index, folder / INDEX)
    return card


def _merged_blocks(segments: Sequence[LiveSegment]) -> Iterator[tuple[ItemIds, NDArray[np.float16]]]:
    """All live rows by ascending item id; an item is alive in one segment only."""
    live_rows = [_live_rows(segment) for segment in segments]
    item_ids = np.concatenate([s.files.item_ids[rows] for s, rows in zip(segments, live_rows, strict=True)])
    owners = np.concatenate([np.full(len(rows), number, dtype=np.int32) for number, rows in enumerate(live_rows)])
    rows = np.concatenate(live_rows)
    order = np.argsort(item_ids, kind="stable")
    for block in ascending_blocks(len(order)):
        picked = order[block]
        yield item_ids[picked], _gather([segment.files for segment in segments], owners[picked], rows[picked])


def _gather(files: Sequence[SegmentFiles], owners: NDArray[np.int32], rows: NDArray[np.int64]) -> NDArray[np.float16]:
    embeddings = np.empty((len(rows), files[0].manifest.embedding_dim), dtype=np.float16)
    for owner in np.unique(owners):
        is_owned = owners == owner
        embeddings[is_owned] = files[owner].embeddings[rows[is_owned]]
    return embeddings


def _live_rows(segment: LiveSegment) -> NDArray[np.int64]:
    return np.arange(segment.files.num_rows) if segment.live_mask is None else np.flatnonzero(segment.live_mask)


def _sample(segments: Sequence[LiveSegment]) -> Embeddings:
    """Rows drawn evenly from all segments; the same ones every time."""
    generator = np.random.default_rng(_SEED)
    num_live = sum(segment.num_live for segment in segments)
    parts = []
    for segment in segments:
        rows = _live_rows(segment)
        wanted = min(len(rows), int(np.ceil(_TUNING_QUERIES * len(rows) / num_live)))
        parts.append(segment.files.gather(np.sort(generator.choice(rows, wanted, replace=False))))
    return np.concatenate(parts)[:_TUNING_QUERIES]
