"""What many workers need: leases, marks, claims, cursors, and which processes were seen."""

import sqlalchemy as sa
from alembic import op

revision = "advanced_0001"
down_revision = None
branch_labels = ("advanced",)
depends_on = "intermediate_0001"

WORD = sa.String(collation="C")
INSTANT = sa.DateTime(timezone=True)


def upgrade() -> None:
    """Add to the ledger, and make the tables beside it."""
    extend_executions()
    create_claims()
    create_processes()
    create_cursors()


def extend_executions() -> None:
    """Nothing runs while the schema changes: what says that it does has lost its process."""
    op.add_column("executions", sa.Column("not_before", INSTANT))
    op.add_column("executions", sa.Column("dispatched_at", INSTANT))
    op.add_column("executions", sa.Column("lease_token", sa.Uuid()))
    op.add_column("executions", sa.Column("lease_expires_at", INSTANT))
    op.add_column("executions", sa.Column("worker_id", WORD))
    op.add_column("executions", sa.Column("progress", sa.JSON(none_as_null=True)))
    op.execute(
        "UPDATE executions SET lease_token = gen_random_uuid(), lease_expires_at = now() "
        "WHERE status = 'running'"
    )
    op.create_check_constraint(
        "leased_if_and_only_if_running",
        "executions",
        "(status = 'running') = (lease_token IS NOT NULL)",
    )
    op.create_index(
        "ix_executions_undispatched",
        "executions",
        ["dispatched_at"],
        postgresql_include=["id", "lane", "created_at", "not_before"],
        postgresql_where=sa.text("status = 'queued'"),
    )
    op.create_index("ix_executions_finished_at", "executions", ["finished_at"])
    op.create_index(
        "ix_executions_leased",
        "executions",
        ["lease_expires_at"],
        postgresql_include=["id"],
        postgresql_where=sa.text("status = 'running'"),
    )


def create_claims() -> None:
    """A range of texts lets one constraint know that `*` overlaps with every symbol."""
    op.create_table(
        "resource_claims",
        sa.Column("root_id", sa.Uuid(), nullable=False),
        sa.Column("resource", WORD, nullable=False),
        sa.Column("key", WORD, nullable=False),
        sa.Column("first", sa.Date(), nullable=False),
        sa.Column("last", sa.Date(), nullable=False),
        sa.Column("is_held", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("root_id", "resource", "key", name="pk_resource_claims"),
        sa.ForeignKeyConstraint(["root_id"], ["executions.id"], name="fk_resource_claims_root_id"),
        sa.CheckConstraint("first <= last", name="range_in_order"),
    )
    op.execute('CREATE TYPE textrange AS RANGE (subtype = text, collation = "C")')
    op.execute(
        """
        ALTER TABLE resource_claims ADD CONSTRAINT claims_do_not_overlap EXCLUDE USING gist (
            textrange(resource, resource, '[]') WITH &&,
            textrange(nullif(key, '*'), nullif(key, '*'), '[]') WITH &&,
            daterange(first, last, '[]') WITH &&
        ) WHERE (is_held)
        """
    )


def create_processes() -> None:
    """Workers, relays and beats, by what they said last."""
    op.create_table(
        "processes",
        sa.Column("id", WORD, nullable=False),
        sa.Column("role", WORD, nullable=False),
        sa.Column("started_at", INSTANT, nullable=False),
        sa.Column("seen_at", INSTANT, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_processes"),
        sa.CheckConstraint("role IN ('worker', 'relay', 'beat')", name="role_is_known"),
    )


def create_cursors() -> None:
    """How far the recurring ingests have come in what they read."""
    op.create_table(
        "ingest_cursors",
        sa.Column("name", WORD, nullable=False),
        sa.Column("position", sa.BigInteger(), nullable=False),
        sa.Column("last_record", WORD),
        sa.Column("moved_at", INSTANT),
        sa.PrimaryKeyConstraint("name", name="pk_ingest_cursors"),
        sa.CheckConstraint(
            "position >= 0 AND (position = 0) = (last_record IS NULL)",
            name="position_has_its_record",
        ),
    )
