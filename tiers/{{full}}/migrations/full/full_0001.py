"""What a platform needs: keys for the API, the trace of an execution, indexes for retention."""

import sqlalchemy as sa
from alembic import op

revision = "full_0001"
down_revision = None
branch_labels = ("full",)
depends_on = "advanced_0001"

WORD = sa.String(collation="C")
INSTANT = sa.DateTime(timezone=True)


def upgrade() -> None:
    """Add to the ledger, and make the table of keys."""
    op.add_column("executions", sa.Column("traceparent", WORD))
    op.create_index(
        "ix_executions_queued",
        "executions",
        ["lane", "created_at"],
        postgresql_include=["not_before"],
        postgresql_where=sa.text("status = 'queued'"),
    )
    op.create_table(
        "api_keys",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("name", WORD, nullable=False),
        sa.Column("scopes", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("secret_hash", WORD, nullable=False),
        sa.Column("created_at", INSTANT, nullable=False),
        sa.Column("revoked_at", INSTANT),
        sa.PrimaryKeyConstraint("id", name="pk_api_keys"),
    )
    op.create_index(
        "one_live_key_per_name",
        "api_keys",
        ["name"],
        unique=True,
        postgresql_where=sa.text("revoked_at IS NULL"),
    )
    op.create_index(
        "ix_executions_retry_of",
        "executions",
        ["retry_of"],
        postgresql_where=sa.text("retry_of IS NOT NULL"),
    )
    op.create_index("ix_dead_letters_execution_id", "dead_letters", ["execution_id"])
    op.create_index(
        "ix_dead_letters_retried_as",
        "dead_letters",
        ["retried_as"],
        postgresql_where=sa.text("retried_as IS NOT NULL"),
    )
