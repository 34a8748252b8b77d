"""How many rows of a segment have patches, whose they are and what they take."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

BIG_INTEGER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


# Column by column, never in a batch: on SQLite a batch copies the table and drops the old one, and every tombstone and item with it.


def upgrade() -> None:
    """Add the columns; segments that exist have no patches."""
    op.add_column("segment", sa.Column("num_patched_rows", BIG_INTEGER, server_default="0", nullable=False))
    op.add_column("segment", sa.Column("patch_bytes", BIG_INTEGER, server_default="0", nullable=False))
    op.add_column("segment", sa.Column("fusion_fingerprint", sa.String(length=128), nullable=True))


def downgrade() -> None:
    """Drop the columns."""
    op.drop_column("segment", "fusion_fingerprint")
    op.drop_column("segment", "patch_bytes")
    op.drop_column("segment", "num_patched_rows")
