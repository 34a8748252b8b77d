"""From a source to a collection that is in step with it: survey, decode ahead, embed, commit.

The source is looked through twice. The first time only listings, file sizes and times are read: it tells what is gone, without
which a move cannot be told from a new file, and how much there is to do. The second time is the work itself. So memory holds
digests of what the catalogue knows, a bounded number of decoded pictures and one commit, however large the source is.

Decoding runs on threads (Pillow, hashing and reading release the GIL) while this thread runs the network; commits are made
between batches. Killed at any moment, a run leaves the last commit, and the next one goes on from there.
"""

import logging
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from indexer.banks import Banks, collection_banks, encoder_banks
from indexer.commit_buffer import CommitBuffer, new_item
from indexer.loading import Loaded, Loader, MovedHere, PreparedImage, PreparedText, SameContent, Unusable
from indexer.look_ahead import map_ahead
from indexer.options import GonePolicy, IndexOptions, SkippedPolicy
from indexer.patching import embedded_with_patches
from indexer.progress import PlannedWork, Progress, ProgressListener, SilentProgress, SkippedInput
from indexer.report import IndexReport
from indexer.sources.source import BrokenInput, Hidden, PassedOver, Source, SourceItem
from indexer.sync import Comparison, KnownItems, Orphans, SkippedBefore, Standing, Work, paths_below
from indexer.tuning import tuning_queries
from sightline.encoders.encoder import Encoder
from sightline.errors import CollectionNotFound, EncoderMismatch, InvalidSource, SightlineError
from sightline.storage.patches import PatchBatch
from sightline.storage.records import CollectionRecord, KnownItem, LedgerEntry, Move, RunState, Touch
from sightline.storage.store import Store
from sightline.storage.writer import Writer
from sightline.types import Embeddings

if TYPE_CHECKING:  # it imports torch, which `sightline index --help` can do without
    from sightline.encoders.matcher import FusionMatcher

__all__ = ["IndexOptions", "ProgressListener", "SilentProgress", "index_source"]

logger = logging.getLogger(__name__)

_SURVEY_NEWS = 1000  # inputs between two calls of `ProgressListener.surveyed`
_SHOWN_SKIPPED = 10


def index_source(
    store: Store,
    collection: str,
    source: Source,
    encoder: Encoder,
    *,
    matcher: "FusionMatcher | None" = None,
    options: IndexOptions | None = None,
    progress: ProgressListener | None = None,
) -> IndexReport:
    """Bring `collection`, which is made if there is none, in step with `source`, and tell what was done.

    What was committed stays, whatever happens after it: on `KeyboardInterrupt` what has been embedded is committed, the run is
    marked interrupted, and the interrupt goes on to the caller. With `GonePolicy.PRUNE` items that are gone from the source
    are deleted; items of other sources never are. With a `matcher`, which must read the encoder's tokens, pictures get patches for it.

    Raises `InvalidSource` where the source has nothing to index (an empty folder, a disk that is not mounted), `EncoderMismatch`,
    `StoreBusy`, and `StorageError` such as `OutOfSpace`, after which what was committed is intact.
    """
    options = options or IndexOptions()
    progress = progress or SilentProgress()
    record = _existing_collection(store, collection, encoder)
    with store.writer() as writer:
        comparison = Comparison(_known_items(store, record, source), _skipped_before(store, record, options))
        survey = _survey(source, comparison, progress)
        _see_what_is_hidden(store, record, comparison.known, survey)
        if not survey.num_inputs:
            raise _nothing_found(source, survey, num_known=comparison.known.num_own)
        record = record or store.create_collection(
            collection,
            encoder_name=encoder.name,
            encoder_fingerprint=encoder.fingerprint,
            embedding_dim=encoder.embedding_dim,
            banks=encoder_banks(encoder),
        )
        banks = collection_banks(store, record.collection_id)
        parts = _Parts(store, writer, record, source, encoder, matcher, banks, options, progress)
        return _Run(parts, comparison, survey).run()


def _existing_collection(store: Store, name: str, encoder: Encoder) -> CollectionRecord | None:
    try:
        record = store.collection(name)
    except CollectionNotFound:
        return None
    if record.encoder_fingerprint != encoder.fingerprint:
        raise EncoderMismatch(
            f"collection {name!r} was embedded by {record.encoder_name} ({record.encoder_fingerprint[:12]}), not by {encoder.name} "
            f"({encoder.fingerprint[:12]}); index with its own encoder, or into another collection"
        )
    return record


def _known_items(store: Store, record: CollectionRecord | None, source: Source) -> KnownItems:
    items: Iterable[KnownItem] = () if record is None else store.known_items(record.collection_id)
    return KnownItems(items, roots=source.roots, folder_exists=os.path.isdir)


def _skipped_before(store: Store, record: CollectionRecord | None, options: IndexOptions) -> SkippedBefore:
    entries: list[LedgerEntry] = []
    if record is not None and options.skipped is SkippedPolicy.LEAVE:
        entries = store.ledger(record.collection_id, unresolved_only=True)
    return SkippedBefore(entries)


@dataclass(slots=True)
class _Survey:
    """What the source has, counted."""

    num_inputs: int = 0  # items and broken inputs
    num_to_do: int = 0
    num_unchanged: int = 0
    num_skipped_before: int = 0
    num_passed_over: int = 0
    hidden_locations: tuple[str, ...] = ()  # folders and shards that could not be looked into
    hidden_sources: frozenset[str] = frozenset()  # files with rows that could not be read
    num_hidden: int = 0  # known items that may be there


def _survey(source: Source, comparison: Comparison, progress: ProgressListener) -> _Survey:
    survey = _Survey()
    for scanned in source.scan():
        match scanned:
            case PassedOver():
                survey.num_passed_over += scanned.num_files
                continue
            case BrokenInput():
                survey.num_to_do += 1
                _see_broken(comparison.known, scanned)
                _note_hidden(survey, scanned)
            case SourceItem():
                match comparison.compare(scanned).standing:
                    case Standing.UNCHANGED:
                        survey.num_unchanged += 1
                    case Standing.SKIPPED_BEFORE:
                        survey.num_skipped_before += 1
                    case _:
                        survey.num_to_do += 1
        survey.num_inputs += 1
        if survey.num_inputs % _SURVEY_NEWS == 0:
            progress.surveyed(survey.num_inputs)
    return survey


def _see_broken(known: KnownItems, broken: BrokenInput) -> None:
    """An input that is there and cannot be read now is not gone."""
    row = known.row_at(broken.location)
    if row is not None:
        known.see(row)


def _note_hidden(survey: _Survey, broken: BrokenInput) -> None:
    match broken.hides:
        case Hidden.BELOW:
            survey.hidden_locations = (*survey.hidden_locations, broken.location)
        case Hidden.SOURCE:
            survey.hidden_sources |= {broken.source}
        case Hidden.NONE:
            pass


def _see_what_is_hidden(store: Store, record: CollectionRecord | None, known: KnownItems, survey: _Survey) -> None:
    """What lies where the source could not be read is not gone, and must neither be deleted nor be taken for moved."""
    num_unseen = len(known.gone_rows())
    for source in survey.hidden_sources:
        known.see_source(source)
    if survey.hidden_locations and record is not None:
        known.see_below(store.known_items(record.collection_id), tuple(paths_below(survey.hidden_locations)))
    survey.num_hidden = num_unseen - len(known.gone_rows())


def _nothing_found(source: Source, survey: _Survey, *, num_known: int) -> InvalidSource:
    others = f" ({survey.num_passed_over:,} other files)" if survey.num_passed_over else ""
    message = f"{source.name} holds nothing to index{others}"
    if num_known:
        message += f", while {num_known:,} items of the collection come from it: is its disk mounted? Nothing was changed"
    return InvalidSource(message)


@dataclass(frozen=True, slots=True)
class _Parts:
    """What a run works with."""

    store: Store
    writer: Writer
    record: CollectionRecord
    source: Source
    encoder: Encoder
    matcher: "FusionMatcher | None"
    banks: Banks
    options: IndexOptions
    progress: ProgressListener


class _Run:
    """One indexing run, from its entry in the catalogue to its report."""

    def __init__(self, parts: _Parts, comparison: Comparison, survey: _Survey) -> None:
        self._parts = parts
        self._known = comparison.known
        self._comparison = comparison
        self._survey = survey
        self._orphans = Orphans(self._known)
        self._run_id = parts.writer.start_run(parts.record.collection_id, parts.source.name)
        self._buffer = CommitBuffer(
            parts.writer, parts.record.collection_id, self._run_id, banks=parts.banks, options=parts.options, progress=parts.progress
        )
        self._images: list[PreparedImage] = []  # the next batch
        self._texts: list[PreparedText] = []
        self._shown_skipped: list[SkippedInput] = []
        self._num_done = 0
        self._started_s = time.monotonic()

    def run(self) -> IndexReport:
        state = RunState.FAILED
        try:
            self._tell_plan()
            self._index()
            self._settle_gone()
            self._buffer.commit()
            state = RunState.FINISHED
        except KeyboardInterrupt:
            state = RunState.INTERRUPTED
            self._buffer.commit()
            raise
        finally:
            self._finish(state)
        self._compact()
        return self._report()

    def _tell_plan(self) -> None:
        survey = self._survey
        num_gone = len(self._known.gone_rows())
        self._parts.progress.planned(
            PlannedWork(survey.num_inputs, survey.num_to_do, survey.num_unchanged, num_gone, survey.num_passed_over)
        )

    def _index(self) -> None:
        options = self._parts.options
        loader = Loader(self._parts.encoder, self._comparison, self._orphans, max_pixels=options.max_pixels)
        executor = ThreadPoolExecutor(options.num_workers, thread_name_prefix="decode")
        try:
            with closing(map_ahead(executor, loader.load, self._work(), limit=options.look_ahead)) as loaded_inputs:
                for loaded in loaded_inputs:
                    self._take(loaded)
                    is_late = self._buffer.is_late
                    self._embed(at_least=1 if is_late else options.batch_images)
                    if is_late or self._buffer.is_full:
                        self._commit()
        finally:
            executor.shutdown(wait=True, cancel_futures=True)
        self._embed(at_least=1)

    def _work(self) -> Iterator[Work]:
        """What has to be read; what has not is settled on the way."""
        for scanned in self._parts.source.scan():
            match scanned:
                case BrokenInput():
                    self._skip(SkippedInput(scanned.key, scanned.cause, scanned.error_class), source=scanned.source)
                    self._num_done += 1
                case SourceItem():
                    work = self._comparison.compare(scanned)
                    if work.standing is Standing.UNCHANGED:
                        self._keep(work)
                    elif work.standing is Standing.SKIPPED_BEFORE:
                        self._buffer.count(skipped=1)
                    else:
                        yield work
            if self._buffer.is_full:
                self._commit()

    def _keep(self, work: Work) -> None:
        self._buffer.count(unchanged=1)
        if work.row is not None and self._comparison.is_adopted(work):
            self._buffer.move(self._move(work, work.row))

    def _move(self, work: Work, row: int) -> Move:
        item = work.item
        key = item.key if self._known.has_key(row, item.key) else self._comparison.key_for(item)
        return Move(self._known.item_id(row), key, item.source, item.mtime_ns)

    def _take(self, loaded: Loaded) -> None:
        if not isinstance(loaded, PreparedImage | PreparedText):  # those are done once they are embedded
            self._num_done += 1
        match loaded:
            case PreparedImage():
                self._images.append(loaded)
            case PreparedText():
                self._texts.append(loaded)
            case SameContent(work):
                assert work.row is not None
                self._buffer.count(unchanged=1)
                self._buffer.touch(Touch(self._known.item_id(work.row), work.item.mtime_ns, work.item.size_bytes))
            case MovedHere(work, row):
                self._buffer.count(moved=1)
                self._buffer.move(self._move(work, row))
            case Unusable(work, cause, error_class, content_hash):
                key, source = self._identity(work)
                skipped = SkippedInput(key, cause, error_class)
                self._skip(skipped, source=source, item=work.item, content_hash=content_hash)

    def _skip(self, skipped: SkippedInput, *, source: str, item: SourceItem | None = None, content_hash: str | None = None) -> None:
        if len(self._shown_skipped) < _SHOWN_SKIPPED:
            self._shown_skipped.append(skipped)
        size_bytes, mtime_ns = (item.size_bytes, item.mtime_ns) if item is not None else (0, 0)
        self._buffer.skip(skipped, source=source, size_bytes=size_bytes, mtime_ns=mtime_ns, content_hash=content_hash)

    def _embed(self, *, at_least: int) -> None:
        """Run the network over what is prepared, if that is enough for a batch."""
        if self._images and len(self._images) >= at_least:
            images, self._images = self._images, []
            embeddings, patches = self._embed_pixels(np.stack([image.pixels for image in images]))
            self._add(images, embeddings, patches)
        if self._texts and len(self._texts) >= at_least:
            texts, self._texts = self._texts, []
            self._add(texts, self._parts.encoder.embed_texts([text.text for text in texts]))

    def _embed_pixels(self, pixels: NDArray[Any]) -> tuple[Embeddings, PatchBatch | None]:
        encoder, matcher = self._parts.encoder, self._parts.matcher
        if matcher is None:
            return encoder.embed_pixels(pixels), None
        return embedded_with_patches(pixels, encoder, matcher)

    def _add(self, prepared: Sequence[PreparedImage | PreparedText], embeddings: Embeddings, patches: PatchBatch | None = None) -> None:
        items = []
        for one in prepared:
            key, source = self._identity(one.work)
            items.append(new_item(one, key=key, source=source))
        self._buffer.add(items, embeddings, patches=patches)
        self._num_done += len(prepared)
        num_new = sum(one.work.row is None for one in prepared)
        self._buffer.count(new=num_new, changed=len(prepared) - num_new)
        self._tell_progress()

    def _identity(self, work: Work) -> tuple[str, str]:
        """Key and source under which an item is, or will be, in the catalogue."""
        item, row = work.item, work.row
        if row is None:
            return self._comparison.key_for(item), item.source
        if self._known.source(row) == item.source:
            for key in (item.key, item.location):
                if self._known.has_key(row, key):
                    return key, item.source
        # The item belongs to a folder above or below this one and has a key of that one's.
        item_id = self._known.item_id(row)
        known = self._parts.store.items(self._parts.record.collection_id, [item_id])[item_id]
        return known.key, known.source

    def _commit(self) -> None:
        self._buffer.commit()
        self._tell_progress()

    def _tell_progress(self) -> None:
        counts = self._buffer.counts
        num_to_do = max(self._survey.num_to_do, self._num_done)
        elapsed_s = time.monotonic() - self._started_s
        self._parts.progress.advanced(Progress(self._num_done, num_to_do, counts.new + counts.changed, counts.skipped, elapsed_s))

    def _settle_gone(self) -> None:
        """Count what the source has no more, less what turned out to have moved; delete it where that was asked for."""
        gone = self._known.item_ids(self._known.gone_rows())
        self._buffer.count(gone=len(gone))
        if self._parts.options.gone is GonePolicy.PRUNE:
            commit_items = self._parts.options.commit_items
            for start in range(0, len(gone), commit_items):
                chunk = gone[start : start + commit_items]
                self._buffer.delete(chunk)
                self._buffer.count(pruned=len(chunk))
                self._buffer.commit()

    def _finish(self, state: RunState) -> None:
        self._tell_progress()
        try:
            self._parts.writer.finish_run(self._run_id, state, self._buffer.committed_counts)
        except SightlineError as error:
            if state is RunState.FINISHED:
                raise
            # What ended the run is on its way to the caller; the next writer marks the run as interrupted.
            logger.warning("run=%d could not be marked as %s: %s", self._run_id, state, error)
            logger.debug("run=%d could not be marked as %s", self._run_id, state, exc_info=True)
        logger.info("run=%d %s counts=%s duration_s=%.1f", self._run_id, state, self._buffer.committed_counts, self._duration_s)

    def _compact(self) -> None:
        record = self._parts.record
        queries = tuning_queries(self._parts.store, record, lambda: self._parts.encoder)
        self._parts.writer.compact_if_worth_it(record.collection_id, queries=queries)

    @property
    def _duration_s(self) -> float:
        return time.monotonic() - self._started_s

    def _report(self) -> IndexReport:
        return IndexReport(
            run_id=self._run_id,
            collection=self._parts.record.name,
            source=self._parts.source.name,
            counts=self._buffer.counts,
            num_skipped_before=self._survey.num_skipped_before,
            num_hidden=self._survey.num_hidden,
            num_passed_over=self._survey.num_passed_over,
            skipped=tuple(self._shown_skipped),
            duration_s=self._duration_s,
        )
