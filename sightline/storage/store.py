"""A store: a folder with segments and, unless it is elsewhere, the catalogue; the door to all of storage.

store.json                          which catalogue the segments belong to
segments/<collection_id>/<uuid>/    the segments
catalogue.sqlite                    the catalogue, where no other database is named
writer.lock                         the writer's lock
"""

import json
import logging
import threading
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from sqlalchemy import Connection

from sightline.errors import CollectionExists, Conflict, InvalidInput, StorageError, StoreNotFound
from sightline.storage import catalogue_writes as writes
from sightline.storage.aliases import Aliases, alias_exists
from sightline.storage.audit import AuditList
from sightline.storage.catalogue import Catalogue, CollectionView, SegmentView
from sightline.storage.compaction import IndexOptions
from sightline.storage.database import Database, catalogue_url
from sightline.storage.device_memory import DeviceMemory
from sightline.storage.index_plan import EXACT_MAX_ROWS
from sightline.storage.jobs import JobQueue, rename_in_jobs
from sightline.storage.keys import KeyRing, rename_in_keys
from sightline.storage.listing import Listing
from sightline.storage.live_segment import LiveSegment, LoadedSegment
from sightline.storage.names import check_collection_name, check_description, check_strength
from sightline.storage.records import (
    CollectionRecord,
    CollectionStatistics,
    Finding,
    FoundItem,
    ItemRecord,
    KnownItem,
    LedgerEntry,
    PatchStatistics,
    RepairReport,
    RunCounts,
    RunRecord,
    RunState,
    SegmentRecord,
    SegmentState,
    StoredBank,
)
from sightline.storage.sealed_files import DamagedFile, require_room, sync_folder, translated_disk_errors, write_synced
from sightline.storage.segment import open_segment
from sightline.storage.snapshot import Snapshot
from sightline.storage.tables import SCHEMA_REVISION
from sightline.storage.verification import damaged_segments, verify_collection, verify_folders
from sightline.storage.writer import SEGMENTS_FOLDER, Writer, WriterOptions
from sightline.storage.writer_lock import busy, give_back_advisory_lock, is_locked, take_advisory_lock, this_process, writer_lock
from sightline.types import CollectionId, ItemId, Modality, RunId

logger = logging.getLogger(__name__)

STORE_FILE = "store.json"
_SET_UP_WAIT_S = 60.0
"""Several processes may open a new store at once: one sets it up, the others wait for it."""

_SNAPSHOT_ATTEMPTS = 20
"""A compaction may remove segments between our reading the catalogue and opening their files; each attempt reads anew."""


@dataclass(frozen=True, slots=True)
class StoreOptions:
    """What a store may use."""

    index_memory_bytes: int = 4_000_000_000  # for the indexes of one collection
    min_free_bytes: int = 0  # a commit that would leave less on the disk is refused
    exact_max_rows: int = EXACT_MAX_ROWS  # segments up to this size are searched exactly
    device_memory: DeviceMemory | None = None  # of the GPU that segments are searched on; None: the processor searches


class Store:
    """An open store. Thread-safe; any number of processes may have it open. A context manager that closes it."""

    def __init__(self, folder: Path, database: Database, *, options: StoreOptions) -> None:
        self.folder = folder
        self.keys = KeyRing(database)
        self.audit = AuditList(database)
        self.aliases = Aliases(database)
        self.listing = Listing(database)
        self.jobs = JobQueue(database)
        self._database = database
        self._catalogue = Catalogue(database)
        self._options = options
        self._lock = threading.Lock()
        self._views: dict[CollectionId, CollectionView] = {}
        self._snapshots: dict[CollectionId, Snapshot] = {}

    @classmethod
    def open(cls, folder: Path, *, database_url: str | None = None, create: bool = True, options: StoreOptions | None = None) -> Self:
        """Open the store in `folder`, setting it up where there is none and bringing an older schema up to date.

        Raises `StoreNotFound` without `create` where there is none, `SchemaTooNew`, `DatabaseUnavailable`, `InvalidSetting` for a URL
        that is none, and `StorageError` when the database belongs to another store.
        """
        folder = folder.expanduser().absolute()
        if not (folder / STORE_FILE).exists() and not create:
            raise StoreNotFound(f"there is no store in {folder}; `sightline index FOLDER` makes one, `--store` names another place")
        url = catalogue_url(folder, database_url)
        try:
            with translated_disk_errors(folder):
                folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StorageError(f"the store's folder {folder} can't be made: {error.strerror}") from error
        database = Database(url)
        try:
            _set_up(folder, database)
        except BaseException:
            database.close()
            raise
        return cls(folder, database, options=options or StoreOptions())

    @property
    def catalogue_url(self) -> str:
        """Where the catalogue is, without its password."""
        return str(self._database)

    def require_catalogue(self) -> None:
        """Raises `DatabaseUnavailable` where the catalogue cannot be reached, and `StorageError` where it needs a migration."""
        self._database.require_revision()

    def close(self) -> None:
        """Give back connections and memory."""
        self._snapshots.clear()
        self._views.clear()
        self._database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def collections(self) -> list[CollectionRecord]:
        """All collections by name."""
        return self._catalogue.collections()

    def collection(self, name: str) -> CollectionRecord:
        """The collection of that name or alias. Raises `CollectionNotFound` with the nearest names."""
        return self._catalogue.collection(name)

    def create_collection(
        self,
        name: str,
        *,
        encoder_name: str,
        encoder_fingerprint: str,
        embedding_dim: int,
        banks: Sequence[StoredBank] = (),
        description: str = "",
    ) -> CollectionRecord:
        """An empty collection, bound to one encoder and to the banks of queries that its items' hubness biases are to be from.

        Raises `CollectionExists`, `InvalidInput` for a name or a description that is none.
        """
        check_collection_name(name)
        check_description(description)
        with _unique_name(name), self._database.writing() as connection:
            _check_no_alias(connection, name)
            collection_id = writes.create_collection(
                connection,
                name=name,
                description=description,
                encoder_name=encoder_name,
                encoder_fingerprint=encoder_fingerprint,
                embedding_dim=embedding_dim,
            )
            for bank in banks:
                writes.put_bank(connection, collection_id, bank)
        return self.collection(name)

    def alter_collection(
        self,
        collection_id: CollectionId,
        *,
        name: str | None = None,
        description: str | None = None,
        hubness_strengths: Mapping[Modality, float] | None = None,
    ) -> None:
        """Give a collection another name, another description, and take another share of the hubness bias off of items of some modality.

        All in one transaction, for which nobody who writes is waited for; what is None stays. Raises `CollectionExists`,
        `CollectionNotFound`, `InvalidInput` for what is no name, description or share, and for a share of a modality without a bank.
        """
        if name is not None:
            check_collection_name(name)
        if description is not None:
            check_description(description)
        strengths = hubness_strengths or {}
        for strength in strengths.values():
            check_strength(strength)
        with _unique_name(name or ""), self._database.writing() as connection:
            for modality, strength in strengths.items():
                if not writes.set_bank_strength(connection, collection_id, modality, strength=strength):
                    raise InvalidInput(_no_bank(modality))
            if strengths:
                writes.bump_generation(connection, collection_id)  # snapshots hold the banks
            if description is not None:
                writes.describe_collection(connection, collection_id, description=description)
            if name is not None:
                _check_no_alias(connection, name)
                former = writes.rename_collection(connection, collection_id, name=name)
                rename_in_keys(connection, name=former, new_name=name)
                rename_in_jobs(connection, name=former, new_name=name)
                writes.bump_generation(connection, collection_id)  # snapshots hold the name

    def drop_collection(self, collection_id: CollectionId) -> None:
        """Delete a collection with everything in it. Takes the writer's lock: raises `StoreBusy`."""
        with self.writer() as writer:
            writer.drop_collection(collection_id)

    @contextmanager
    def writer(self, *, wait_s: float = 0.0) -> Iterator[Writer]:
        """The store's one writer, for as long as the context lasts; sweeps first what an earlier one left behind.

        Raises `StoreBusy`, naming who writes, when the lock is not free within `wait_s`.
        """
        options = WriterOptions(
            IndexOptions(self._options.index_memory_bytes, self._options.exact_max_rows), min_free_bytes=self._options.min_free_bytes
        )
        with writer_lock(self.folder, wait_s=wait_s), self._database.connect_writer() as connection:
            if not self._database.is_sqlite:
                with self._database.translated_errors():
                    is_ours = take_advisory_lock(connection, wait_s=wait_s)
                if not is_ours:
                    raise busy(self.folder, self._catalogue.writer() or "a process on another machine")
            try:
                with self._database.writing(connection):
                    writes.note_writer(connection, this_process())
                writer = Writer(self.folder, self._database, connection, snapshot=self.snapshot, options=options)
                writer.sweep()
                yield writer
            finally:
                if not self._database.is_sqlite:
                    give_back_advisory_lock(connection)

    def note_sent(
        self, collection_id: CollectionId, *, source: str, counts: RunCounts, skipped: Sequence[LedgerEntry], settled: Sequence[str]
    ) -> RunId | None:
        """Note what became of items that were sent, in one transaction that waits for no writer: a run that is over, and what it skipped.

        Open lines of the keys in `settled`, and of those that are skipped now, are closed. The entries get the run's id, which is returned;
        where nothing was skipped there is no run. Raises `CollectionNotFound`.
        """
        if not skipped and not settled:
            return None
        with self._database.writing() as connection:
            writes.resolve_ledger(connection, collection_id, [*settled, *(entry.key for entry in skipped)])
            if not skipped:
                return None
            run_id = writes.start_run(connection, collection_id, source=source)
            writes.finish_run(connection, run_id, state=RunState.FINISHED, counts=counts)
            writes.add_ledger_entries(connection, collection_id, [replace(entry, run_id=run_id) for entry in skipped])
        return run_id

    def require_room(self) -> None:
        """Raises `OutOfSpace` where any commit would: a caller asks before it prepares one at length."""
        require_room(self.folder, 0, min_free_bytes=self._options.min_free_bytes)

    def snapshot(self, collection_id: CollectionId) -> Snapshot:
        """The collection as it is now, searchable; one cheap query where nothing has changed since the last call.

        Raises `CollectionNotFound`, `CorruptSegment` for files that are missing, cut short or changed.
        """
        generation = self._catalogue.generation(collection_id)
        snapshot = self._snapshots.get(collection_id)
        if snapshot is not None and snapshot.generation == generation:
            return snapshot
        with self._lock:
            for _ in range(_SNAPSHOT_ATTEMPTS):
                view = self._catalogue.collection_view(collection_id, known=self._views.get(collection_id))
                try:
                    return self._load(view)
                except FileNotFoundError as error:
                    if self._catalogue.generation(collection_id) == view.collection.generation:
                        raise DamagedFile(Path(error.filename), reason="it is missing, and the catalogue refers to it") from error
        raise StorageError(f"collection {collection_id} changed {_SNAPSHOT_ATTEMPTS} times while it was being opened; try again")

    def snapshot_of(self, collection: CollectionRecord) -> Snapshot:
        """As `snapshot`, for a collection that was read just now: asks the catalogue nothing where that is the generation at hand."""
        snapshot = self._snapshots.get(collection.collection_id)
        if snapshot is not None and snapshot.generation == collection.generation:
            return snapshot
        return self.snapshot(collection.collection_id)

    def items(self, collection_id: CollectionId, item_ids: Sequence[ItemId]) -> dict[ItemId, ItemRecord]:
        """Items by id, in one query; those deleted meanwhile are left out."""
        return self._catalogue.items(collection_id, item_ids)

    def found_items(self, collection_id: CollectionId, item_ids: Sequence[ItemId]) -> dict[ItemId, FoundItem]:
        """What an answer shows of them, by id, at the least cost; those deleted meanwhile are left out."""
        return self._catalogue.found_items(collection_id, item_ids)

    def item_by_key(self, collection_id: CollectionId, key: str) -> ItemRecord:
        """Raises `ItemNotFound`."""
        return self._catalogue.item_by_key(collection_id, key)

    def known_items(self, collection_id: CollectionId, *, source: str | None = None) -> Iterator[KnownItem]:
        """Items that have an embedding, by id, of one source or all; streamed."""
        return self._catalogue.known_items(collection_id, source=source)

    def banks(self, collection_id: CollectionId) -> list[StoredBank]:
        """The banks of queries that hubness biases of the collection are from, one a modality at most."""
        return self._catalogue.stored_banks(collection_id)

    def runs(self, collection_id: CollectionId | None = None) -> list[RunRecord]:
        """Indexing runs, the newest first."""
        return self._catalogue.runs(collection_id)

    def ledger(
        self, collection_id: CollectionId | None = None, run_id: RunId | None = None, *, unresolved_only: bool = False
    ) -> list[LedgerEntry]:
        """Skipped inputs in the order in which they were skipped; of those that are still skipped with `unresolved_only`."""
        return self._catalogue.ledger(collection_id, run_id, unresolved_only=unresolved_only)

    def statistics(self, collection_id: CollectionId) -> CollectionStatistics:
        """The size and shape of a collection, from the catalogue alone."""
        live = [s for s in self._catalogue.segments(collection_id) if s.state is SegmentState.LIVE]
        recalls = [s.ann_recall for s in live if s.ann_recall is not None]
        return CollectionStatistics(
            num_items_by_modality=self._catalogue.num_items_by_modality(collection_id),
            num_missing_embeddings=self._catalogue.num_items_missing_embeddings(collection_id),
            num_segments=len(live),
            num_tombstones=sum(s.num_tombstones for s in live),
            size_bytes=sum(s.size_bytes for s in live),
            index_descriptions=tuple(s.index_description or "exact" for s in live),
            ann_recall=min(recalls, default=None),
            banks=self._catalogue.banks(collection_id),
            patches=_patch_statistics(live),
        )

    def memory_bytes(self, collection_id: CollectionId) -> int:
        """What searches of a collection so far hold in memory; patches, which are memory-mapped, are not counted, nor is a GPU's memory."""
        snapshot = self._snapshots.get(collection_id)
        return 0 if snapshot is None else sum(segment.loaded.memory_bytes for segment in snapshot.segments)

    def device_memory_bytes(self, collection_id: CollectionId) -> int:
        """What searches of a collection so far hold on a GPU."""
        snapshot = self._snapshots.get(collection_id)
        return 0 if snapshot is None else sum(segment.loaded.device_memory_bytes for segment in snapshot.segments)

    def verify(self, collection_id: CollectionId | None = None) -> list[Finding]:
        """Compare the catalogue with the files, every byte of them, of one collection or all; an empty list is good news."""
        wanted = [c for c in self.collections() if collection_id in (None, c.collection_id)]
        findings = [finding for c in wanted for finding in verify_collection(self._segments_folder(c.collection_id), c, self._catalogue)]
        if collection_id is None:
            findings += verify_folders(self.folder / SEGMENTS_FOLDER, self._catalogue, is_being_written=is_locked(self.folder))
        return findings

    def repair(self) -> RepairReport:
        """Give up every segment that is missing or damaged.

        Its items stay in the catalogue with their ids; indexing their sources again embeds them anew. Takes the writer's lock: raises
        `StoreBusy`.
        """
        num_items = 0
        sources_by_collection = {}
        with self.writer() as writer:
            for collection in self.collections():
                collection_id = collection.collection_id
                damaged = damaged_segments(self._segments_folder(collection_id), collection, self._catalogue)
                if damaged:
                    num_items += writer.release_segments(collection_id, damaged)
                    sources_by_collection[collection.name] = self._catalogue.sources_missing_embeddings(collection_id)
        return RepairReport(num_items, sources_by_collection)

    def _segments_folder(self, collection_id: CollectionId) -> Path:
        return self.folder / SEGMENTS_FOLDER / str(collection_id)

    def _load(self, view: CollectionView) -> Snapshot:
        """The snapshot of `view`, with the segments that the last one has open; under `_lock`."""
        collection_id = view.collection.collection_id
        before = self._snapshots.get(collection_id)
        open_by_folder = {s.files.folder.name: s for s in before.segments} if before is not None else {}
        segments, resident_bytes = [], 0
        for segment in view.segments:
            if segment.segment.index_description is None:
                resident_bytes += 2 * view.collection.embedding_dim * segment.segment.num_rows
            is_resident = segment.segment.index_description is None and resident_bytes <= self._options.index_memory_bytes
            segments.append(self._open_segment(segment, open_by_folder.get(segment.segment.folder), is_resident=is_resident))
        snapshot = Snapshot(view.collection, segments, view.banks)
        self._snapshots[collection_id], self._views[collection_id] = snapshot, view
        logger.debug("snapshot collection=%d generation=%d segments=%d", collection_id, snapshot.generation, len(segments))
        return snapshot

    def _open_segment(self, view: SegmentView, before: LiveSegment | None, *, is_resident: bool) -> LiveSegment:
        if before is not None and len(before.dead_rows) == view.segment.num_tombstones and before.is_resident == is_resident:
            return before
        if before is not None:
            return LiveSegment(before.loaded, view.dead_item_ids, is_resident=is_resident)
        folder = self._segments_folder(view.segment.collection_id) / view.segment.folder
        loaded = LoadedSegment(open_segment(folder, manifest_sha256=view.segment.manifest_sha256), self._options.device_memory)
        return LiveSegment(loaded, np.asarray(view.dead_item_ids), is_resident=is_resident)


def _patch_statistics(segments: Sequence[SegmentRecord]) -> tuple[PatchStatistics, ...]:
    """By fusion encoder; of a segment's dead rows all are taken for such as had patches, which is so but for pictures that had vanished."""
    found: dict[str, PatchStatistics] = {}
    for segment in segments:
        if segment.fusion_fingerprint is not None:
            before = found.get(segment.fusion_fingerprint)
            num_images = max(0, segment.num_patched_rows - segment.num_tombstones) + (0 if before is None else before.num_images)
            bytes_per_image = segment.patch_bytes // segment.num_patched_rows
            found[segment.fusion_fingerprint] = PatchStatistics(segment.fusion_fingerprint, num_images, bytes_per_image)
    return tuple(found.values())


def _set_up(folder: Path, database: Database) -> None:
    """Migrate and pair folder and catalogue where that has not been done; quick where it has.

    A folder that has a catalogue never gets another one: what is in its segments would belong to nothing, and be swept.
    """
    if (folder / STORE_FILE).exists() and not database.holds_anything():
        raise StorageError(f"the store in {folder} has another catalogue than {database}, which is empty: {_where_catalogue_is(folder)}")
    if database.revision() != SCHEMA_REVISION or not (folder / STORE_FILE).exists():
        with writer_lock(folder, wait_s=_SET_UP_WAIT_S):
            if database.revision() != SCHEMA_REVISION:
                database.migrate()
            _pair(folder, database)
    paired = json.loads((folder / STORE_FILE).read_text(encoding="utf-8"))["store_uuid"]
    if paired != Catalogue(database).store_uuid():
        raise StorageError(
            f"the catalogue {database} belongs to another store than the folder {folder}; name the pair that belongs together"
        )


def _pair(folder: Path, database: Database) -> None:
    """Give catalogue and folder one id; a kill between the two is made good by the next open."""
    store_uuid = Catalogue(database).store_uuid()
    if store_uuid is None:
        store_uuid = uuid.uuid4().hex
        with database.writing() as connection:
            writes.set_up_catalogue(connection, store_uuid=store_uuid)
    elif (folder / STORE_FILE).exists():
        return
    elif not database.is_sqlite and Catalogue(database).collections():
        raise StorageError(
            f"the catalogue {database} belongs to a store in another folder than {folder}: open that one, name another database, "
            f"or put back {STORE_FILE}, which is missing here"
        )
    with translated_disk_errors(folder):
        where = {} if database.is_sqlite else {"catalogue": str(database)}
        write_synced(folder / STORE_FILE, json.dumps({"store_uuid": store_uuid, **where}).encode())
        sync_folder(folder)


def _where_catalogue_is(folder: Path) -> str:
    """What to do about a catalogue that is not where it was looked for."""
    catalogue = json.loads((folder / STORE_FILE).read_text(encoding="utf-8")).get("catalogue")
    if catalogue is not None:
        return f"set SIGHTLINE_DATABASE_URL to {catalogue}, which it was made with"
    return "name the one that it was made with (SIGHTLINE_DATABASE_URL), or put the file back from a backup"


def _no_bank(modality: Modality) -> str:
    return (
        f"the collection has no bank of queries for its {modality}s, so that there is no bias to take off; "
        "`sightline hubness COLLECTION --captions` or --encoder-bank makes one"
    )


def _check_no_alias(connection: Connection, name: str) -> None:
    """A collection that takes an alias's name would take its searches too."""
    if alias_exists(connection, name):
        raise CollectionExists(f"{name!r} is an alias of a collection; choose another name, or delete the alias")


@contextmanager
def _unique_name(name: str) -> Iterator[None]:
    try:
        yield
    except CollectionExists:
        raise
    except Conflict as error:
        raise CollectionExists(f"there is a collection {name!r} already; choose another name, or delete that one") from error
