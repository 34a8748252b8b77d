"""The first catalogue: collections, items, segments, tombstones, indexing runs and their ledger."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

BIG_INTEGER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
JSON_OBJECT = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")


def upgrade() -> None:
    """Create every table."""
    op.create_table(
        "catalogue",
        sa.Column("catalogue_id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("store_uuid", sa.String(length=32), nullable=False),
        sa.Column("next_item_id", BIG_INTEGER, nullable=False),
        sa.Column("writer", sa.Text(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("catalogue_id = 1", name=op.f("ck_catalogue_single_row")),
        sa.PrimaryKeyConstraint("catalogue_id", name=op.f("pk_catalogue")),
    )
    op.create_table(
        "collection",
        sa.Column("collection_id", BIG_INTEGER, nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("encoder_name", sa.Text(), nullable=False),
        sa.Column("encoder_fingerprint", sa.String(length=128), nullable=False),
        sa.Column("embedding_dim", sa.Integer(), nullable=False),
        sa.Column("generation", BIG_INTEGER, nullable=False),
        sa.Column("index_settings", JSON_OBJECT, nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("collection_id", name=op.f("pk_collection")),
        sa.UniqueConstraint("name", name=op.f("uq_collection_name")),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "indexing_run",
        sa.Column("run_id", BIG_INTEGER, nullable=False),
        sa.Column("collection_id", BIG_INTEGER, nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column(
            "state",
            sa.Enum("running", "finished", "interrupted", "failed", name="state", native_enum=False, create_constraint=True, length=16),
            nullable=False,
        ),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("cursor", sa.Text(), nullable=True),
        sa.Column("num_new", BIG_INTEGER, nullable=False),
        sa.Column("num_changed", BIG_INTEGER, nullable=False),
        sa.Column("num_moved", BIG_INTEGER, nullable=False),
        sa.Column("num_unchanged", BIG_INTEGER, nullable=False),
        sa.Column("num_gone", BIG_INTEGER, nullable=False),
        sa.Column("num_pruned", BIG_INTEGER, nullable=False),
        sa.Column("num_skipped", BIG_INTEGER, nullable=False),
        sa.ForeignKeyConstraint(
            ["collection_id"], ["collection.collection_id"], name=op.f("fk_indexing_run_collection_id_collection"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("run_id", name=op.f("pk_indexing_run")),
        sqlite_autoincrement=True,
    )
    op.create_index(op.f("ix_indexing_run_collection_id"), "indexing_run", ["collection_id"])

    op.create_table(
        "segment",
        sa.Column("segment_id", BIG_INTEGER, nullable=False),
        sa.Column("collection_id", BIG_INTEGER, nullable=False),
        sa.Column("folder", sa.String(length=32), nullable=False),
        sa.Column(
            "modality", sa.Enum("image", "text", name="modality", native_enum=False, create_constraint=True, length=16), nullable=False
        ),
        sa.Column(
            "state",
            sa.Enum("building", "live", "retired", name="state", native_enum=False, create_constraint=True, length=16),
            nullable=False,
        ),
        sa.Column("num_rows", BIG_INTEGER, nullable=False),
        sa.Column("num_tombstones", BIG_INTEGER, nullable=False),
        sa.Column("size_bytes", BIG_INTEGER, nullable=False),
        sa.Column("manifest_sha256", sa.String(length=64), nullable=False),
        sa.Column("index_description", sa.Text(), nullable=True),
        sa.Column("ann_recall", sa.Double(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["collection_id"], ["collection.collection_id"], name=op.f("fk_segment_collection_id_collection"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("segment_id", name=op.f("pk_segment")),
        sa.UniqueConstraint("folder", name=op.f("uq_segment_folder")),
        sqlite_autoincrement=True,
    )
    op.create_index(op.f("ix_segment_collection_id"), "segment", ["collection_id"])

    op.create_table(
        "item",
        sa.Column("item_id", BIG_INTEGER, autoincrement=False, nullable=False),
        sa.Column("collection_id", BIG_INTEGER, nullable=False),
        sa.Column("segment_id", BIG_INTEGER, nullable=True),
        sa.Column(
            "modality", sa.Enum("image", "text", name="modality", native_enum=False, create_constraint=True, length=16), nullable=False
        ),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("content_hash", sa.String(length=128), nullable=False),
        sa.Column("size_bytes", BIG_INTEGER, nullable=False),
        sa.Column("mtime_ns", BIG_INTEGER, nullable=False),
        sa.Column("text", sa.Text(), nullable=True),
        sa.Column("width", sa.Integer(), nullable=True),
        sa.Column("height", sa.Integer(), nullable=True),
        sa.Column("metadata", JSON_OBJECT, nullable=False),
        sa.Column("indexed_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["collection_id"], ["collection.collection_id"], name=op.f("fk_item_collection_id_collection"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(["segment_id"], ["segment.segment_id"], name=op.f("fk_item_segment_id_segment")),
        sa.PrimaryKeyConstraint("item_id", name=op.f("pk_item")),
        sa.UniqueConstraint("collection_id", "key", name=op.f("uq_item_collection_id_key")),
    )
    op.create_index(op.f("ix_item_segment_id"), "item", ["segment_id"])

    op.create_table(
        "ledger_entry",
        sa.Column("entry_id", BIG_INTEGER, nullable=False),
        sa.Column("run_id", BIG_INTEGER, nullable=False),
        sa.Column("collection_id", BIG_INTEGER, nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("cause", sa.Text(), nullable=False),
        sa.Column("error_class", sa.String(length=128), nullable=False),
        sa.Column("size_bytes", BIG_INTEGER, nullable=False),
        sa.Column("mtime_ns", BIG_INTEGER, nullable=False),
        sa.Column("content_hash", sa.String(length=128), nullable=True),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("resolved_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(
            ["collection_id"], ["collection.collection_id"], name=op.f("fk_ledger_entry_collection_id_collection"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(["run_id"], ["indexing_run.run_id"], name=op.f("fk_ledger_entry_run_id_indexing_run"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("entry_id", name=op.f("pk_ledger_entry")),
    )
    op.create_index(op.f("ix_ledger_entry_collection_id"), "ledger_entry", ["collection_id"])
    op.create_index(op.f("ix_ledger_entry_run_id"), "ledger_entry", ["run_id"])

    op.create_table(
        "tombstone",
        sa.Column("segment_id", BIG_INTEGER, nullable=False),
        sa.Column("item_id", BIG_INTEGER, autoincrement=False, nullable=False),
        sa.ForeignKeyConstraint(["segment_id"], ["segment.segment_id"], name=op.f("fk_tombstone_segment_id_segment"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("segment_id", "item_id", name=op.f("pk_tombstone")),
    )


def downgrade() -> None:
    """Drop every table."""
    op.drop_table("tombstone")
    op.drop_table("ledger_entry")
    op.drop_table("item")
    op.drop_table("segment")
    op.drop_table("indexing_run")
    op.drop_table("collection")
    op.drop_table("catalogue")
