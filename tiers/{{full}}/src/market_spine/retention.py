"""Retention: what is old enough leaves the store for the archive, by a policy for each table.

A table without a policy loses no row. What belongs together leaves together: an execution with its
children, its retries, all their events and letters; a capture with its raw rows. It stays as long
as one of them is live, unresolved, or younger than its own table's policy. Ages go by the clock of
the database, from the end of an execution, the closing of a letter, and of a capture from when it
was made or, if that is later, last normalized: old data may have been loaded today.

Each batch is a transaction that passes over what others hold and waits for nobody; its rows are in
the archive before it commits. A process that is killed leaves rows in the store, in the archive,
or in both.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import Column, ColumnElement, Connection, Table, delete, func, select, text

from market_spine import archive, database, presence, progress
from market_spine.schema import (
    EPOCH,
    dead_letters,
    execution_events,
    executions,
    otc_captures,
    otc_trades_raw,
)
from market_spine.settings import settings

TREES, CAPTURES, LETTERS = 500, 500, 5_000  # in a batch, at the most
RAW_ROWS = 1_000_000  # in a batch, unless a single capture has more
EVENTS = 50_000  # in a batch, unless all that came of a single execution has more
PATIENCE = "5s"  # how long a statement waits for a lock that nobody holds for long

# Records that were rejected, whose letters closed long ago.
OLD_LETTERS = text(
    """
SELECT id, closed_at AS at FROM dead_letters
WHERE kind = 'record' AND closed_at < now() - make_interval(days => :days)
  AND (closed_at, id) > (:at, :id)
ORDER BY closed_at, id LIMIT :batch
"""
)
# Executions that no other one led to, and that ended long ago; oldest first, up to so many events
# of all that came of them, since one of them may have led to very many.
OLD_ORIGINS = text(
    """
WITH RECURSIVE old AS (
    SELECT id, finished_at AS at FROM executions
    WHERE parent_id IS NULL AND retry_of IS NULL
      AND finished_at < now() - make_interval(days => :days)
      AND (finished_at, id) > (:at, :id)
    ORDER BY finished_at, id LIMIT :batch
), lineage AS (
    SELECT id AS origin, at, id FROM old
    UNION
    SELECT origin, at, below.id FROM lineage
    JOIN executions AS below ON below.parent_id = lineage.id OR below.retry_of = lineage.id
), sized AS (
    SELECT origin AS id, lineage.at,
           sum(count(*)) OVER (ORDER BY lineage.at, origin) - count(*) AS before
    FROM lineage LEFT JOIN execution_events ON execution_id = lineage.id
    GROUP BY origin, lineage.at
)
SELECT id, at FROM sized WHERE before < :events ORDER BY at, id
"""
)
# All that came of them: children, and retries. It stays if anything in it does: what is live or
# young, has a letter that is open or young, or a claim; and the latest tick of a schedule, by which
# beat knows that it was submitted.
LINEAGES = text(
    """
WITH RECURSIVE lineage AS (
    SELECT id AS origin, id FROM executions WHERE id = ANY(:origins)
    UNION
    SELECT origin, below.id FROM lineage
    JOIN executions AS below ON below.parent_id = lineage.id OR below.retry_of = lineage.id
), held AS (
    SELECT DISTINCT origin FROM lineage JOIN executions AS mine USING (id)
    WHERE (finished_at < now() - make_interval(days => :days)) IS NOT TRUE
       OR EXISTS (SELECT FROM dead_letters
                  WHERE (execution_id = mine.id OR retried_as = mine.id)
                    AND (closed_at < now() - make_interval(days => CAST(:letters AS integer)))
                        IS NOT TRUE)
       OR EXISTS (SELECT FROM resource_claims AS claim WHERE claim.root_id = mine.id)
       OR trigger_source = 'schedule' AND NOT EXISTS (
              SELECT FROM executions AS later WHERE later.idempotency_key > mine.idempotency_key
              AND later.idempotency_key
                  < 'schedule ' || split_part(mine.idempotency_key, ' ', 2) || ' ~')
)
SELECT id, origin IN (SELECT origin FROM held) AS is_held FROM lineage
"""
)
# Captures, oldest first, up to so many raw rows. One stays that was not normalized, or only lately;
# that has the record of an open letter; or that an execution names which is live or whose letter is
# open.
OLD_CAPTURES = text(
    """
WITH unresolved AS MATERIALIZED (
    SELECT params FROM executions WHERE pipeline = 'otc_normalize' AND finished_at IS NULL
    UNION ALL
    SELECT params FROM executions JOIN dead_letters ON execution_id = executions.id
    WHERE pipeline = 'otc_normalize' AND kind = 'execution' AND closed_at IS NULL
), needed AS MATERIALIZED (
    SELECT raw_id, NULL AS named FROM dead_letters WHERE kind = 'record' AND closed_at IS NULL
    UNION ALL
    SELECT (params ->> 'raw_id')::bigint, params ->> 'capture_id' FROM unresolved
), old AS (
    SELECT *, sum(row_count) OVER (ORDER BY captured_at, capture_id) - row_count AS before
    FROM otc_captures
    WHERE captured_at < now() - make_interval(days => :days)
      AND (captured_at, capture_id) > (:at, :id)
    ORDER BY captured_at, capture_id LIMIT :batch
)
SELECT capture_id AS id, captured_at AS at, first_raw_id, last_raw_id,
       (normalized_at < now() - make_interval(days => :days)) IS NOT TRUE OR EXISTS (
           SELECT FROM needed WHERE raw_id BETWEEN first_raw_id AND last_raw_id
           OR named = capture_id::text) AS is_held
FROM old WHERE before < :raw_rows ORDER BY captured_at, capture_id
"""
)


class Outcome(NamedTuple):
    """How many rows of a table were removed, or would be."""

    table: str
    days: int | None  # its policy; None: all of it stays
    rows: int
    held: int | None  # old, and kept all the same; None: it goes with what it belongs to


class Place(NamedTuple):
    """How far the rows of a table were gone through."""

    at: datetime = EPOCH
    id: UUID = UUID(int=0)


class Found(NamedTuple):
    """A batch, and what was passed over to find it."""

    rows: dict[Table, ColumnElement[bool]]  # in the order in which they may be removed
    held: int
    reached: Place


# Finds the next batch behind a place, and locks it if it is to be removed; None: there is no more.
Find = Callable[[Connection, Place, bool], Found | None]


def run(*, apply: bool) -> list[Outcome]:
    """Remove from the store what is old enough, or only count it.

    Raises:
        RequestError: there is no archive, or the store is no Postgres.
        StoreError: the store cannot be used.
    """
    presence.require_postgres("retention")
    if apply:
        archive.folder()
    removed: Counter[Table] = Counter()
    held: Counter[str] = Counter()
    for name, find in FINDERS.items():
        for found, counts in _batches(name, find, apply=apply):
            removed.update(counts)
            held[name] += found.held
            progress.report(f"retention: {name}", removed.total(), None)
    policy = settings()
    days = {
        otc_captures: policy.spine_retain_bronze_days,
        otc_trades_raw: policy.spine_retain_bronze_days,
        execution_events: policy.spine_retain_events_days,
        executions: policy.spine_retain_executions_days,
        dead_letters: policy.spine_retain_dead_letters_days,
    }
    passed = {otc_captures: held["bronze"], executions: held["executions"]}
    return [Outcome(one.name, days[one], removed[one], passed.get(one)) for one in days]


def _batches(name: str, find: Find, *, apply: bool) -> Iterator[tuple[Found, dict[Table, int]]]:
    """Go through all that is old, a transaction at a time."""
    place = Place()
    while True:
        with database.transaction() if apply else database.snapshot() as connection:
            if apply:
                _prepare(connection)
            found = find(connection, place, apply)
            if found is None:
                return
            if not found.rows:
                counts: dict[Table, int] = {}
            elif apply:
                named = archive.name_of(name, found.reached.at)
                counts = archive.write(connection, named, found.rows)
                _remove(connection, found.rows, counts)
            else:
                counts = {one: _count(connection, one, rows) for one, rows in found.rows.items()}
        place = found.reached
        yield found, counts


def _prepare(connection: Connection) -> None:
    connection.exec_driver_sql(f"SET LOCAL lock_timeout = '{PATIENCE}'")
    connection.exec_driver_sql("SET LOCAL market_spine.retention = 'on'")  # for the events' trigger
    database.store().transaction_lock(connection, "retention")  # one batch is written at a time


def _count(connection: Connection, table: Table, rows: ColumnElement[bool]) -> int:
    return connection.execute(select(func.count()).select_from(table).where(rows)).scalar_one()


def _remove(
    connection: Connection, rows: dict[Table, ColumnElement[bool]], archived: dict[Table, int]
) -> None:
    for table, chosen in rows.items():
        removed = connection.execute(delete(table).where(chosen)).rowcount
        if removed != archived[table]:
            raise RuntimeError(f"{table.name}: {removed} rows, {archived[table]} of them archived")


# --- what may go, a batch at a time --------------------------------------------------------------


def _find_letters(connection: Connection, place: Place, lock: bool) -> Found | None:
    """Closed letters of records; that of an execution leaves with it."""
    days = settings().spine_retain_dead_letters_days
    old = _old(connection, OLD_LETTERS, days, place, batch=LETTERS)
    if not old:
        return None
    free = _free(connection, dead_letters.c.id, [row.id for row in old], lock)
    return Found(_rows({dead_letters.c.id: free}), len(old) - len(free), _reached(old))


def _find_executions(connection: Connection, place: Place, lock: bool) -> Found | None:
    """Executions, with all that came of them."""
    policy = settings()
    both = policy.spine_retain_executions_days, policy.spine_retain_events_days
    days = None if None in both else max(filter(None, both))
    old = _old(connection, OLD_ORIGINS, days, place, batch=TREES, events=EVENTS)
    if not old:
        return None
    # Whoever moves an execution locks its root first.
    free = _free(connection, executions.c.id, [row.id for row in old], lock)
    values = {"origins": free, "days": days, "letters": policy.spine_retain_dead_letters_days}
    lineages = connection.execute(LINEAGES, values).all()
    going = [row.id for row in lineages if not row.is_held]
    columns = (dead_letters.c.execution_id, execution_events.c.execution_id, executions.c.id)
    rows = _rows(dict.fromkeys(columns, going))
    if rows and not lock:  # of records they were counted, and are still there
        rows[dead_letters] &= dead_letters.c.kind == "execution"
    return Found(rows, len(lineages) - len(going) + len(old) - len(free), _reached(old))


def _find_captures(connection: Connection, place: Place, lock: bool) -> Found | None:
    """Captures, with their raw rows."""
    days = settings().spine_retain_bronze_days
    old = _old(connection, OLD_CAPTURES, days, place, batch=CAPTURES, raw_rows=RAW_ROWS)
    if not old:
        return None
    ready = {row.id: row for row in old if not row.is_held}
    going = _free(connection, otc_captures.c.capture_id, [*ready], lock)
    rows = _rows({otc_trades_raw.c.capture_id: going, otc_captures.c.capture_id: going})
    if rows:  # those of a capture are found by their ids, since they have no index by capture
        filled = [ready[one] for one in going if ready[one].first_raw_id is not None]
        first = min((row.first_raw_id for row in filled), default=0)
        last = max((row.last_raw_id for row in filled), default=0)
        rows[otc_trades_raw] &= otc_trades_raw.c.raw_id.between(first, last)
    return Found(rows, len(old) - len(going), _reached(old))


FINDERS: dict[str, Find] = {
    "letters": _find_letters,  # first, since they keep executions
    "executions": _find_executions,
    "bronze": _find_captures,
}


def _old(
    connection: Connection, query: Any, days: int | None, place: Place, **more: int
) -> Sequence[Any]:
    if days is None:
        return []
    return connection.execute(query, {"days": days, **place._asdict(), **more}).all()


def _reached(old: Sequence[Any]) -> Place:
    return Place(old[-1].at, old[-1].id)


def _free(
    connection: Connection, column: Column[Any], ids: Sequence[UUID], lock: bool
) -> Sequence[UUID]:
    """Those of the rows that nobody else holds, which then are this transaction's."""
    if not lock:
        return ids
    chosen = select(column).where(database.store().is_one_of(column, ids))
    return connection.execute(chosen.with_for_update(skip_locked=True)).scalars().all()


def _rows(chosen: dict[Column[Any], Sequence[UUID]]) -> dict[Table, ColumnElement[bool]]:
    is_one_of = database.store().is_one_of
    return {column.table: is_one_of(column, ids) for column, ids in chosen.items() if ids}
