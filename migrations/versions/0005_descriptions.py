"""What each collection holds, in the words of whoever keeps it."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column; nothing is said of collections that exist."""
    op.add_column("collection", sa.Column("description", sa.Text(), server_default="", nullable=False))


def downgrade() -> None:
    """Drop the column."""
    op.drop_column("collection", "description")
