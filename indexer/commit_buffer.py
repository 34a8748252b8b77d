"""What is ready to be committed, and the commits."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

import numpy as np

from indexer.banks import Banks, row_biases
from indexer.loading import PreparedImage, PreparedText
from indexer.options import IndexOptions
from indexer.progress import ProgressListener, SkippedInput
from sightline.storage.patches import AddedPatches, PatchBatch, joined_patches
from sightline.storage.records import LedgerEntry, Move, NewItem, RunCounts, Touch
from sightline.storage.writer import Writer
from sightline.types import CollectionId, Embeddings, ItemId, Modality, RunId


@dataclass(slots=True)
class _Pending:
    """One commit in the making."""

    added: list[NewItem] = field(default_factory=list)
    embeddings: list[Embeddings] = field(default_factory=list)  # batches, whose rows together are those of `added`
    patches: list[AddedPatches] = field(default_factory=list)  # of some of them; positions are those in `added`
    moved: list[Move] = field(default_factory=list)
    touched: list[Touch] = field(default_factory=list)
    skipped: list[LedgerEntry] = field(default_factory=list)
    deleted: list[ItemId] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.added) + len(self.moved) + len(self.touched) + len(self.skipped) + len(self.deleted)


class CommitBuffer:
    """Gathers what becomes true with the next commit, and what the run has counted so far."""

    def __init__(
        self, writer: Writer, collection_id: CollectionId, run_id: RunId, *, banks: Banks, options: IndexOptions, progress: ProgressListener
    ) -> None:
        self._writer = writer
        self._banks = banks
        self._collection_id = collection_id
        self._run_id = run_id
        self._options = options
        self._progress = progress
        self._pending = _Pending()
        self._last_commit_s = time.monotonic()
        self.counts = RunCounts()
        self.committed_counts = RunCounts()  # as of the last commit: what a run that ends badly has to show

    def __len__(self) -> int:
        return len(self._pending)

    @property
    def is_full(self) -> bool:
        """Whether enough has gathered for a commit."""
        return len(self._pending) >= self._options.commit_items

    @property
    def is_late(self) -> bool:
        """Whether the time for a commit has come, with or without anything here to be committed."""
        return time.monotonic() - self._last_commit_s >= self._options.commit_seconds

    def count(self, **increments: int) -> None:
        """Add to the run's counts, by their names in `RunCounts`."""
        self.counts = replace(self.counts, **{name: getattr(self.counts, name) + increment for name, increment in increments.items()})

    def add(self, items: Sequence[NewItem], embeddings: Embeddings, *, patches: PatchBatch | None = None) -> None:
        """Embedded items, their rows and, for pictures, their patches where some are to be stored."""
        assert embeddings.shape[0] == len(items)
        if patches is not None:
            assert len(patches) == len(items)
            first = len(self._pending.added)
            self._pending.patches.append(AddedPatches(np.arange(first, first + len(items)), patches))
        self._pending.added.extend(items)
        self._pending.embeddings.append(embeddings)

    def move(self, move: Move) -> None:
        """An item that is elsewhere now."""
        self._pending.moved.append(move)

    def touch(self, touch: Touch) -> None:
        """An item whose file looks different and is the same."""
        self._pending.touched.append(touch)

    def delete(self, item_ids: Sequence[ItemId]) -> None:
        """Items that go."""
        self._pending.deleted.extend(item_ids)

    def skip(self, skipped: SkippedInput, *, source: str, size_bytes: int = 0, mtime_ns: int = 0, content_hash: str | None = None) -> None:
        """An input for the ledger."""
        self.count(skipped=1)
        self._progress.skipped(skipped)
        self._pending.skipped.append(
            LedgerEntry(
                run_id=self._run_id,
                key=skipped.key,
                source=source,
                cause=skipped.cause,
                error_class=skipped.error_class,
                size_bytes=size_bytes,
                mtime_ns=mtime_ns,
                content_hash=content_hash,
                at=datetime.now(UTC),
            )
        )

    def commit(self) -> None:
        """Make what has gathered true; whatever happens to the commit, it is not tried twice."""
        pending, self._pending = self._pending, _Pending()
        self._last_commit_s = time.monotonic()
        if not len(pending):
            self.committed_counts = self.counts
            return
        embeddings = np.concatenate(pending.embeddings) if pending.embeddings else None
        self._writer.commit(
            self._collection_id,
            run_id=self._run_id,
            added=pending.added,
            embeddings=embeddings,
            biases=None if embeddings is None else row_biases(self._banks, pending.added, embeddings),
            patches=joined_patches(pending.patches),
            moved=pending.moved,
            touched=pending.touched,
            skipped=pending.skipped,
            deleted=pending.deleted,
            counts=self.counts,
        )
        self.committed_counts = self.counts
        self._progress.committed(len(pending.added) + len(pending.moved))
        self._last_commit_s = time.monotonic()


def new_item(prepared: PreparedImage | PreparedText, *, key: str, source: str) -> NewItem:
    """What the catalogue will know of it."""
    item = prepared.work.item
    size = (prepared.width, prepared.height) if isinstance(prepared, PreparedImage) else (None, None)
    return NewItem(
        key=key,
        modality=Modality.IMAGE if isinstance(prepared, PreparedImage) else Modality.TEXT,
        source=source,
        content_hash=prepared.content_hash,
        size_bytes=item.size_bytes,
        mtime_ns=item.mtime_ns,
        text=item.text,
        width=size[0],
        height=size[1],
        metadata=item.metadata,
    )
