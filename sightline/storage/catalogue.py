"""Every question that is asked of the catalogue; what changes it is in `catalogue_writes`."""

import difflib
import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from sqlalchemy import ColumnElement, Row, Select, bindparam, func, select
from sqlalchemy.orm import InstrumentedAttribute

from sightline.errors import CollectionNotFound, ItemNotFound
from sightline.storage.database import Database
from sightline.storage.quick_reads import QuickSelect
from sightline.storage.records import (
    BankRecord,
    CollectionRecord,
    FoundItem,
    ItemRecord,
    KnownItem,
    LedgerEntry,
    RunCounts,
    RunRecord,
    SegmentRecord,
    SegmentState,
    StoredBank,
)
from sightline.storage.tables import (
    AliasRow,
    CatalogueRow,
    CollectionRow,
    IndexingRunRow,
    ItemRow,
    LedgerEntryRow,
    QueryBankRow,
    SegmentRow,
    TombstoneRow,
)
from sightline.types import CollectionId, ItemId, ItemIds, Modality, RunId, SegmentId

MAX_PARAMETERS = 30_000
"""In one statement: SQLite takes 32,766, PostgreSQL 65,535."""

_STREAM_ROWS = 5_000

_Value = TypeVar("_Value")
_Row = Row[*tuple[Any, ...]]
_Select = Select[*tuple[Any, ...]]

_COLLECTION: _Select = select(
    CollectionRow.collection_id,
    CollectionRow.name,
    CollectionRow.encoder_name,
    CollectionRow.encoder_fingerprint,
    CollectionRow.embedding_dim,
    CollectionRow.generation,
    CollectionRow.created_at,
    CollectionRow.description,
)
_BANK: _Select = select(
    QueryBankRow.modality, QueryBankRow.fingerprint, QueryBankRow.strength, QueryBankRow.num_queries, QueryBankRow.origin
).order_by(QueryBankRow.modality)
_SEGMENT: _Select = select(
    SegmentRow.segment_id,
    SegmentRow.collection_id,
    SegmentRow.folder,
    SegmentRow.modality,
    SegmentRow.state,
    SegmentRow.num_rows,
    SegmentRow.num_tombstones,
    SegmentRow.size_bytes,
    SegmentRow.manifest_sha256,
    SegmentRow.index_description,
    SegmentRow.ann_recall,
    SegmentRow.num_patched_rows,
    SegmentRow.patch_bytes,
    SegmentRow.fusion_fingerprint,
)
ITEM: _Select = select(
    ItemRow.item_id,
    ItemRow.key,
    ItemRow.source,
    ItemRow.modality,
    ItemRow.content_hash,
    ItemRow.text,
    ItemRow.width,
    ItemRow.height,
    ItemRow.item_metadata,
    ItemRow.size_bytes,
    ItemRow.mtime_ns,
    ItemRow.indexed_at,
)
_KNOWN_ITEM: _Select = select(
    ItemRow.item_id, ItemRow.key, ItemRow.source, ItemRow.modality, ItemRow.content_hash, ItemRow.size_bytes, ItemRow.mtime_ns
)
_COUNTS = {
    "new": IndexingRunRow.num_new,
    "changed": IndexingRunRow.num_changed,
    "moved": IndexingRunRow.num_moved,
    "unchanged": IndexingRunRow.num_unchanged,
    "gone": IndexingRunRow.num_gone,
    "pruned": IndexingRunRow.num_pruned,
    "skipped": IndexingRunRow.num_skipped,
}
RUN: _Select = select(
    IndexingRunRow.run_id,
    IndexingRunRow.collection_id,
    IndexingRunRow.source,
    IndexingRunRow.state,
    IndexingRunRow.started_at,
    IndexingRunRow.finished_at,
    IndexingRunRow.cursor,
    *_COUNTS.values(),
)
LEDGER: _Select = select(
    LedgerEntryRow.run_id,
    LedgerEntryRow.key,
    LedgerEntryRow.source,
    LedgerEntryRow.cause,
    LedgerEntryRow.error_class,
    LedgerEntryRow.size_bytes,
    LedgerEntryRow.mtime_ns,
    LedgerEntryRow.content_hash,
    LedgerEntryRow.at,
    LedgerEntryRow.resolved_at,
)
# Asked before every search, so built once.
_COLLECTION_BY_NAME = QuickSelect(_COLLECTION.where(CollectionRow.name == bindparam("name")))
_COLLECTION_BY_ALIAS = QuickSelect(
    _COLLECTION.join(AliasRow, AliasRow.collection_id == CollectionRow.collection_id).where(AliasRow.name == bindparam("name"))
)
_GENERATION = select(CollectionRow.generation).where(CollectionRow.collection_id == bindparam("collection_id"))
# By id alone: given the collection as well, SQLite would walk through all of its items. Ids are unique across collections.
_ITEMS_BY_ID = ITEM.add_columns(ItemRow.collection_id).where(ItemRow.item_id.in_(bindparam("item_ids", expanding=True)))
_FOUND_ITEM: _Select = select(
    ItemRow.item_id,
    ItemRow.key,
    ItemRow.source,
    ItemRow.modality,
    ItemRow.text,
    ItemRow.width,
    ItemRow.height,
    ItemRow.item_metadata,
    ItemRow.collection_id,
)
_MAX_FOUND_AT_ONCE = 16_384  # a power of two, as all sizes of that statement are


@dataclass(frozen=True, slots=True)
class SegmentView:
    """A live segment and which of its rows are dead, at one generation."""

    segment: SegmentRecord
    dead_item_ids: ItemIds  # ascending


@dataclass(frozen=True, slots=True)
class CollectionView:
    """A collection at one generation."""

    collection: CollectionRecord
    segments: tuple[SegmentView, ...]
    banks: tuple[BankRecord, ...]


class Catalogue:
    """Reads; each method is one question and one consistent answer."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def store_uuid(self) -> str | None:
        """Which store this catalogue belongs to; None before it has been set up."""
        with self._database.reading() as connection:
            return connection.scalar(select(CatalogueRow.store_uuid))

    def writer(self) -> str | None:
        """Who took the writer's lock last."""
        with self._database.reading() as connection:
            return connection.scalar(select(CatalogueRow.writer))

    def collections(self) -> list[CollectionRecord]:
        """All collections by name."""
        with self._database.reading() as connection:
            return [_collection(row) for row in connection.execute(_COLLECTION.order_by(CollectionRow.name))]

    def collection(self, name: str) -> CollectionRecord:
        """The collection of that name or alias. Raises `CollectionNotFound` with the nearest names."""
        for question in (_COLLECTION_BY_NAME, _COLLECTION_BY_ALIAS):
            for row in self._database.quick_rows(question, {"name": name}):
                return _collection(row)
        with self._database.reading() as connection:
            names = [*connection.scalars(select(CollectionRow.name)), *connection.scalars(select(AliasRow.name))]
        raise CollectionNotFound(name, nearest=difflib.get_close_matches(name, names, n=3, cutoff=0.5))

    def collection_by_id(self, collection_id: CollectionId) -> CollectionRecord:
        """Raises `CollectionNotFound`."""
        with self._database.reading() as connection:
            row = connection.execute(_COLLECTION.where(CollectionRow.collection_id == collection_id)).first()
        if row is None:
            raise CollectionNotFound(f"number {collection_id}")
        return _collection(row)

    def generation(self, collection_id: CollectionId) -> int:
        """The collection's generation now. Raises `CollectionNotFound`."""
        with self._database.reading() as connection:
            generation = connection.scalar(_GENERATION, {"collection_id": collection_id})
        if generation is None:
            raise CollectionNotFound(f"number {collection_id}")
        return generation

    def collection_view(self, collection_id: CollectionId, *, known: CollectionView | None = None) -> CollectionView:
        """The collection's live segments and their dead rows; what `known` has already is not read again."""
        known_by_folder = {view.segment.folder: view for view in known.segments} if known is not None else {}
        with self._database.consistent_reading() as connection:
            row = connection.execute(_COLLECTION.where(CollectionRow.collection_id == collection_id)).first()
            if row is None:
                raise CollectionNotFound(f"number {collection_id}")
            live = SegmentRow.collection_id == collection_id, SegmentRow.state == SegmentState.LIVE
            segments = [_segment(s) for s in connection.execute(_SEGMENT.where(*live).order_by(SegmentRow.segment_id))]
            views = []
            for segment in segments:
                before = known_by_folder.get(segment.folder)
                if before is not None and before.segment.num_tombstones == segment.num_tombstones:
                    views.append(SegmentView(segment, before.dead_item_ids))
                    continue
                dead = select(TombstoneRow.item_id).where(TombstoneRow.segment_id == segment.segment_id).order_by(TombstoneRow.item_id)
                views.append(SegmentView(segment, np.fromiter(connection.scalars(dead), dtype=np.int64)))
            banks = [BankRecord(*bank) for bank in connection.execute(_BANK.where(QueryBankRow.collection_id == collection_id))]
        return CollectionView(_collection(row), tuple(views), tuple(banks))

    def banks(self, collection_id: CollectionId) -> tuple[BankRecord, ...]:
        """What hubness biases are taken from, by modality; without the contents, which are megabytes."""
        with self._database.reading() as connection:
            return tuple(BankRecord(*bank) for bank in connection.execute(_BANK.where(QueryBankRow.collection_id == collection_id)))

    def stored_banks(self, collection_id: CollectionId) -> list[StoredBank]:
        """The same with their contents."""
        statement = _BANK.add_columns(QueryBankRow.content).where(QueryBankRow.collection_id == collection_id)
        with self._database.reading() as connection:
            return [StoredBank(BankRecord(*bank), content) for *bank, content in connection.execute(statement)]

    def segments(self, collection_id: CollectionId | None = None) -> list[SegmentRecord]:
        """Segments in every state, oldest first."""
        statement = _SEGMENT.order_by(SegmentRow.segment_id)
        if collection_id is not None:
            statement = statement.where(SegmentRow.collection_id == collection_id)
        with self._database.reading() as connection:
            return [_segment(row) for row in connection.execute(statement)]

    def items(self, collection_id: CollectionId, item_ids: Sequence[ItemId]) -> dict[ItemId, ItemRecord]:
        """Items by id; those that are not in the collection (any more) are left out. One query for up to 30,000."""
        found: dict[ItemId, ItemRecord] = {}
        with self._database.reading() as connection:
            for chunk in chunks([int(item_id) for item_id in item_ids]):
                rows = connection.execute(_ITEMS_BY_ID, {"item_ids": chunk}).all()
                found.update((ItemId(row[0]), item_of(row[:-1])) for row in rows if row[-1] == collection_id)
        return found

    def found_items(self, collection_id: CollectionId, item_ids: Sequence[ItemId]) -> dict[ItemId, FoundItem]:
        """What an answer shows of items, by id; those that are not in the collection (any more) are left out. At least cost."""
        found: dict[ItemId, FoundItem] = {}
        for start in range(0, len(item_ids), _MAX_FOUND_AT_ONCE):
            chunk = [int(item_id) for item_id in item_ids[start : start + _MAX_FOUND_AT_ONCE]]
            size = 1 << (len(chunk) - 1).bit_length()
            asked = [*chunk, *[chunk[-1]] * (size - len(chunk))]
            rows = self._database.quick_rows(_found_by_id(size), {f"id_{place}": item_id for place, item_id in enumerate(asked)})
            found.update((ItemId(row[0]), FoundItem(*row[:-1])) for row in rows if row[-1] == collection_id)
        return found

    def item_by_key(self, collection_id: CollectionId, key: str) -> ItemRecord:
        """Raises `ItemNotFound`."""
        with self._database.reading() as connection:
            row = connection.execute(ITEM.where(ItemRow.collection_id == collection_id, ItemRow.key == key)).first()
        if row is None:
            raise ItemNotFound(f"the collection holds no item {key!r}; a key is a path relative to the source it was indexed from")
        return item_of(row)

    def known_items(self, collection_id: CollectionId, *, source: str | None = None) -> Iterator[KnownItem]:
        """All items with an embedding, by id, streamed: memory does not grow with their number.

        No connection is held between pages, so a caller may commit while it reads: items added meanwhile may come or not.
        """
        statement = _KNOWN_ITEM.where(ItemRow.collection_id == collection_id, ItemRow.segment_id.is_not(None))
        if source is not None:
            statement = statement.where(ItemRow.source == source)
        last_id = -1
        while True:
            page = statement.where(ItemRow.item_id > last_id).order_by(ItemRow.item_id).limit(_STREAM_ROWS)
            with self._database.reading() as connection:
                known = [_known_item(row) for row in connection.execute(page)]
            yield from known
            if len(known) < _STREAM_ROWS:
                return
            last_id = known[-1].item_id

    def num_items_missing_embeddings(self, collection_id: CollectionId) -> int:
        """Items whose segment was lost; the next indexing of their source embeds them again."""
        statement = select(func.count()).where(ItemRow.collection_id == collection_id, ItemRow.segment_id.is_(None))
        with self._database.reading() as connection:
            return connection.scalar(statement) or 0

    def sources_missing_embeddings(self, collection_id: CollectionId) -> tuple[str, ...]:
        """The sources of items whose segment was lost, by name."""
        return self._sources(ItemRow.collection_id == collection_id, ItemRow.segment_id.is_(None))

    def sources_of_segment(self, segment_id: SegmentId) -> tuple[str, ...]:
        """The sources of the items that point at a segment, by name."""
        return self._sources(ItemRow.segment_id == segment_id)

    def _sources(self, *conditions: ColumnElement[bool]) -> tuple[str, ...]:
        with self._database.reading() as connection:
            return tuple(connection.scalars(select(ItemRow.source).where(*conditions).distinct().order_by(ItemRow.source)))

    def item_ids_by_segment(self, segment_id: SegmentId) -> ItemIds:
        """The items that point at a segment, ascending."""
        statement = select(ItemRow.item_id).where(ItemRow.segment_id == segment_id).order_by(ItemRow.item_id)
        with self._database.reading() as connection:
            return np.fromiter(connection.scalars(statement), dtype=np.int64)

    def num_items_by_modality(self, collection_id: CollectionId) -> dict[Modality, int]:
        """Items with an embedding."""
        statement = (
            select(ItemRow.modality, func.count())
            .where(ItemRow.collection_id == collection_id, ItemRow.segment_id.is_not(None))
            .group_by(ItemRow.modality)
        )
        with self._database.reading() as connection:
            return {modality: count for modality, count in connection.execute(statement)}  # noqa: C416  (mypy takes rows apart)

    def runs(self, collection_id: CollectionId | None = None) -> list[RunRecord]:
        """Indexing runs, the newest first."""
        statement = _where(RUN, IndexingRunRow.collection_id, collection_id).order_by(IndexingRunRow.run_id.desc())
        with self._database.reading() as connection:
            return [run_of(row) for row in connection.execute(statement)]

    def ledger(self, collection_id: CollectionId | None = None, run_id: RunId | None = None, *, unresolved_only: bool) -> list[LedgerEntry]:
        """Skipped inputs in the order in which they were skipped."""
        statement = _where(LEDGER, LedgerEntryRow.collection_id, collection_id)
        statement = _where(statement, LedgerEntryRow.run_id, run_id).order_by(LedgerEntryRow.entry_id)
        if unresolved_only:
            statement = statement.where(LedgerEntryRow.resolved_at.is_(None))
        with self._database.reading() as connection:
            return [LedgerEntry(RunId(row[0]), *row[1:]) for row in connection.execute(statement)]


def chunks(values: Sequence[_Value]) -> Iterator[Sequence[_Value]]:
    """`values` in pieces that fit one statement."""
    for start in range(0, len(values), MAX_PARAMETERS):
        yield values[start : start + MAX_PARAMETERS]


def count_columns(counts: RunCounts) -> dict[str, int]:
    """The run's columns that hold `counts`."""
    return {column.key: getattr(counts, name) for name, column in _COUNTS.items()}


@functools.cache
def _found_by_id(size: int) -> QuickSelect:
    """For exactly so many ids; an id may be there twice. Sizes are powers of two, so that there are few statements."""
    return QuickSelect(_FOUND_ITEM.where(ItemRow.item_id.in_([bindparam(f"id_{place}") for place in range(size)])))


def _where(statement: _Select, column: InstrumentedAttribute[int], value: int | None) -> _Select:
    return statement if value is None else statement.where(column == value)


def _collection(row: Sequence[Any]) -> CollectionRecord:
    return CollectionRecord(CollectionId(row[0]), *row[1:])


def _segment(row: _Row) -> SegmentRecord:
    return SegmentRecord(SegmentId(row[0]), CollectionId(row[1]), *row[2:])


def item_of(row: Sequence[Any]) -> ItemRecord:
    """The record of a row of the columns that its fields are named after."""
    return ItemRecord(*row)


def _known_item(row: _Row) -> KnownItem:
    return KnownItem(*row)


def run_of(row: _Row) -> RunRecord:
    """The record of a row of an indexing run, its counts last."""
    run_id, collection_id, source, state, started_at, finished_at, cursor, *counts = row
    return RunRecord(run_id, collection_id, source, state, started_at, finished_at, cursor, RunCounts(*counts))
