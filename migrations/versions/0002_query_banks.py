"""The banks of queries that collections take hubness biases from."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

BIG_INTEGER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Create the table; collections that exist have no bank."""
    op.create_table(
        "query_bank",
        sa.Column("collection_id", BIG_INTEGER, nullable=False),
        sa.Column(
            "modality", sa.Enum("image", "text", name="modality", native_enum=False, create_constraint=True, length=16), nullable=False
        ),
        sa.Column("fingerprint", sa.String(length=128), nullable=False),
        sa.Column("strength", sa.Double(), nullable=False),
        sa.Column("num_queries", BIG_INTEGER, nullable=False),
        sa.Column("origin", sa.Text(), nullable=False),
        sa.Column("content", sa.LargeBinary(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["collection_id"], ["collection.collection_id"], name=op.f("fk_query_bank_collection_id_collection"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("collection_id", "modality", name=op.f("pk_query_bank")),
    )


def downgrade() -> None:
    """Drop the table."""
    op.drop_table("query_bank")
