"""The catalogue's tables.

An item names the segment of its row; the row itself is the position of its `item_id` among the segment's sorted ids, so a
compaction repoints its items in one statement. A tombstone names the row that a deletion or a replacement has left behind.
"""

import enum
from datetime import datetime
from typing import Any

from sqlalchemy import CheckConstraint, Enum, ForeignKey, Index, LargeBinary, MetaData, String, UniqueConstraint
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from sightline.storage.columns import BIG_INTEGER, JSON_OBJECT, CleanText, PathText, UtcDateTime
from sightline.storage.records import JobState, RunState, SegmentState
from sightline.types import Modality

SCHEMA_REVISION = "0005"
"""The newest migration: an open of a database at this revision needs no Alembic."""

_NEVER_REUSE_KEYS = {"sqlite_autoincrement": True}
"""A reader may hold a collection or segment that is gone: no later one may have its key. PostgreSQL's sequences do so anyway."""


class Base(DeclarativeBase):
    """All tables; every constraint has a name, so that migrations can speak of it on both databases."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
            "pk": "pk_%(table_name)s",
        }
    )


def _one_of(values: type[enum.StrEnum], *, name: str) -> Enum:
    """The values of a StrEnum as text with a CHECK: PostgreSQL's own enums can't lose a value in a migration."""
    return Enum(values, name=name, native_enum=False, create_constraint=True, length=16, values_callable=lambda e: [m.value for m in e])


class CatalogueRow(Base):
    """The one row that says which store this is, and the next item id: ids are never used twice."""

    __tablename__ = "catalogue"
    __table_args__ = (CheckConstraint("catalogue_id = 1", name="single_row"),)

    catalogue_id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    store_uuid: Mapped[str] = mapped_column(String(32))
    next_item_id: Mapped[int] = mapped_column(BIG_INTEGER)
    writer: Mapped[str | None] = mapped_column(CleanText)  # process and host of the last writer, for the message of `StoreBusy`
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)


class CollectionRow(Base):
    """A named set of items, all embedded by one encoder."""

    __tablename__ = "collection"
    __table_args__ = (UniqueConstraint("name"), _NEVER_REUSE_KEYS)

    collection_id: Mapped[int] = mapped_column(BIG_INTEGER, primary_key=True)
    name: Mapped[str] = mapped_column(CleanText)
    description: Mapped[str] = mapped_column(CleanText, server_default="")
    encoder_name: Mapped[str] = mapped_column(PathText)
    encoder_fingerprint: Mapped[str] = mapped_column(String(128))
    embedding_dim: Mapped[int]
    generation: Mapped[int] = mapped_column(BIG_INTEGER)
    index_settings: Mapped[dict[str, Any]] = mapped_column(JSON_OBJECT)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)


class QueryBankRow(Base):
    """The bank of queries that hubness biases of a collection's items of one modality are taken from."""

    __tablename__ = "query_bank"

    collection_id: Mapped[int] = mapped_column(ForeignKey("collection.collection_id", ondelete="CASCADE"), primary_key=True)
    modality: Mapped[Modality] = mapped_column(_one_of(Modality, name="modality"), primary_key=True)
    fingerprint: Mapped[str] = mapped_column(String(128))
    strength: Mapped[float]
    num_queries: Mapped[int] = mapped_column(BIG_INTEGER)
    origin: Mapped[str] = mapped_column(PathText)
    content: Mapped[bytes] = mapped_column(LargeBinary)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)


class SegmentRow(Base):
    """An immutable set of files with one embedding a row."""

    __tablename__ = "segment"
    __table_args__ = (UniqueConstraint("folder"), Index(None, "collection_id"), _NEVER_REUSE_KEYS)

    segment_id: Mapped[int] = mapped_column(BIG_INTEGER, primary_key=True)
    collection_id: Mapped[int] = mapped_column(ForeignKey("collection.collection_id", ondelete="CASCADE"))
    folder: Mapped[str] = mapped_column(String(32))
    modality: Mapped[Modality] = mapped_column(_one_of(Modality, name="modality"))
    state: Mapped[SegmentState] = mapped_column(_one_of(SegmentState, name="state"))
    num_rows: Mapped[int] = mapped_column(BIG_INTEGER)
    num_tombstones: Mapped[int] = mapped_column(BIG_INTEGER)
    size_bytes: Mapped[int] = mapped_column(BIG_INTEGER)
    manifest_sha256: Mapped[str] = mapped_column(String(64))
    index_description: Mapped[str | None] = mapped_column(CleanText)
    ann_recall: Mapped[float | None]
    num_patched_rows: Mapped[int] = mapped_column(BIG_INTEGER, server_default="0")
    patch_bytes: Mapped[int] = mapped_column(BIG_INTEGER, server_default="0")
    fusion_fingerprint: Mapped[str | None] = mapped_column(String(128))
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)


class ItemRow(Base):
    """What can be found. `segment_id` is absent while the item has no embedding (its segment was lost)."""

    __tablename__ = "item"
    __table_args__ = (UniqueConstraint("collection_id", "key"), Index(None, "segment_id"))

    item_id: Mapped[int] = mapped_column(BIG_INTEGER, primary_key=True, autoincrement=False)
    collection_id: Mapped[int] = mapped_column(ForeignKey("collection.collection_id", ondelete="CASCADE"))
    segment_id: Mapped[int | None] = mapped_column(ForeignKey("segment.segment_id"))
    modality: Mapped[Modality] = mapped_column(_one_of(Modality, name="modality"))
    key: Mapped[str] = mapped_column(PathText)
    source: Mapped[str] = mapped_column(PathText)
    content_hash: Mapped[str] = mapped_column(String(128))
    size_bytes: Mapped[int] = mapped_column(BIG_INTEGER)
    mtime_ns: Mapped[int] = mapped_column(BIG_INTEGER)
    text: Mapped[str | None] = mapped_column(CleanText)
    width: Mapped[int | None]
    height: Mapped[int | None]
    item_metadata: Mapped[dict[str, Any]] = mapped_column("metadata", JSON_OBJECT)
    indexed_at: Mapped[datetime] = mapped_column(UtcDateTime)


class TombstoneRow(Base):
    """A row of a live segment whose item was deleted, or replaced by a row elsewhere."""

    __tablename__ = "tombstone"

    segment_id: Mapped[int] = mapped_column(ForeignKey("segment.segment_id", ondelete="CASCADE"), primary_key=True)
    item_id: Mapped[int] = mapped_column(BIG_INTEGER, primary_key=True, autoincrement=False)


class IndexingRunRow(Base):
    """One run of the indexer over one source."""

    __tablename__ = "indexing_run"
    __table_args__ = (Index(None, "collection_id"), _NEVER_REUSE_KEYS)

    run_id: Mapped[int] = mapped_column(BIG_INTEGER, primary_key=True)
    collection_id: Mapped[int] = mapped_column(ForeignKey("collection.collection_id", ondelete="CASCADE"))
    source: Mapped[str] = mapped_column(PathText)
    state: Mapped[RunState] = mapped_column(_one_of(RunState, name="state"))
    started_at: Mapped[datetime] = mapped_column(UtcDateTime)
    finished_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    cursor: Mapped[str | None] = mapped_column(PathText)
    num_new: Mapped[int] = mapped_column(BIG_INTEGER)
    num_changed: Mapped[int] = mapped_column(BIG_INTEGER)
    num_moved: Mapped[int] = mapped_column(BIG_INTEGER)
    num_unchanged: Mapped[int] = mapped_column(BIG_INTEGER)
    num_gone: Mapped[int] = mapped_column(BIG_INTEGER)
    num_pruned: Mapped[int] = mapped_column(BIG_INTEGER)
    num_skipped: Mapped[int] = mapped_column(BIG_INTEGER)


class LedgerEntryRow(Base):
    """An input that a run skipped, with its cause."""

    __tablename__ = "ledger_entry"
    __table_args__ = (Index(None, "collection_id"), Index(None, "run_id"))

    entry_id: Mapped[int] = mapped_column(BIG_INTEGER, primary_key=True)
    run_id: Mapped[int] = mapped_column(ForeignKey("indexing_run.run_id", ondelete="CASCADE"))
    collection_id: Mapped[int] = mapped_column(ForeignKey("collection.collection_id", ondelete="CASCADE"))
    key: Mapped[str] = mapped_column(PathText)
    source: Mapped[str] = mapped_column(PathText)
    cause: Mapped[str] = mapped_column(CleanText)
    error_class: Mapped[str] = mapped_column(String(128))
    size_bytes: Mapped[int] = mapped_column(BIG_INTEGER)
    mtime_ns: Mapped[int] = mapped_column(BIG_INTEGER)
    content_hash: Mapped[str | None] = mapped_column(String(128))
    at: Mapped[datetime] = mapped_column(UtcDateTime)
    resolved_at: Mapped[datetime | None] = mapped_column(UtcDateTime)


class AliasRow(Base):
    """Another name of a collection; names of collections come first where both exist."""

    __tablename__ = "alias"
    __table_args__ = (Index(None, "collection_id"),)

    name: Mapped[str] = mapped_column(CleanText, primary_key=True)
    collection_id: Mapped[int] = mapped_column(ForeignKey("collection.collection_id", ondelete="CASCADE"))
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)


class ApiKeyRow(Base):
    """A key of the service: who may do what. The key itself is shown once and kept as a digest."""

    __tablename__ = "api_key"
    __table_args__ = (UniqueConstraint("digest"), _NEVER_REUSE_KEYS)

    key_id: Mapped[int] = mapped_column(BIG_INTEGER, primary_key=True)
    name: Mapped[str] = mapped_column(CleanText)
    digest: Mapped[str] = mapped_column(String(64))  # SHA-256 of the key, hex: a key has 256 random bits, which needs no slow hash
    scopes: Mapped[dict[str, Any]] = mapped_column(JSON_OBJECT)  # {"scopes": [...], "collections": [...] or null for all}
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)
    expires_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    revoked_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    last_used_at: Mapped[datetime | None] = mapped_column(UtcDateTime)


class AuditEventRow(Base):
    """Something that an administrator did, or tried to do."""

    __tablename__ = "audit_event"
    __table_args__ = (Index(None, "at"), _NEVER_REUSE_KEYS)

    event_id: Mapped[int] = mapped_column(BIG_INTEGER, primary_key=True)
    at: Mapped[datetime] = mapped_column(UtcDateTime)
    actor: Mapped[str] = mapped_column(CleanText)  # the key's name and id, or who else it was
    action: Mapped[str] = mapped_column(String(64))  # such as "collection.delete"
    subject: Mapped[str] = mapped_column(PathText)
    request_id: Mapped[str | None] = mapped_column(String(64))
    details: Mapped[dict[str, Any]] = mapped_column(JSON_OBJECT)


class JobRow(Base):
    """Work that the service does in the background, and goes on with after a restart."""

    __tablename__ = "job"
    __table_args__ = (Index(None, "state"), UniqueConstraint("idempotency_key"))

    job_id: Mapped[str] = mapped_column(String(32), primary_key=True)  # nanoseconds of its making and random bits, hex: sorted by age
    kind: Mapped[str] = mapped_column(String(32))  # index, compact, verify, patches, ...
    collection: Mapped[str | None] = mapped_column(CleanText)
    spec: Mapped[dict[str, Any]] = mapped_column(JSON_OBJECT)  # what to do; enough to begin it anew
    state: Mapped[JobState] = mapped_column(_one_of(JobState, name="job_state"))
    progress: Mapped[dict[str, Any]] = mapped_column(JSON_OBJECT)  # what was last told of it
    result: Mapped[dict[str, Any]] = mapped_column(JSON_OBJECT)  # of a job that ended
    error: Mapped[str | None] = mapped_column(CleanText)  # the sentence of one that failed
    num_attempts: Mapped[int]
    created_by: Mapped[str] = mapped_column(CleanText)
    idempotency_key: Mapped[str | None] = mapped_column(String(128))
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)
    started_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    finished_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
