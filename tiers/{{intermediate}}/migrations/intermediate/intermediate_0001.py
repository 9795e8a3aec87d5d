"""The tables of the ledger and of the OTC trades, as they stand when this tier begins."""

import sqlalchemy as sa
from alembic import op

revision = "intermediate_0001"
down_revision = None
branch_labels = ("intermediate",)
depends_on = None

WORD = sa.String(collation="C")
INSTANT = sa.DateTime(timezone=True)
JSON = sa.JSON()


def exact(scale: int) -> sa.Numeric[object]:
    """A decimal whose units fit in 64 bits."""
    return sa.Numeric(19 + scale, scale)


def upgrade() -> None:
    """Make every table."""
    create_ledger()
    create_bronze()
    create_silver()
    create_gold()


def create_ledger() -> None:
    """Executions, their events, which cannot be changed, and dead letters."""
    op.create_table(
        "executions",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("pipeline", WORD, nullable=False),
        sa.Column("params", JSON, nullable=False),
        sa.Column("lane", WORD, nullable=False),
        sa.Column("trigger_source", WORD, nullable=False),
        sa.Column("status", WORD, nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("max_attempts", sa.Integer(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("idempotency_key", WORD),
        sa.Column("cancel_requested", sa.Boolean(), nullable=False),
        sa.Column("parent_id", sa.Uuid()),
        sa.Column("root_id", sa.Uuid(), nullable=False),
        sa.Column("retry_of", sa.Uuid()),
        sa.Column("result", JSON),
        sa.Column("error", sa.Text()),
        sa.Column("created_at", INSTANT, nullable=False),
        sa.Column("started_at", INSTANT),
        sa.Column("finished_at", INSTANT),
        sa.PrimaryKeyConstraint("id", name="pk_executions"),
        sa.ForeignKeyConstraint(["parent_id"], ["executions.id"], name="fk_executions_parent_id"),
        sa.ForeignKeyConstraint(["retry_of"], ["executions.id"], name="fk_executions_retry_of"),
        sa.CheckConstraint(
            "status IN ('queued', 'running', 'waiting', 'succeeded', 'failed', 'cancelled')",
            name="status_is_known",
        ),
        sa.CheckConstraint(
            "(status IN ('succeeded', 'failed', 'cancelled')) = (finished_at IS NOT NULL)",
            name="terminal_if_and_only_if_finished",
        ),
        sa.CheckConstraint("attempt BETWEEN 1 AND max_attempts", name="attempt_in_range"),
        sa.CheckConstraint(
            "(status = 'failed') <= (error IS NOT NULL)", name="failure_is_explained"
        ),
    )
    op.create_index("ix_executions_parent_id", "executions", ["parent_id"])
    op.create_index(
        "one_execution_per_idempotency_key", "executions", ["idempotency_key"], unique=True
    )
    op.create_index(
        "ix_executions_live",
        "executions",
        ["status", "created_at", "id"],
        postgresql_where="finished_at IS NULL",
    )
    op.create_table(
        "execution_events",
        sa.Column("execution_id", sa.Uuid(), nullable=False),
        sa.Column("seq", sa.Integer(), nullable=False),
        sa.Column("kind", WORD, nullable=False),
        sa.Column("at", INSTANT, nullable=False),
        sa.Column("data", JSON, nullable=False),
        sa.PrimaryKeyConstraint("execution_id", "seq", name="pk_execution_events"),
        sa.ForeignKeyConstraint(
            ["execution_id"], ["executions.id"], name="fk_execution_events_execution_id"
        ),
        sa.CheckConstraint("seq >= 1", name="seq_starts_at_one"),
    )
    op.execute(
        """
CREATE FUNCTION refuse_changes() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP <> 'UPDATE' AND current_setting('market_spine.retention', true) = 'on' THEN
        RETURN OLD;
    END IF;
    RAISE EXCEPTION USING MESSAGE = TG_TABLE_NAME || ' is append-only', ERRCODE = '23000';
END $$"""
    )
    op.execute(
        "CREATE TRIGGER execution_events_refuse_changes BEFORE UPDATE OR DELETE "
        "ON execution_events FOR EACH ROW EXECUTE FUNCTION refuse_changes()"
    )
    op.execute(
        "CREATE TRIGGER execution_events_refuse_truncate BEFORE TRUNCATE "
        "ON execution_events FOR EACH STATEMENT EXECUTE FUNCTION refuse_changes()"
    )
    op.create_table(
        "dead_letters",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("kind", WORD, nullable=False),
        sa.Column("execution_id", sa.Uuid(), nullable=False),
        sa.Column("capture_id", sa.Uuid()),
        sa.Column("raw_id", sa.BigInteger()),
        sa.Column("record_hash", WORD),
        sa.Column("payload", sa.Text()),
        sa.Column("field", WORD),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("created_at", INSTANT, nullable=False),
        sa.Column("closed_at", INSTANT),
        sa.Column("retried_as", sa.Uuid()),
        sa.PrimaryKeyConstraint("id", name="pk_dead_letters"),
        sa.ForeignKeyConstraint(
            ["execution_id"], ["executions.id"], name="fk_dead_letters_execution_id"
        ),
        sa.ForeignKeyConstraint(
            ["retried_as"], ["executions.id"], name="fk_dead_letters_retried_as"
        ),
        sa.CheckConstraint("kind IN ('execution', 'record')", name="kind_is_known"),
        sa.CheckConstraint(
            "(kind = 'record') = (record_hash IS NOT NULL AND raw_id IS NOT NULL)",
            name="record_letter_names_its_record",
        ),
    )
    op.create_index(
        "one_letter_per_execution",
        "dead_letters",
        ["execution_id"],
        unique=True,
        postgresql_where="kind = 'execution'",
    )
    op.create_index(
        "one_open_letter_per_record",
        "dead_letters",
        ["record_hash"],
        unique=True,
        postgresql_where="kind = 'record' AND closed_at IS NULL",
    )


def create_bronze() -> None:
    """Captures, and every record that they brought."""
    op.create_table(
        "otc_captures",
        sa.Column("capture_id", sa.Uuid(), nullable=False),
        sa.Column("source", WORD, nullable=False),
        sa.Column("captured_at", INSTANT, nullable=False),
        sa.Column("row_count", sa.BigInteger(), nullable=False),
        sa.Column("first_raw_id", sa.BigInteger()),
        sa.Column("last_raw_id", sa.BigInteger()),
        sa.Column("normalized_at", INSTANT),
        sa.PrimaryKeyConstraint("capture_id", name="pk_otc_captures"),
    )
    op.create_table(
        "otc_trades_raw",
        sa.Column("raw_id", sa.BigInteger(), nullable=False),
        sa.Column("capture_id", sa.Uuid(), nullable=False),
        sa.Column("source", WORD, nullable=False),
        sa.Column("source_file", WORD, nullable=False),
        sa.Column("source_row", sa.BigInteger(), nullable=False),
        sa.Column("captured_at", INSTANT, nullable=False),
        sa.Column("payload", sa.Text(), nullable=False),
        sa.Column("record_hash", WORD, nullable=False),
        sa.PrimaryKeyConstraint("raw_id", name="pk_otc_trades_raw"),
    )


def create_silver() -> None:
    """Versions of trades."""
    op.create_table(
        "otc_trades",
        sa.Column("version_id", sa.BigInteger(), nullable=False),
        sa.Column("source", WORD, nullable=False),
        sa.Column("raw_id", sa.BigInteger(), nullable=False),
        sa.Column("trade_id", WORD, nullable=False),
        sa.Column("record_hash", WORD, nullable=False),
        sa.Column("event", WORD, nullable=False),
        sa.Column("symbol", WORD, nullable=False),
        sa.Column("trade_date", sa.Date(), nullable=False),
        sa.Column("trade_ts", INSTANT, nullable=False),
        sa.Column("reported_at", INSTANT, nullable=False),
        sa.Column("source_seq", sa.BigInteger(), nullable=False),
        sa.Column("price", exact(6), nullable=False),
        sa.Column("size", exact(6), nullable=False),
        sa.Column("notional", exact(6), nullable=False),
        sa.Column("side", WORD),
        sa.Column("venue", WORD),
        sa.Column("conditions", WORD, nullable=False),
        sa.Column("price_eligible", sa.Boolean(), nullable=False),
        sa.Column("volume_eligible", sa.Boolean(), nullable=False),
        sa.Column("capture_id", sa.Uuid(), nullable=False),
        sa.Column("ingested_at", INSTANT, nullable=False),
        sa.Column("known_from", INSTANT, nullable=False),
        sa.Column("known_to", INSTANT),
        sa.PrimaryKeyConstraint("version_id", name="pk_otc_trades"),
        sa.CheckConstraint(
            "event = 'original' OR event = 'correction' OR event = 'cancel'",
            name="event_is_known",
        ),
        sa.CheckConstraint("side IN ('buy', 'sell')", name="side_is_known"),
        sa.CheckConstraint("price > 0 AND size > 0", name="price_and_size_are_positive"),
        sa.CheckConstraint("known_to >= known_from", name="known_in_order"),
        sa.CheckConstraint(
            "event <> 'cancel' OR NOT (price_eligible OR volume_eligible)",
            name="cancel_counts_for_nothing",
        ),
    )
    op.create_index(
        "one_open_version_per_trade",
        "otc_trades",
        ["trade_id", "source"],
        unique=True,
        postgresql_where="known_to IS NULL",
    )
    op.create_index(
        "ix_otc_trades_closed_version",
        "otc_trades",
        ["trade_id", "source"],
        postgresql_where="known_to IS NOT NULL",
    )
    op.create_index(
        "ix_otc_trades_day", "otc_trades", ["symbol", "trade_date", "trade_ts", "source_seq"]
    )


def create_gold() -> None:
    """Metrics of symbol-days, and which of them are stale."""
    op.create_table(
        "otc_metrics_daily",
        sa.Column("symbol", WORD, nullable=False),
        sa.Column("date", sa.Date(), nullable=False),
        sa.Column("trade_count", sa.BigInteger(), nullable=False),
        sa.Column("total_volume", exact(6), nullable=False),
        sa.Column("total_notional", exact(6), nullable=False),
        sa.Column("vwap", exact(8)),
        sa.Column("high_price", exact(6)),
        sa.Column("low_price", exact(6)),
        sa.Column("open_price", exact(6)),
        sa.Column("close_price", exact(6)),
        sa.Column("range_bps", exact(4)),
        sa.Column("buy_vwap", exact(8)),
        sa.Column("sell_vwap", exact(8)),
        sa.Column("side_spread_bps", exact(4)),
        sa.Column("venue_count", sa.Integer(), nullable=False),
        sa.Column("computed_at", INSTANT, nullable=False),
        sa.PrimaryKeyConstraint("symbol", "date", name="pk_otc_metrics_daily"),
        sa.CheckConstraint("low_price <= high_price", name="low_is_not_above_high"),
        sa.CheckConstraint("(vwap IS NULL) = (total_volume = 0)", name="vwap_needs_volume"),
    )
    op.create_table(
        "otc_stale_days",
        sa.Column("symbol", WORD, nullable=False),
        sa.Column("trade_date", sa.Date(), nullable=False),
        sa.PrimaryKeyConstraint("symbol", "trade_date", name="pk_otc_stale_days"),
    )
