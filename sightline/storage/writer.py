"""The one writer of a store: each commit is files first, synced, and then one transaction that makes them live.

A kill before the transaction leaves files and an announcement (`building`); a kill after it leaves retired files. The next writer sweeps
both.
"""

import logging
import shutil
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from sqlalchemy import Connection

from sightline.errors import CorruptSegment, InvalidInput, OutOfSpace, StorageError
from sightline.locations import uploads_folder
from sightline.storage import catalogue_writes as writes
from sightline.storage.catalogue import Catalogue
from sightline.storage.catalogue_writes import PlacedItem
from sightline.storage.commit import Change, Placement, apply_change, check_change, write_segments
from sightline.storage.compaction import (
    IndexOptions,
    merge_groups,
    merge_segments,
    merged_rows,
    total_of,
    tuning_queries,
    worth_merging,
)
from sightline.storage.database import Database
from sightline.storage.live_segment import LiveSegment
from sightline.storage.patches import AddedPatches, ItemPatches, PatchFormat
from sightline.storage.records import (
    CollectionRecord,
    CompactionReport,
    LedgerEntry,
    Move,
    NewItem,
    RowBiases,
    RunCounts,
    RunState,
    SegmentRecord,
    SegmentState,
    StoredBank,
    Touch,
)
from sightline.storage.sealed_files import require_room
from sightline.storage.segment import Manifest, remove_segment
from sightline.storage.snapshot import Snapshot
from sightline.storage.succession import BiasesOf, patched_segment, rebiased_segment
from sightline.types import CollectionId, Embeddings, ItemId, Modality, RunId, SegmentId

logger = logging.getLogger(__name__)

SEGMENTS_FOLDER = "segments"
_BYTES_PER_ROW_BESIDE_EMBEDDING = 2_000
"""Room for an item's row in the catalogue and its write-ahead log, generously."""


@dataclass(frozen=True, slots=True)
class WriterOptions:
    """What a writer may use."""

    index: IndexOptions
    min_free_bytes: int


class Writer:
    """Changes a store; made by `Store.writer`, which holds the lock. Not thread-safe."""

    def __init__(
        self,
        folder: Path,
        database: Database,
        connection: Connection,
        *,
        snapshot: Callable[[CollectionId], Snapshot],
        options: WriterOptions,
    ) -> None:
        self._folder = folder
        self._database = database
        self._connection = connection
        self._catalogue = Catalogue(database)
        self._snapshot = snapshot
        self._options = options
        self._abandoned: frozenset[tuple[CollectionId, str]] = frozenset()

    def start_run(self, collection_id: CollectionId, source: str) -> RunId:
        """Begin an indexing run; until it is finished it counts as running, or as interrupted once another writer comes."""
        if (collection_id, source) in self._abandoned:
            logger.warning("an earlier run was interrupted; going on where it stopped")
        with self._writing() as connection:
            return writes.start_run(connection, collection_id, source=source)

    def finish_run(self, run_id: RunId, state: RunState, counts: RunCounts) -> None:
        """End an indexing run."""
        with self._writing() as connection:
            writes.finish_run(connection, run_id, state=state, counts=counts)

    def commit(
        self,
        collection_id: CollectionId,
        *,
        run_id: RunId | None = None,
        added: Sequence[NewItem] = (),
        embeddings: Embeddings | None = None,
        biases: RowBiases | None = None,
        patches: AddedPatches | None = None,
        moved: Sequence[Move] = (),
        touched: Sequence[Touch] = (),
        skipped: Sequence[LedgerEntry] = (),
        deleted: Sequence[ItemId] = (),
        counts: RunCounts | None = None,
        cursor: str | None = None,
    ) -> list[ItemId]:
        """Make all of it true at once, or none of it; returns the ids of `added`, in order.

        `embeddings` is (len(added), embedding_dim), `biases` has a value for each where the collection has a bank of queries for one of
        their modalities, and `patches` are those of some of the pictures among them. An added item whose key exists replaces that item and
        keeps its id; the keys of `added` and `moved` are those after the commit, so an item may be added under a key that a moved or
        deleted one leaves. A move onto the key of another item replaces that one. Open ledger lines of keys that are added, moved or
        skipped now are closed. `counts` and `cursor` are noted on the run.

        Raises `InvalidInput` for keys given twice and embeddings, biases or patches that don't fit, `OutOfSpace`, `DatabaseUnavailable`;
        then nothing has changed.
        """
        change = Change(run_id, added, embeddings, biases, patches, moved, touched, skipped, deleted, counts, cursor)
        self._check(collection_id, change)
        try:
            placement = self._place(collection_id, change)
            folder, banks = self._collection_folder(collection_id), self._bank_fingerprints(collection_id)
            sealed = write_segments(folder, change, placement=placement, bank_fingerprints=banks)
            with self._writing() as connection:
                apply_change(connection, collection_id, change, placement=placement, sealed=sealed)
        except BaseException:
            self._sweep_after_failure()
            raise
        logger.info(
            "committed collection=%d added=%d moved=%d deleted=%d skipped=%d",
            collection_id,
            len(added),
            len(moved),
            len(deleted),
            len(skipped),
        )
        return [placed.item_id for placed in placement.placed]

    def compact(self, collection_id: CollectionId, *, force: bool = False, queries: Embeddings | None = None) -> CompactionReport:
        """Merge the segments of each modality into one, drop dead rows and build the index that the planner chooses.

        Patches stay with their rows; while some are of another fusion encoder than others these segments stay apart.

        Does nothing to a modality that is one segment with no dead row, unless `force`d. `queries` (any number, 256 are used) are
        embeddings of the kind that will be asked; an index is tuned with them, or with stored rows for want of any. Raises
        `CorruptSegment` where a source is damaged: nothing has changed.
        """
        snapshot = self._snapshot(collection_id)
        reports = []
        for modality in Modality:
            groups = merge_groups([segment for segment in snapshot.segments if segment.modality is modality])
            worth_it = [segments for segments in groups if force or len(segments) > 1 or len(segments[0].dead_rows)]
            reports += [self._merge(snapshot, segments, queries) for segments in worth_it]
        return total_of(reports, live_rows=snapshot.num_items())

    def compact_if_worth_it(self, collection_id: CollectionId, *, queries: Embeddings | None = None) -> CompactionReport:
        """Merge what `worth_merging` says: many small segments, mostly dead ones, an index that has fallen behind.

        It is done after something else that is finished by then, and can wait: where a file is damaged or the disk is full, that is
        logged, and those segments stay as they are.
        """
        snapshot = self._snapshot(collection_id)
        records = self._catalogue.collection_view(collection_id).segments
        reports = []
        for modality in Modality:
            live = [view.segment for view in records if view.segment.modality is modality]
            chosen = {record.folder for record in worth_merging(live, exact_max_rows=self._options.index.exact_max_rows)}
            for segments in merge_groups([segment for segment in snapshot.segments if segment.files.folder.name in chosen]):
                try:
                    reports.append(self._merge(snapshot, segments, queries))
                except (CorruptSegment, OutOfSpace) as error:
                    logger.warning("collection=%d segments=%d were not merged: %s", collection_id, len(segments), error)
        return total_of(reports, live_rows=snapshot.num_items())

    def replace_bank(self, collection_id: CollectionId, bank: StoredBank, biases_of: BiasesOf, *, queries: Embeddings | None = None) -> int:
        """Give a collection another bank for items of one modality and all of these their biases from it, in one commit.

        `biases_of` gives the biases of stored embeddings, (rows, embedding_dim) fp16 -> (rows,). Nothing is embedded again: segments get
        successors with the same rows, whose other files are linked and whose indexes are built anew, tuned with `queries` as `compact`
        says. Segments whose biases are from this very bank stay. Returns how many segments were succeeded. Raises `CorruptSegment` where
        one is damaged, `OutOfSpace`; then nothing has changed.
        """
        snapshot, record = self._snapshot(collection_id), bank.record
        segments = [segment for segment in snapshot.segments if segment.modality is record.modality]
        stale = [segment for segment in segments if segment.files.manifest.bank_fingerprint != record.fingerprint]
        others = [segment for segment in snapshot.segments if segment.modality is not record.modality]
        self._require_room(sum(segment.files.num_rows for segment in stale) * (snapshot.collection.embedding_dim + 16))

        def successor(folder: Path, former: LiveSegment) -> tuple[Manifest, str]:
            is_indexed = former.files.manifest.index is not None and former.num_live > 0
            rows = replace(merged_rows([former], bank=None), bank=record)  # whatever bank they are biased by now
            tuning = tuning_queries(rows, queries, other_modality=others) if is_indexed else None
            return rebiased_segment(folder, former, biases_of, bank=record, options=self._options.index, tuning=tuning)

        self._succeed(snapshot, stale, successor, also=lambda connection: writes.put_bank(connection, collection_id, bank))
        logger.info("bank=%s of collection=%d for %ss: segments=%d", record.fingerprint[:12], collection_id, record.modality, len(stale))
        return len(stale)

    def add_patches(
        self, collection_id: CollectionId, segment: LiveSegment, patch_format: PatchFormat, blocks: Iterable[ItemPatches]
    ) -> int:
        """Give pictures of a segment patches, in one commit; nothing else of it changes. Returns how many pictures of it have some then.

        `blocks` may be a generator that makes them: one block is in memory at a time. Patches of the same format that the segment has
        for other pictures stay, so a segment too large for one go is patched in several; those of another fusion encoder go, and
        so do all where a file of them is damaged. Which are missing is told by `LiveSegment.unpatched_item_ids`. Raises `InvalidInput` for
        texts, for items that are not in the segment or come twice, and for a segment that has been compacted away since; `OutOfSpace`. Then
        nothing has changed.
        """
        snapshot = self._snapshot(collection_id)
        folder = segment.files.folder
        if segment.modality is not Modality.IMAGE or folder not in {live.files.folder for live in snapshot.segments}:
            raise InvalidInput(f"{folder.name} is no segment of pictures in collection {collection_id}; take them from a new snapshot")
        self._require_room(segment.files.manifest.patch_bytes)

        def successor(target: Path, former: LiveSegment) -> tuple[Manifest, str]:
            return patched_segment(target, former.files, patch_format, blocks)

        (manifest,) = self._succeed(snapshot, [segment], successor)
        logger.info("patched collection=%d rows=%d of=%d", collection_id, manifest.num_patched_rows, manifest.num_rows)
        return manifest.num_patched_rows

    def remove_banks(self, collection_id: CollectionId) -> None:
        """Take no hubness bias off any more; the biases stay in their files, of no use, until the next compaction."""
        with self._writing() as connection:
            writes.remove_banks(connection, collection_id, modalities=list(Modality))
            writes.bump_generation(connection, collection_id)

    def drop_collection(self, collection_id: CollectionId) -> None:
        """Delete a collection, its items, runs and ledger, and its files, those of pictures that were sent to it included."""
        with self._writing() as connection:
            writes.drop_collection(connection, collection_id)
        shutil.rmtree(self._collection_folder(collection_id), ignore_errors=True)
        shutil.rmtree(uploads_folder(self._folder, collection_id=collection_id), ignore_errors=True)
        logger.info("dropped collection=%d", collection_id)

    def release_segments(self, collection_id: CollectionId, folders: Sequence[str]) -> int:
        """Give up segments whose files are lost or damaged; returns how many items lost their embedding.

        The items stay in the catalogue with their ids; the next indexing of their sources finds them new and embeds them again.
        """
        lost = [s.segment_id for s in self._catalogue.segments(collection_id) if s.folder in set(folders)]
        before = sum(self._catalogue.num_items_by_modality(collection_id).values())
        with self._writing() as connection:
            writes.retire_segments(connection, lost, into=None)
            writes.bump_generation(connection, collection_id)
        self._sweep_segments()
        return before - sum(self._catalogue.num_items_by_modality(collection_id).values())

    def sweep(self) -> None:
        """Remove what an earlier writer left behind: unfinished and retired segments, files without a row, runs that never ended."""
        with self._writing() as connection:
            self._abandoned = frozenset(writes.mark_abandoned_runs(connection))
        for collection_id, source in self._abandoned:
            logger.info("run interrupted by the end of its process: collection=%d source=%s", collection_id, source)
        self._sweep_segments()
        known = {(s.collection_id, s.folder) for s in self._catalogue.segments()}
        for folder in (self._folder / SEGMENTS_FOLDER).glob("*/*"):
            if not folder.parent.name.isdigit() or (int(folder.parent.name), folder.name) not in known:
                logger.warning("removing a segment that nothing refers to: %s", folder)
                remove_segment(folder)

    @contextmanager
    def _writing(self) -> Iterator[Connection]:
        with self._database.writing(self._connection) as connection:
            yield connection

    def _collection_folder(self, collection_id: CollectionId) -> Path:
        return self._folder / SEGMENTS_FOLDER / str(collection_id)

    def _check(self, collection_id: CollectionId, change: Change) -> None:
        dim = self._record(collection_id).embedding_dim
        check_change(change, embedding_dim=dim, bank_fingerprints=self._bank_fingerprints(collection_id))
        patch_bytes = 0 if change.patches is None else len(change.patches.batch) * change.patches.batch.format.bytes_per_image
        self._require_room(len(change.added) * (2 * dim + _BYTES_PER_ROW_BESIDE_EMBEDDING) + patch_bytes)

    def _record(self, collection_id: CollectionId) -> CollectionRecord:
        return self._catalogue.collection_by_id(collection_id)

    def _bank_fingerprints(self, collection_id: CollectionId) -> dict[Modality, str]:
        return {bank.modality: bank.fingerprint for bank in self._catalogue.banks(collection_id)}

    def _require_room(self, needed_bytes: int) -> None:
        require_room(self._folder, needed_bytes, min_free_bytes=self._options.min_free_bytes)

    def _place(self, collection_id: CollectionId, change: Change) -> Placement:
        """Decide ids and announce the segments, in a transaction of its own: no other writer can come between."""
        leaving = {move.item_id for move in change.moved} | set(change.deleted)
        with self._writing() as connection:
            taken_over = writes.item_ids_by_key(connection, collection_id, [move.key for move in change.moved])
            displaced = set(taken_over.values()) - leaving
            existing = writes.item_ids_by_key(connection, collection_id, [item.key for item in change.added])
            existing = {key: item_id for key, item_id in existing.items() if item_id not in leaving}
            folders = {modality: uuid.uuid4().hex for modality in Modality if any(i.modality is modality for i in change.added)}
            segment_ids = {
                modality: writes.begin_segment(connection, collection_id, folder=folder, modality=modality)
                for modality, folder in folders.items()
            }
            fresh_id = first = writes.next_item_id(connection)
        placed = []
        for item in change.added:
            item_id = existing.get(item.key)
            if item_id is None:
                item_id, fresh_id = ItemId(fresh_id), fresh_id + 1
            placed.append(PlacedItem(item, item_id, segment_ids[item.modality]))
        return Placement(tuple(placed), frozenset(existing.values()), fresh_id - first, tuple(set(change.deleted) | displaced), folders)

    def _merge(self, snapshot: Snapshot, segments: Sequence[LiveSegment], queries: Embeddings | None) -> CompactionReport:
        """Replace `segments` (one modality) by one; the items are repointed in one statement."""
        collection_id, modality = snapshot.collection.collection_id, segments[0].modality
        old = self._records_of(collection_id, segments)
        merged = merged_rows(segments, bank=snapshot.bank(modality))
        if not merged.num_live:
            return self._replace_segments(collection_id, old, None)
        self._require_room(merged.num_live * merged.row_bytes)
        others = [segment for segment in snapshot.segments if segment.modality is not modality]
        tuning = tuning_queries(merged, queries, other_modality=others)
        folder = uuid.uuid4().hex
        try:
            with self._writing() as connection:
                segment_id = writes.begin_segment(connection, collection_id, folder=folder, modality=modality)
            path = self._collection_folder(collection_id) / folder
            manifest, sha256 = merge_segments(path, merged, options=self._options.index, tuning=tuning)
            return self._replace_segments(collection_id, old, (segment_id, manifest, sha256))
        except BaseException:
            self._sweep_after_failure()
            raise

    def _records_of(self, collection_id: CollectionId, segments: Sequence[LiveSegment]) -> list[SegmentRecord]:
        folders = {segment.files.folder.name for segment in segments}
        return [record for record in self._catalogue.segments(collection_id) if record.folder in folders]

    def _replace_segments(
        self, collection_id: CollectionId, old: Sequence[SegmentRecord], new: tuple[SegmentId, Manifest, str] | None
    ) -> CompactionReport:
        old_rows, old_bytes = sum(s.num_rows for s in old), sum(s.size_bytes for s in old)
        with self._writing() as connection:
            if new is not None:
                writes.make_live(connection, new[0], new[1], manifest_sha256=new[2])
            writes.retire_segments(connection, [s.segment_id for s in old], into=None if new is None else new[0])
            writes.bump_generation(connection, collection_id)
        self._sweep_segments()
        new_rows, new_bytes = (0, 0) if new is None else (new[1].num_rows, new[1].size_bytes)
        descriptions = () if new is None or new[1].index is None else (str(new[1].index),)
        logger.info("compacted collection=%d segments=%d rows=%d dropped=%d", collection_id, len(old), new_rows, old_rows - new_rows)
        return CompactionReport(len(old), old_rows - new_rows, new_rows, old_bytes - new_bytes, descriptions)

    def _succeed(
        self,
        snapshot: Snapshot,
        formers: Sequence[LiveSegment],
        successor: Callable[[Path, LiveSegment], tuple[Manifest, str]],
        *,
        also: Callable[[Connection], None] | None = None,
    ) -> list[Manifest]:
        """Put successors with the same rows, which `successor` writes, in the place of `formers`, and do what `also` does, at once."""
        collection_id = snapshot.collection.collection_id
        record_by_folder = {record.folder: record for record in self._records_of(collection_id, formers)}
        folders = [uuid.uuid4().hex for _ in formers]
        try:
            with self._writing() as connection:
                announced = [
                    writes.begin_segment(connection, collection_id, folder=folder, modality=former.modality)
                    for folder, former in zip(folders, formers, strict=True)
                ]
            sealed = [
                successor(self._collection_folder(collection_id) / folder, former) for folder, former in zip(folders, formers, strict=True)
            ]
            with self._writing() as connection:
                for segment_id, former, (manifest, sha256) in zip(announced, formers, sealed, strict=True):
                    writes.make_live(connection, segment_id, manifest, manifest_sha256=sha256)
                    writes.succeed_segment(connection, record_by_folder[former.files.folder.name].segment_id, segment_id)
                if also is not None:
                    also(connection)
                writes.bump_generation(connection, collection_id)
        except BaseException:
            self._sweep_after_failure()
            raise
        self._sweep_segments()
        return [manifest for manifest, _ in sealed]

    def _sweep_segments(self) -> None:
        """Delete the files of segments that are not live, then their rows."""
        dead = [s for s in self._catalogue.segments() if s.state is not SegmentState.LIVE]
        for segment in dead:
            remove_segment(self._collection_folder(segment.collection_id) / segment.folder)
        if dead:
            with self._writing() as connection:
                writes.forget_segments(connection, [s.segment_id for s in dead])

    def _sweep_after_failure(self) -> None:
        """Segments that have not gone live are removed; asking the catalogue is right even if the failure came after its commit."""
        try:
            self._sweep_segments()
        except StorageError as error:
            logger.warning("leftovers of a failed commit stay until the next writer: %s", error)
