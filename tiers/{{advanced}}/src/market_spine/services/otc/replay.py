"""A replay: what bronze gives, beside what silver and gold hold.

The services that fill the stored tables fill tables of one connection, which bear the same names
and so hide the stored ones from it: nothing is computed in a second way. It happens in a snapshot,
which cannot write the stored tables, keeps nobody waiting and is not kept.

What has not reached silver or gold yet is no difference: captures that were never normalized, and
days whose trades changed since they were computed, are left out and counted.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from itertools import chain, groupby, repeat, zip_longest
from typing import Any, Literal

from sqlalchemy import (
    ColumnElement,
    Connection,
    FromClause,
    MetaData,
    Table,
    and_,
    case,
    delete,
    exists,
    func,
    insert,
    literal,
    or_,
    select,
    true,
    union_all,
)
from sqlalchemy.schema import CreateIndex, CreateTable

from market_spine import database
from market_spine.schema import otc_captures, otc_metrics_daily, otc_stale_days, otc_trades
from market_spine.services.otc import bronze, metrics, normalizer
from market_spine.services.otc.bronze import Capture
from market_spine.services.otc.mapping import load_mapping
from market_spine.services.otc.normalizer import Checkpoint, Counts
from market_spine.settings import settings

WRITTEN = (otc_captures, otc_trades, otc_stale_days, otc_metrics_daily)  # by the services
OWN_SCHEMA = {"postgresql": "pg_temp", "sqlite": "temp"}  # of a connection
KEYS = {otc_trades: ("source", "trade_id", "record_hash"), otc_metrics_daily: ("symbol", "date")}
# Ids and clock columns, which tell of the making of a row and not of what the source said.
ASIDE = {"version_id", "raw_id", "capture_id", "ingested_at", "computed_at"}
NAMED = 20  # differences of a table
FETCHED = 1_000  # rows at a time


@dataclass(frozen=True, kw_only=True)
class Difference:
    """A value that is another in the replay, or a row that only one side has."""

    key: dict[str, Any]
    kind: Literal["differs", "missing", "additional"]
    column: str | None = None
    stored: Any = None
    replayed: Any = None


@dataclass(kw_only=True)
class Comparison:
    """The rows of a table, and what they are in the replay."""

    table: str
    same: int = 0
    differ: int = 0
    missing: int = 0  # only the replay has them
    additional: int = 0  # only the table has them
    differences: list[Difference] = field(default_factory=list)  # the first, by their keys


@dataclass(frozen=True, kw_only=True)
class Replay:
    """What was replayed, what was left out, and what came of it."""

    as_of: datetime | None
    captures: int
    captures_left_out: int
    records: int
    rejected: int
    days_left_out: int
    tables: list[Comparison]

    @property
    def is_equal(self) -> bool:
        """Whether the store holds what bronze gives."""
        return not any(one.differ or one.missing or one.additional for one in self.tables)


def replay(as_of: datetime | None, checkpoint: Checkpoint) -> Replay:
    """Rebuild silver and gold from bronze, and compare them with the stored ones.

    Args:
        as_of: compare the versions of trades that were known at this instant, and no metrics, of
            which only the last are stored; None: compare all.
        checkpoint: is told how far it has come, between batches.

    Raises:
        NotFoundError: a source has no mapping any more.
        StoreError: the store cannot be used.
    """
    with _beside() as connection:
        left_out, alone = _choose_captures(connection, as_of)
        captures = bronze.pending_captures(connection)
        records = [(bronze.capture_of_record(connection, raw_id), raw_id) for raw_id in alone]
        counts = [
            _normalize(connection, capture, raw_id, checkpoint)
            for capture, raw_id in [*((capture, None) for capture in captures), *records]
            if capture
        ]
        if as_of is None:
            days_left_out = _compute(connection, checkpoint)
            tables = [
                _compare(connection, otc_trades),
                _compare(connection, otc_metrics_daily, partial(_is_fresh, connection)),
            ]
        else:
            days_left_out, aside = 0, ASIDE | {"known_to"}  # which came later
            tables = [_compare(connection, otc_trades, partial(_is_known, as_of), aside)]
    return Replay(
        as_of=as_of,
        captures=len(captures),
        captures_left_out=left_out,
        records=sum(one.read for one in counts),
        rejected=sum(one.rejected for one in counts),
        days_left_out=days_left_out,
        tables=tables,
    )


# --- beside the stored tables ------------------------------------------------------------------


@contextmanager
def _beside() -> Iterator[Connection]:
    """A snapshot that has empty tables of its own by the names of the stored ones."""
    with database.explained(), database.engine().connect() as connection:
        # To SQLite tables of a connection's own are no write; to Postgres making them is one.
        connection.execution_options(read_only=connection.dialect.name == "sqlite")
        for table in WRITTEN:
            own = table.to_metadata(MetaData(), schema=OWN_SCHEMA[connection.dialect.name])
            # Nothing of a connection's own may refer to what is everybody's.
            connection.execute(CreateTable(own, include_foreign_key_constraints=()))
            for index in own.indexes:
                connection.execute(CreateIndex(index))
        connection.commit()
        connection.execution_options(read_only=True)
        connection.detach()  # it is closed in the end, and not used again with these tables
        yield connection


def _stored(connection: Connection, table: Table) -> FromClause:
    """The table that the connection's own one hides."""
    schema = connection.dialect.default_schema_name or ""
    return table.to_metadata(MetaData(), schema=schema).alias(f"stored_{table.name}")


def _choose_captures(connection: Connection, as_of: datetime | None) -> tuple[int, Sequence[int]]:
    """Let what was normalized be pending, and the other way round.

    Returns:
        How many captures were never normalized, and what silver has of them all the same: records
        that somebody normalized one by one.
    """
    stored, silver = _stored(connection, otc_captures), _stored(connection, otc_trades)
    columns = {column.name: column for column in stored.c}
    was_pending = columns.pop("normalized_at").is_(None)
    turned = case((was_pending, stored.c.captured_at)).label("normalized_at")
    known = true() if as_of is None else stored.c.captured_at <= as_of
    chosen = select(*columns.values(), turned).where(known)
    connection.execute(insert(otc_captures).from_select([*columns, "normalized_at"], chosen))
    left_out = select(otc_captures.c.capture_id).where(otc_captures.c.normalized_at.is_not(None))
    number = connection.execute(select(func.count()).select_from(left_out.subquery())).scalar_one()
    alone = select(silver.c.raw_id).where(silver.c.capture_id.in_(left_out))
    return number, connection.execute(alone).scalars().all()


def _normalize(
    connection: Connection, capture: Capture, raw_id: int | None, checkpoint: Checkpoint
) -> Counts:
    return normalizer.normalize(
        connection,
        capture,
        load_mapping(settings().spine_mappings, capture.source),
        reject=lambda _: 0,  # dead letters are the ledger's
        close_letters=lambda _: 0,
        checkpoint=checkpoint,
        raw_id=raw_id,
    )


def _compute(connection: Connection, checkpoint: Checkpoint) -> int:
    """Compute the days that are computed in the store; returns how many are not, or are stale."""
    stored, own = _stored(connection, otc_stale_days), otc_stale_days.c
    left_out = connection.execute(select(func.count()).select_from(stored)).scalar_one()
    same_day = and_(stored.c.symbol == own.symbol, stored.c.trade_date == own.trade_date)
    connection.execute(delete(otc_stale_days).where(exists().where(same_day)))
    days = metrics.take_stale_days(connection)
    for number, (symbol, day) in enumerate(days, start=1):
        metrics.refresh_day(connection, symbol, day)
        checkpoint("computed", number, len(days))
    return left_out


# --- row by row --------------------------------------------------------------------------------


def _everything(_side: FromClause) -> ColumnElement[bool]:
    return true()


def _is_fresh(connection: Connection, gold: FromClause) -> ColumnElement[bool]:
    stale = _stored(connection, otc_stale_days).c
    return ~exists().where(stale.symbol == gold.c.symbol, stale.trade_date == gold.c.date)


def _is_known(as_of: datetime, silver: FromClause) -> ColumnElement[bool]:
    known_from, known_to = silver.c.known_from, silver.c.known_to
    return and_(known_from <= as_of, or_(known_to.is_(None), known_to > as_of))


def _compare(
    connection: Connection,
    table: Table,
    concerns: Callable[[FromClause], ColumnElement[bool]] = _everything,
    aside: set[str] = ASIDE,
) -> Comparison:
    """Compare those rows that it concerns, on either side."""
    key = KEYS[table]
    others = [c.name for c in table.c if c.name not in aside.union(key)]
    names = [*key, *others]
    stored = _stored(connection, table)
    sides = union_all(
        *(
            select(*(side.c[name] for name in names), literal(sign).label("weight")).where(
                concerns(side)
            )
            for side, sign in ((stored, 1), (table, -1))
        )
    ).subquery()
    # What is left over when equal rows of the two sides have gone against each other.
    left_over = func.sum(sides.c.weight)
    columns = [sides.c[name] for name in names]
    odd = (
        select(*columns, left_over)
        .group_by(*columns)
        .having(left_over != 0)
        .order_by(*columns[: len(key)])
    )
    found = connection.execute(odd, execution_options={"yield_per": FETCHED})
    result = Comparison(table=table.name)
    for values, rows in groupby(found, key=lambda row: row[: len(key)]):
        _tell(result, dict(zip(key, values, strict=True)), [*rows], others)
    total = connection.execute(select(func.count()).select_from(stored).where(concerns(stored)))
    result.same = total.scalar_one() - result.differ - result.additional
    return result


def _tell(
    result: Comparison, key: dict[str, Any], rows: Sequence[Sequence[Any]], others: Sequence[str]
) -> None:
    """Note what is left over of one key."""
    stored = chain.from_iterable(repeat(row, row[-1]) for row in rows)  # none if it is below 0
    replayed = chain.from_iterable(repeat(row, -row[-1]) for row in rows)
    for has, gives in zip_longest(stored, replayed):
        found: list[Difference] = []
        if has is None:
            result.missing += 1
            found = [Difference(key=key, kind="missing")]
        elif gives is None:
            result.additional += 1
            found = [Difference(key=key, kind="additional")]
        else:
            result.differ += 1
            found = [
                Difference(key=key, kind="differs", column=name, stored=one, replayed=other)
                for name, one, other in zip(
                    others, has[len(key) : -1], gives[len(key) : -1], strict=True
                )
                if one != other
            ]
        result.differences += found[: NAMED - len(result.differences)]
