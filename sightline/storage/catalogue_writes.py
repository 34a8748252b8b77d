"""What changes the catalogue, statement by statement, on the connection of the caller's transaction."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, bindparam, delete, func, insert, select, update

from sightline.errors import CollectionNotFound
from sightline.storage.catalogue import chunks, count_columns
from sightline.storage.records import LedgerEntry, Move, NewItem, RunCounts, RunState, SegmentState, StoredBank, Touch
from sightline.storage.segment import Manifest
from sightline.storage.tables import (
    CatalogueRow,
    CollectionRow,
    IndexingRunRow,
    ItemRow,
    LedgerEntryRow,
    QueryBankRow,
    SegmentRow,
    TombstoneRow,
)
from sightline.types import CollectionId, ItemId, Modality, RunId, SegmentId

_MOVING = "\x01moving/"
"""Before the final keys: two items may swap theirs, and no state between may break the unique constraint."""


@dataclass(frozen=True, slots=True)
class PlacedItem:
    """A new or replacing item with the id and segment that it gets."""

    item: NewItem
    item_id: ItemId
    segment_id: SegmentId


def now() -> datetime:
    """The instant that rows are stamped with."""
    return datetime.now(UTC)


def set_up_catalogue(connection: Connection, *, store_uuid: str) -> None:
    """Write the single row of a new catalogue."""
    connection.execute(insert(CatalogueRow).values(catalogue_id=1, store_uuid=store_uuid, next_item_id=1, writer=None, created_at=now()))


def note_writer(connection: Connection, writer: str) -> None:
    """Leave the writer's name for those that find the store busy."""
    connection.execute(update(CatalogueRow).values(writer=writer))


def create_collection(
    connection: Connection, *, name: str, description: str, encoder_name: str, encoder_fingerprint: str, embedding_dim: int
) -> CollectionId:
    """An empty collection; the name's uniqueness is the database's to refuse."""
    values = {"name": name, "encoder_name": encoder_name, "encoder_fingerprint": encoder_fingerprint, "embedding_dim": embedding_dim}
    statement = insert(CollectionRow).values(**values, description=description, generation=0, index_settings={}, created_at=now())
    return CollectionId(connection.execute(statement.returning(CollectionRow.collection_id)).scalar_one())


def put_bank(connection: Connection, collection_id: CollectionId, bank: StoredBank) -> None:
    """Give a collection a bank, in the place of the one that it has for that modality."""
    record = bank.record
    remove_banks(connection, collection_id, modalities=[record.modality])
    connection.execute(
        insert(QueryBankRow).values(
            collection_id=collection_id,
            modality=record.modality,
            fingerprint=record.fingerprint,
            strength=record.strength,
            num_queries=record.num_queries,
            origin=record.origin,
            content=bank.content,
            created_at=now(),
        )
    )


def set_bank_strength(connection: Connection, collection_id: CollectionId, modality: Modality, *, strength: float) -> bool:
    """Take so much of the bias off of items of a modality; false where the collection has no bank for it. The bank's content stays."""
    statement = update(QueryBankRow).where(QueryBankRow.collection_id == collection_id, QueryBankRow.modality == modality)
    return bool(connection.execute(statement.values(strength=strength)).rowcount)


def remove_banks(connection: Connection, collection_id: CollectionId, *, modalities: Sequence[Modality]) -> None:
    """Take a collection's banks for items of these modalities away."""
    statement = delete(QueryBankRow).where(QueryBankRow.collection_id == collection_id)
    connection.execute(statement.where(QueryBankRow.modality.in_(modalities)))


def rename_collection(connection: Connection, collection_id: CollectionId, *, name: str) -> str:
    """Give a collection another name, and tell what it was called. Raises `CollectionNotFound`."""
    former = connection.execute(select(CollectionRow.name).where(CollectionRow.collection_id == collection_id)).scalar()
    if former is None:
        raise CollectionNotFound(f"number {collection_id}")
    connection.execute(update(CollectionRow).where(CollectionRow.collection_id == collection_id).values(name=name))
    return former


def describe_collection(connection: Connection, collection_id: CollectionId, *, description: str) -> None:
    """Say what a collection holds, in the place of what was said. Raises `CollectionNotFound`."""
    statement = update(CollectionRow).where(CollectionRow.collection_id == collection_id)
    if connection.execute(statement.values(description=description)).rowcount == 0:
        raise CollectionNotFound(f"number {collection_id}")


def drop_collection(connection: Connection, collection_id: CollectionId) -> None:
    """Remove a collection and all that belongs to it; its segments' files are the caller's."""
    connection.execute(delete(ItemRow).where(ItemRow.collection_id == collection_id))
    connection.execute(delete(CollectionRow).where(CollectionRow.collection_id == collection_id))


def bump_generation(connection: Connection, collection_id: CollectionId) -> None:
    """Tell readers to read the collection anew. Raises `CollectionNotFound`."""
    statement = update(CollectionRow).where(CollectionRow.collection_id == collection_id)
    if connection.execute(statement.values(generation=CollectionRow.generation + 1)).rowcount == 0:
        raise CollectionNotFound(f"number {collection_id}")


def take_item_ids(connection: Connection, count: int) -> range:
    """The next `count` ids, none of which is used again."""
    first = connection.execute(select(CatalogueRow.next_item_id)).scalar_one()
    connection.execute(update(CatalogueRow).values(next_item_id=first + count))
    return range(first, first + count)


def next_item_id(connection: Connection) -> int:
    """The first id that `take_item_ids` would give."""
    return connection.execute(select(CatalogueRow.next_item_id)).scalar_one()


def item_ids_by_key(connection: Connection, collection_id: CollectionId, keys: Sequence[str]) -> dict[str, ItemId]:
    """The ids of those `keys` that exist."""
    found: dict[str, ItemId] = {}
    for chunk in chunks(keys):
        statement = select(ItemRow.key, ItemRow.item_id).where(ItemRow.collection_id == collection_id, ItemRow.key.in_(chunk))
        found.update((key, ItemId(item_id)) for key, item_id in connection.execute(statement))
    return found


def begin_segment(connection: Connection, collection_id: CollectionId, *, folder: str, modality: Modality) -> SegmentId:
    """Announce a segment whose files are about to be written."""
    statement = insert(SegmentRow).values(
        collection_id=collection_id,
        folder=folder,
        modality=modality,
        state=SegmentState.BUILDING,
        num_rows=0,
        num_tombstones=0,
        size_bytes=0,
        manifest_sha256="",
        index_description=None,
        ann_recall=None,
        created_at=now(),
    )
    return SegmentId(connection.execute(statement.returning(SegmentRow.segment_id)).scalar_one())


def make_live(connection: Connection, segment_id: SegmentId, manifest: Manifest, *, manifest_sha256: str) -> None:
    """A segment whose files are complete and synced can be searched from here on."""
    index = manifest.index
    connection.execute(
        update(SegmentRow)
        .where(SegmentRow.segment_id == segment_id)
        .values(
            state=SegmentState.LIVE,
            num_rows=manifest.num_rows,
            size_bytes=manifest.size_bytes,
            manifest_sha256=manifest_sha256,
            index_description=None if index is None else str(index),
            ann_recall=None if index is None else index.ann_recall,
            num_patched_rows=manifest.num_patched_rows,
            patch_bytes=manifest.patch_bytes,
            fusion_fingerprint=None if manifest.patches is None else manifest.patches.fusion_fingerprint,
        )
    )


def retire_segments(connection: Connection, segment_ids: Sequence[SegmentId], *, into: SegmentId | None) -> None:
    """Point the items of segments at their successor (None: at none) and take the segments out of every later snapshot."""
    for chunk in chunks(segment_ids):
        connection.execute(update(ItemRow).where(ItemRow.segment_id.in_(chunk)).values(segment_id=into))
        connection.execute(delete(TombstoneRow).where(TombstoneRow.segment_id.in_(chunk)))
        connection.execute(update(SegmentRow).where(SegmentRow.segment_id.in_(chunk)).values(state=SegmentState.RETIRED))


def succeed_segment(connection: Connection, former: SegmentId, successor: SegmentId) -> None:
    """Put a segment that is live and has the same rows in the place of `former`: items and tombstones go over to it."""
    connection.execute(update(ItemRow).where(ItemRow.segment_id == former).values(segment_id=successor))
    num_buried = connection.execute(update(TombstoneRow).where(TombstoneRow.segment_id == former).values(segment_id=successor)).rowcount
    connection.execute(update(SegmentRow).where(SegmentRow.segment_id == successor).values(num_tombstones=num_buried))
    connection.execute(update(SegmentRow).where(SegmentRow.segment_id == former).values(state=SegmentState.RETIRED))


def forget_segments(connection: Connection, segment_ids: Sequence[SegmentId]) -> None:
    """Delete the rows of segments that no item points at."""
    for chunk in chunks(segment_ids):
        connection.execute(delete(SegmentRow).where(SegmentRow.segment_id.in_(chunk)))


def bury_rows(connection: Connection, collection_id: CollectionId, item_ids: Sequence[ItemId]) -> None:
    """Leave a tombstone on the row of each of the items that has one."""
    for chunk in chunks(item_ids):
        buried = (ItemRow.collection_id == collection_id, ItemRow.item_id.in_(chunk), ItemRow.segment_id.is_not(None))
        rows = select(ItemRow.segment_id, ItemRow.item_id).where(*buried)
        counts = connection.execute(select(ItemRow.segment_id, func.count()).where(*buried).group_by(ItemRow.segment_id)).all()
        connection.execute(insert(TombstoneRow).from_select(["segment_id", "item_id"], rows))
        for segment_id, count in counts:
            statement = update(SegmentRow).where(SegmentRow.segment_id == segment_id)
            connection.execute(statement.values(num_tombstones=SegmentRow.num_tombstones + count))


def delete_items(connection: Connection, collection_id: CollectionId, item_ids: Sequence[ItemId]) -> None:
    """Remove items; their rows must have been buried."""
    for chunk in chunks(item_ids):
        connection.execute(delete(ItemRow).where(ItemRow.collection_id == collection_id, ItemRow.item_id.in_(chunk)))


def insert_items(connection: Connection, collection_id: CollectionId, placed: Iterable[PlacedItem]) -> None:
    """Items with keys that are free."""
    rows = [{"collection_id": collection_id, "item_id": p.item_id, **_columns(p)} for p in placed]
    if rows:
        connection.execute(insert(ItemRow), rows)


def replace_items(connection: Connection, placed: Iterable[PlacedItem]) -> None:
    """Items in the place of those that have their ids."""
    rows = [{"this_item_id": p.item_id, **_columns(p)} for p in placed]
    if rows:
        names = rows[0].keys() - {"this_item_id"}
        statement = update(ItemRow.__table__).where(ItemRow.__table__.c.item_id == bindparam("this_item_id"))  # type: ignore[arg-type]
        connection.execute(statement.values({name: bindparam(name) for name in names}), rows)


def _columns(placed: PlacedItem) -> Mapping[str, Any]:
    item = placed.item
    return {
        "segment_id": placed.segment_id,
        "modality": item.modality,
        "key": item.key,
        "source": item.source,
        "content_hash": item.content_hash,
        "size_bytes": item.size_bytes,
        "mtime_ns": item.mtime_ns,
        "text": item.text,
        "width": item.width,
        "height": item.height,
        "metadata": item.metadata,
        "indexed_at": now(),
    }


def move_items(connection: Connection, moved: Sequence[Move]) -> None:
    """Give items other keys; the keys must be free once all of `moved` have left theirs."""
    if not moved:
        return
    this_item = update(ItemRow.__table__).where(ItemRow.__table__.c.item_id == bindparam("this_item_id"))  # type: ignore[arg-type]
    leave = [{"this_item_id": m.item_id, "new_key": f"{_MOVING}{m.item_id}"} for m in moved]
    connection.execute(this_item.values(key=bindparam("new_key")), leave)
    arrive = [{"this_item_id": m.item_id, "new_key": m.key, "new_source": m.source, "new_mtime_ns": m.mtime_ns} for m in moved]
    arrival = this_item.values(key=bindparam("new_key"), source=bindparam("new_source"), mtime_ns=bindparam("new_mtime_ns"))
    connection.execute(arrival, arrive)


def touch_items(connection: Connection, touched: Sequence[Touch]) -> None:
    """Note other times and sizes of unchanged content."""
    if not touched:
        return
    this_item = update(ItemRow.__table__).where(ItemRow.__table__.c.item_id == bindparam("this_item_id"))  # type: ignore[arg-type]
    rows = [{"this_item_id": t.item_id, "new_mtime_ns": t.mtime_ns, "new_size_bytes": t.size_bytes} for t in touched]
    connection.execute(this_item.values(mtime_ns=bindparam("new_mtime_ns"), size_bytes=bindparam("new_size_bytes")), rows)


def start_run(connection: Connection, collection_id: CollectionId, *, source: str) -> RunId:
    """A run that is under way."""
    values = {"collection_id": collection_id, "source": source, "state": RunState.RUNNING, "started_at": now()}
    statement = insert(IndexingRunRow).values(**values, **count_columns(RunCounts()))
    return RunId(connection.execute(statement.returning(IndexingRunRow.run_id)).scalar_one())


def update_run(connection: Connection, run_id: RunId, *, counts: RunCounts | None, cursor: str | None) -> None:
    """How far a run is; what is None stays."""
    values: dict[str, Any] = {} if counts is None else dict(count_columns(counts))
    if cursor is not None:
        values["cursor"] = cursor
    if values:
        connection.execute(update(IndexingRunRow).where(IndexingRunRow.run_id == run_id).values(**values))


def finish_run(connection: Connection, run_id: RunId, *, state: RunState, counts: RunCounts) -> None:
    """A run's last word."""
    values = {"state": state, "finished_at": now(), **count_columns(counts)}
    connection.execute(update(IndexingRunRow).where(IndexingRunRow.run_id == run_id).values(**values))


def mark_abandoned_runs(connection: Connection) -> list[tuple[CollectionId, str]]:
    """Runs whose process is gone (the caller holds the writer's lock) were interrupted; tells their collections and sources."""
    statement = update(IndexingRunRow).where(IndexingRunRow.state == RunState.RUNNING)
    statement = statement.values(state=RunState.INTERRUPTED, finished_at=now())
    rows = connection.execute(statement.returning(IndexingRunRow.collection_id, IndexingRunRow.source))
    return [(CollectionId(collection_id), source) for collection_id, source in rows]


def resolve_ledger(connection: Connection, collection_id: CollectionId, keys: Sequence[str]) -> None:
    """Close the open ledger lines of `keys`: they are indexed now, or skipped anew."""
    is_open = LedgerEntryRow.collection_id == collection_id, LedgerEntryRow.resolved_at.is_(None)
    if connection.execute(select(LedgerEntryRow.entry_id).where(*is_open).limit(1)).first() is None:
        return  # the common case: a statement with thousands of keys takes a tenth of a second to put together
    for chunk in chunks(keys):
        connection.execute(update(LedgerEntryRow).where(*is_open, LedgerEntryRow.key.in_(chunk)).values(resolved_at=now()))


def add_ledger_entries(connection: Connection, collection_id: CollectionId, entries: Sequence[LedgerEntry]) -> None:
    """Note skipped inputs."""
    if not entries:
        return
    fields = ("run_id", "key", "source", "cause", "error_class", "size_bytes", "mtime_ns", "content_hash", "at", "resolved_at")
    rows = [{"collection_id": collection_id, **{name: getattr(entry, name) for name in fields}} for entry in entries]
    connection.execute(insert(LedgerEntryRow), rows)
