"""What storage takes and gives: frozen values, never ORM rows."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sightline.types import CollectionId, ItemId, JsonObject, Modality, RunId, SegmentId


@dataclass(frozen=True, slots=True)
class CollectionRecord:
    """A named set of items, all embedded by one encoder."""

    collection_id: CollectionId
    name: str
    encoder_name: str
    encoder_fingerprint: str
    embedding_dim: int
    generation: int  # moves on with every commit that changes what a search can find
    created_at: datetime
    description: str  # what it holds, for people; empty where nobody has said


@dataclass(frozen=True, slots=True)
class BankRecord:
    """The bank of queries that a collection's items of one modality take their hubness bias from."""

    modality: Modality  # of the items
    fingerprint: str  # of what the biases depend on
    strength: float  # how much of the bias a search takes off, in [0, 1]
    num_queries: int  # in the bank: queries or their centroids
    origin: str  # where the queries are from, in words


@dataclass(frozen=True, slots=True)
class StoredBank:
    """A bank with its content, which storage keeps and does not read: `sightline.encoders.query_bank` does."""

    record: BankRecord
    content: bytes


@dataclass(frozen=True, slots=True, eq=False)
class RowBiases:
    """Hubness biases of embeddings, row for row, and the banks that they were taken from."""

    values: NDArray[np.float32]  # (rows,); of no meaning where the item's modality has no bank
    fingerprint_by_modality: Mapping[Modality, str]


@dataclass(frozen=True, slots=True)
class NewItem:
    """An item to add, or to put in the place of the one that has its key."""

    key: str  # unique in the collection: a path relative to the source's folder (posix), a URL or the caller's id
    modality: Modality
    source: str  # absolute folder, manifest path or URL that it came from
    content_hash: str
    size_bytes: int
    mtime_ns: int
    text: str | None = None  # caption of an image, or the text body
    width: int | None = None  # pixels, after EXIF orientation
    height: int | None = None
    metadata: JsonObject = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class KnownItem:
    """What sync compares a source with."""

    item_id: ItemId
    key: str
    source: str
    modality: Modality
    content_hash: str
    size_bytes: int
    mtime_ns: int


@dataclass(frozen=True, slots=True)
class ItemRecord:
    """Everything that the catalogue knows of an item but its embedding."""

    item_id: ItemId
    key: str
    source: str
    modality: Modality
    content_hash: str
    text: str | None
    width: int | None
    height: int | None
    metadata: JsonObject
    size_bytes: int
    mtime_ns: int
    indexed_at: datetime


class FoundItem(NamedTuple):
    """What an answer shows of an item; a tuple, since each search makes a page of them."""

    item_id: ItemId
    key: str
    source: str
    modality: Modality
    text: str | None
    width: int | None
    height: int | None
    metadata: JsonObject


@dataclass(frozen=True, slots=True)
class Move:
    """A known item that is now at another place with the same content; its embedding stays."""

    item_id: ItemId
    key: str
    source: str
    mtime_ns: int


@dataclass(frozen=True, slots=True)
class Touch:
    """A known item whose file has another time (or size on disk) and the same content."""

    item_id: ItemId
    mtime_ns: int
    size_bytes: int


class JobState(StrEnum):
    """Where a job of the service is."""

    QUEUED = "queued"
    RUNNING = "running"
    PAUSED = "paused"  # until somebody resumes it
    DONE = "done"
    FAILED = "failed"  # may be retried
    CANCELLED = "cancelled"

    @property
    def has_ended(self) -> bool:
        """Whether nothing more will happen to it by itself."""
        return self in (JobState.DONE, JobState.FAILED, JobState.CANCELLED)


class RunState(StrEnum):
    """How far an indexing run is."""

    RUNNING = "running"
    FINISHED = "finished"
    INTERRUPTED = "interrupted"  # by the user, or its process is gone
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class RunCounts:
    """Numbers of inputs of an indexing run, by what became of them."""

    new: int = 0
    changed: int = 0
    moved: int = 0
    unchanged: int = 0
    gone: int = 0  # in the catalogue and no longer in the source
    pruned: int = 0  # of the gone, those that were deleted from the catalogue
    skipped: int = 0


@dataclass(frozen=True, slots=True)
class RunRecord:
    """One indexing run."""

    run_id: RunId
    collection_id: CollectionId
    source: str
    state: RunState
    started_at: datetime
    finished_at: datetime | None
    cursor: str | None  # what the indexer noted of its place in the source at the last commit
    counts: RunCounts


@dataclass(frozen=True, slots=True)
class LedgerEntry:
    """An input that was skipped, and why."""

    run_id: RunId
    key: str
    source: str
    cause: str  # the sentence that a person reads
    error_class: str
    size_bytes: int
    mtime_ns: int
    content_hash: str | None
    at: datetime
    resolved_at: datetime | None = None  # when the key was indexed after all, or skipped again by a later run


class SegmentState(StrEnum):
    """The life of a segment."""

    BUILDING = "building"  # its files are being written; a writer that finds one of another's sweeps it
    LIVE = "live"
    RETIRED = "retired"  # merged into another; its files may be gone


@dataclass(frozen=True, slots=True)
class SegmentRecord:
    """A segment as the catalogue knows it."""

    segment_id: SegmentId
    collection_id: CollectionId
    folder: str  # name below `segments/<collection_id>/`
    modality: Modality
    state: SegmentState
    num_rows: int
    num_tombstones: int
    size_bytes: int
    manifest_sha256: str
    index_description: str | None  # FAISS factory string and search parameters; None: searched exactly
    ann_recall: float | None  # measured against exact search when the index was built
    num_patched_rows: int = 0  # live and dead
    patch_bytes: int = 0  # of them all
    fusion_fingerprint: str | None = None  # of the fusion encoder whose patches they are; None: there are none


@dataclass(frozen=True, slots=True)
class PatchStatistics:
    """Patches that one fusion encoder can read."""

    fusion_fingerprint: str
    num_images: int  # that have them; deleted rows that wait for a compaction count as such that had some
    bytes_per_image: int


@dataclass(frozen=True, slots=True)
class CollectionStatistics:
    """The size and shape of a collection."""

    num_items_by_modality: dict[Modality, int]
    num_missing_embeddings: int  # items that cannot be found until their source is indexed again
    num_segments: int
    num_tombstones: int
    size_bytes: int  # of the segments' files
    index_descriptions: tuple[str, ...]  # one a live segment
    ann_recall: float | None  # the lowest of the live indexes; None: every search is exact
    banks: tuple[BankRecord, ...]  # what hubness biases are taken from, one a modality at most
    patches: tuple[PatchStatistics, ...]  # one a fusion encoder, of which there is more than one only while patches are made anew


@dataclass(frozen=True, slots=True)
class CompactionReport:
    """What a compaction did."""

    merged_segments: int
    dropped_rows: int
    live_rows: int
    freed_bytes: int  # negative where an index was added
    index_descriptions: tuple[str, ...]  # one a segment written


@dataclass(frozen=True, slots=True)
class RepairReport:
    """What a repair gave up."""

    num_items: int  # that lost their embedding
    sources_by_collection: dict[str, tuple[str, ...]]  # to be indexed again, for the collections that had damage


class Severity(StrEnum):
    """How bad a finding of `verify` is."""

    WARNING = "warning"  # takes room, loses nothing
    ERROR = "error"  # searches fail or miss items


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that `verify` found wrong."""

    severity: Severity
    what: str  # the cause alone
    where: str
    what_to_do: str
    collection: str | None = None  # None for what belongs to no collection
    sources: tuple[str, ...] = ()  # of the items that are to be indexed again
