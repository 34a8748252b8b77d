"""Long lists, a page at a time: items of a collection, indexing runs and the ledger of skipped inputs.

A page begins after the last id of the page before it, so that what is added or deleted between two pages neither repeats nor hides another.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import select

from sightline.storage.catalogue import ITEM, LEDGER, RUN, chunks, item_of, run_of
from sightline.storage.database import Database
from sightline.storage.records import ItemRecord, LedgerEntry, RunRecord
from sightline.storage.tables import IndexingRunRow, ItemRow, LedgerEntryRow
from sightline.types import CollectionId, ItemId, Modality, RunId


@dataclass(frozen=True, slots=True)
class ListedEntry:
    """A line of the ledger with its place in it."""

    entry_id: int
    collection_id: CollectionId
    entry: LedgerEntry


class Listing:
    """Pages of what a store has."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def items(
        self, collection_id: CollectionId, *, after: ItemId | None = None, modality: Modality | None = None, limit: int = 100
    ) -> list[ItemRecord]:
        """Items by id, those above `after`."""
        statement = ITEM.where(ItemRow.collection_id == collection_id).order_by(ItemRow.item_id).limit(limit)
        if after is not None:
            statement = statement.where(ItemRow.item_id > after)
        if modality is not None:
            statement = statement.where(ItemRow.modality == modality)
        with self._database.reading() as connection:
            return [item_of(row) for row in connection.execute(statement)]

    def items_of_source(self, collection_id: CollectionId, sources: Sequence[str]) -> list[ItemRecord]:
        """Items that came from one of `sources`; reads through the collection, since sources have no index."""
        found = []
        with self._database.reading() as connection:
            for chunk in chunks(sources):
                statement = ITEM.where(ItemRow.collection_id == collection_id, ItemRow.source.in_(chunk))
                found += [item_of(row) for row in connection.execute(statement)]
        return found

    def items_by_key(self, collection_id: CollectionId, keys: Sequence[str]) -> dict[str, ItemRecord]:
        """The items that have one of `keys`, at most 30,000 of them, and an embedding."""
        statement = ITEM.where(ItemRow.collection_id == collection_id, ItemRow.key.in_(keys), ItemRow.segment_id.is_not(None))
        with self._database.reading() as connection:
            return {item.key: item for item in map(item_of, connection.execute(statement))}

    def runs(self, collection_id: CollectionId | None = None, *, before: RunId | None = None, limit: int = 100) -> list[RunRecord]:
        """Indexing runs, the newest first: those before the run of that id."""
        statement = RUN.order_by(IndexingRunRow.run_id.desc()).limit(limit)
        if collection_id is not None:
            statement = statement.where(IndexingRunRow.collection_id == collection_id)
        if before is not None:
            statement = statement.where(IndexingRunRow.run_id < before)
        with self._database.reading() as connection:
            return [run_of(row) for row in connection.execute(statement)]

    def ledger(
        self,
        collection_id: CollectionId | None = None,
        *,
        run_id: RunId | None = None,
        after: int | None = None,
        limit: int = 100,
        unresolved_only: bool = False,
    ) -> list[ListedEntry]:
        """Skipped inputs in the order in which they were skipped: those after the entry of that id."""
        columns = (LedgerEntryRow.entry_id, LedgerEntryRow.collection_id)
        statement = select(*columns, *LEDGER.selected_columns).order_by(LedgerEntryRow.entry_id).limit(limit)
        if collection_id is not None:
            statement = statement.where(LedgerEntryRow.collection_id == collection_id)
        if run_id is not None:
            statement = statement.where(LedgerEntryRow.run_id == run_id)
        if after is not None:
            statement = statement.where(LedgerEntryRow.entry_id > after)
        if unresolved_only:
            statement = statement.where(LedgerEntryRow.resolved_at.is_(None))
        with self._database.reading() as connection:
            return [ListedEntry(row[0], row[1], LedgerEntry(*row[2:])) for row in connection.execute(statement)]
