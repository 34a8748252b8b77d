"""Merging segments: dead rows are dropped and an index is built where the planner wants one.

The rows are copied in blocks in the order of their item ids, so memory is that of the index. Nothing here touches the catalogue.
"""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from sightline.storage.index_plan import TuningQueries, plan_index
from sightline.storage.live_segment import LiveSegment
from sightline.storage.patch_files import RECORDS_AT_ONCE
from sightline.storage.patches import PatchBatch, PatchFormat, empty_batch
from sightline.storage.records import BankRecord, CompactionReport, SegmentRecord
from sightline.storage.segment import INDEX, IndexCard, Manifest, SegmentBuilder, ascending_blocks
from sightline.storage.segment_rows import SegmentRows
from sightline.types import Embeddings, ItemIds, Modality

logger = logging.getLogger(__name__)

Value = TypeVar("Value", bound=np.generic)

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
class MergedRows:
    """What becomes of some segments of one modality."""

    segments: Sequence[LiveSegment]
    bank: BankRecord | None  # that all of them have their hubness biases from; None: the rows keep none
    patch_format: PatchFormat | None  # of the patches that any of them has

    @property
    def num_live(self) -> int:
        """Rows that are not dropped."""
        return sum(segment.num_live for segment in self.segments)

    @property
    def row_bytes(self) -> int:
        """What a row takes at the most: embedding, codes of an index, ids, bias and patches."""
        return 3 * self.segments[0].files.manifest.embedding_dim + 20 + (self.patch_format.bytes_per_image if self.patch_format else 0)


def merge_groups(segments: Sequence[LiveSegment]) -> list[list[LiveSegment]]:
    """Which segments of one modality may become one.

    All of them, unless some have patches of another fusion encoder than others, as they do while patches are made anew: a segment has
    patches of one, and none may be lost on the way. Segments without any go with the newest.
    """
    by_format: dict[PatchFormat | None, list[LiveSegment]] = {}
    for segment in segments:
        by_format.setdefault(segment.files.manifest.patches, []).append(segment)
    without = by_format.pop(None, [])
    groups = list(by_format.values())
    return [*groups[:-1], [*groups[-1], *without]] if groups else [without] if without else []


def merged_rows(segments: Sequence[LiveSegment], *, bank: BankRecord | None) -> MergedRows:
    """`segments` as they will be merged; biases are kept where all of them are from `bank`, the collection's own."""
    is_biased = bank is not None and all(s.files.manifest.bank_fingerprint == bank.fingerprint for s in segments)
    formats = {segment.files.manifest.patches for segment in segments} - {None}
    assert len(formats) <= 1, "see `merge_groups`"
    return MergedRows(segments, bank if is_biased else None, next(iter(formats), None))


def tuning_queries(merged: MergedRows, asked: Embeddings | None, *, other_modality: Sequence[LiveSegment]) -> TuningQueries:
    """What to tune the index with: queries evenly drawn from those `asked`, which are texts, or stored rows for want of any."""
    if asked is None:
        return stored_queries(merged, other_modality)
    modality = merged.segments[0].modality
    weight = merged.bank.strength if merged.bank is not None and modality is not Modality.TEXT else 0.0
    return TuningQueries(asked[:: max(1, len(asked) // _TUNING_QUERIES)][:_TUNING_QUERIES], "queries", TARGET_RECALL, weight)


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


def merge_segments(folder: Path, merged: MergedRows, *, options: IndexOptions, tuning: TuningQueries) -> tuple[Manifest, str]:
    """Write the live rows of some segments (one modality, at least one row) into a new one; returns manifest and its SHA-256.

    Raises `CorruptSegment` before it writes where a source is damaged, `OutOfSpace`.
    """
    for segment in merged.segments:
        segment.files.check_rows()
        segment.files.check_patches()
    first = merged.segments[0].files.manifest
    builder = SegmentBuilder(
        folder,
        modality=first.modality,
        embedding_dim=first.embedding_dim,
        bank_fingerprint=None if merged.bank is None else merged.bank.fingerprint,
        patch_format=merged.patch_format,
    )
    order = _merged_order(merged.segments)
    try:
        for block in _merged_blocks(merged, order):
            builder.append(*block)
        if merged.patch_format is not None:
            for rows, batch in _merged_patches(merged.segments, order, merged.patch_format):
                builder.append_patches(rows, batch)
        index = build_planned_index(folder, builder.finish_rows(), options=options, tuning=tuning)
        return builder.seal(index=index)
    except BaseException:
        builder.abandon()
        raise


def build_planned_index(folder: Path, rows: SegmentRows, *, options: IndexOptions, tuning: TuningQueries) -> IndexCard | None:
    """Write the index that the planner chooses for `rows`, not synced; None where they are searched exactly."""
    plan = plan_index(len(rows), rows.index_dim, memory_bytes=options.memory_bytes, exact_max_rows=options.exact_max_rows)
    logger.info("index planned folder=%s %s", folder.name, plan.reason)
    if plan.factory is None:
        return None
    from sightline.storage.vector_index import build_index, save_index, tune  # and with it FAISS, a quarter of a second

    index = build_index(rows, plan)
    card = tune(index, tuning, factory=plan.factory)
    save_index(index, folder / INDEX)
    return card


def stored_queries(merged: MergedRows, other_modality: Sequence[LiveSegment]) -> TuningQueries:
    """Queries for want of real ones: rows of the other modality, as a search across the two asks, else mixtures of two rows."""
    if sum(segment.num_live for segment in other_modality) >= _MIN_TUNING_QUERIES:
        weight = 0.0 if merged.bank is None else merged.bank.strength
        return TuningQueries(_sample(other_modality), "stored rows of the other modality", _TARGET_RECALL_OF_STORED_ROWS, weight)
    rows = _sample(merged.segments)
    mixed = rows + np.roll(rows, 1, axis=0)  # (queries, dim); a row itself would find its own cell and nothing else
    mixed /= np.maximum(np.linalg.norm(mixed, axis=1, keepdims=True), 1e-12)
    return TuningQueries(mixed, "mixtures of stored rows", _TARGET_RECALL_OF_STORED_ROWS)


@dataclass(frozen=True, slots=True, eq=False)
class _MergedOrder:
    """All live rows by ascending item id; an item is alive in one segment only. (rows,) each."""

    item_ids: ItemIds
    owners: NDArray[np.int32]  # which of the segments
    rows: NDArray[np.int64]  # in that segment


def _merged_order(segments: Sequence[LiveSegment]) -> _MergedOrder:
    live_rows = [_live_rows(segment) for segment in segments]
    item_ids = np.concatenate([s.files.item_ids[rows] for s, rows in zip(segments, live_rows, strict=True)])
    owners = np.concatenate([np.full(len(rows), number, dtype=np.int32) for number, rows in enumerate(live_rows)])
    order = np.argsort(item_ids, kind="stable")
    return _MergedOrder(item_ids[order], owners[order], np.concatenate(live_rows)[order])


def _merged_blocks(merged: MergedRows, order: _MergedOrder) -> Iterator[tuple[ItemIds, NDArray[np.float16], NDArray[np.float32] | None]]:
    segments = merged.segments
    for block in ascending_blocks(len(order.rows)):
        owners, rows = order.owners[block], order.rows[block]
        embeddings = _gather([segment.files.embeddings for segment in segments], owners, rows)
        if merged.bank is None:
            yield order.item_ids[block], embeddings, None
        else:
            biases = [segment.files.biases for segment in segments if segment.files.biases is not None]  # all of them
            yield order.item_ids[block], embeddings, _gather(biases, owners, rows)


def _merged_patches(
    segments: Sequence[LiveSegment], order: _MergedOrder, patch_format: PatchFormat
) -> Iterator[tuple[NDArray[np.int64], PatchBatch]]:
    """New rows that have patches, ascending, and the patches."""
    for start in range(0, len(order.rows), RECORDS_AT_ONCE):
        owners, rows = order.owners[start : start + RECORDS_AT_ONCE], order.rows[start : start + RECORDS_AT_ONCE]
        merged = empty_batch(patch_format, len(rows))
        has_some = np.zeros(len(rows), dtype=np.bool_)
        for owner in np.unique(owners):
            patches = segments[owner].patches_of(patch_format.fusion_fingerprint)
            if patches is not None:
                places = np.flatnonzero(owners == owner)
                places = places[patches.has(rows[places])]
                merged.put(places, patches.gather(rows[places]))
                has_some[places] = True
        if has_some.any():
            yield start + np.flatnonzero(has_some), merged.at(has_some)


def _gather(arrays: Sequence[NDArray[Value]], owners: NDArray[np.int32], rows: NDArray[np.int64]) -> NDArray[Value]:
    """`rows` of the arrays that own them, in order."""
    gathered = np.empty((len(rows), *arrays[0].shape[1:]), dtype=arrays[0].dtype)
    for owner in np.unique(owners):
        is_owned = owners == owner
        gathered[is_owned] = arrays[owner][rows[is_owned]]
    return gathered


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


def total_of(reports: Sequence[CompactionReport], *, live_rows: int) -> CompactionReport:
    """What several merges did together."""
    return CompactionReport(
        merged_segments=sum(report.merged_segments for report in reports),
        dropped_rows=sum(report.dropped_rows for report in reports),
        live_rows=live_rows,
        freed_bytes=sum(report.freed_bytes for report in reports),
        index_descriptions=tuple(text for report in reports for text in report.index_descriptions),
    )
