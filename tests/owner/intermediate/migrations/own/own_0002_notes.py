"""A table of notes."""

import sqlalchemy as sa
from alembic import op

revision = "own_0002"
down_revision = "own_0001"
branch_labels = None
depends_on = "intermediate_0001"


def upgrade() -> None:
    """Make it."""
    op.create_table(
        "own_notes",
        sa.Column("symbol", sa.String(collation="C"), nullable=False),
        sa.Column("note", sa.Text(), nullable=False),
        sa.Column("user", sa.String(collation="C")),
        sa.Column("end", sa.DateTime()),
        sa.Column("worth", sa.Numeric(12, 2)),
        sa.PrimaryKeyConstraint("symbol", name="pk_own_notes"),
    )
