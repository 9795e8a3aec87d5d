"""Bringing a store of SQLite over into Postgres: every table, with its ids, in one transaction.

Nothing is changed unless all of it arrives and the sums on both sides agree. What is there already
stays as it is; if other rows have the place of those that are brought, they are named and nothing
is brought over, unless the store is to be emptied first.
"""

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from filelock import FileLock, Timeout
from sqlalchemy import JSON, Column, Connection, Integer, MetaData, Table, make_url
from sqlalchemy.exc import ArgumentError, IntegrityError, NotSupportedError

from market_spine import database, progress
from market_spine.errors import ConflictError, RequestError, StoreError
from market_spine.schema import Exact, UtcDateTime, executions, metadata

NAMED = 5  # rows that are named, of those that are in the way
PATIENCE = "5s"  # how long emptying waits for whoever uses a table
MILLION = 1_000_000


class Brought(NamedTuple):
    """What became of a table."""

    table: str
    rows: int | None  # in the source; None: it has no such table
    new: int  # of those, in the store


def bring_over(connection: Connection, url: str, *, replace: bool = False) -> list[Brought]:
    """Bring a store over, in the caller's transaction.

    Args:
        connection: to a store whose schema is up to date, and where nothing runs.
        url: an SQLite store, as sqlite:///spine.db.
        replace: remove all that the store holds before.

    Raises:
        RequestError: there is no such store, or it is in use, or not of this version.
        ConflictError: the store holds other rows in the place of those that are brought, or it is
            to be emptied and has executions that have not ended.
        StoreError: what has arrived is not what was sent.
    """
    with _opened(url) as source:
        if replace:
            _empty(connection)
        try:
            return [_bring(connection, source, table) for table in metadata.sorted_tables]
        except ConflictError as error:
            if replace:
                raise
            remedy = "with --replace, all that the store holds is removed first"
            raise ConflictError(f"{error}; {remedy}") from error


def _empty(connection: Connection) -> None:
    """Remove every row of every table; what is numbered begins at one again."""
    connection.exec_driver_sql(f"SET LOCAL lock_timeout = '{PATIENCE}'")
    # First, so that nothing is submitted between the look at what is live and the end.
    connection.exec_driver_sql(f"LOCK TABLE {executions.name} IN ACCESS EXCLUSIVE MODE")
    live = connection.exec_driver_sql(
        f"SELECT count(*), string_agg(DISTINCT status, ', ') FROM {executions.name} "  # noqa: S608
        "WHERE finished_at IS NULL"
    ).one()
    if live[0]:
        raise ConflictError(
            f"nothing was removed: the store has executions that have not ended: {live[0]} "
            f"({live[1]}); let them end under spine dev, or cancel them over the API"
        )
    names = ", ".join(table.name for table in metadata.sorted_tables)
    # The trigger of the events wants to be told by a transaction that removes some.
    connection.exec_driver_sql("SET LOCAL market_spine.retention = 'on'")
    try:
        connection.exec_driver_sql(f"TRUNCATE {names} RESTART IDENTITY")
    except NotSupportedError as error:
        reason = " ".join(str(error.orig).split())
        raise ConflictError(f"nothing was removed: {reason}") from error


def _bring(connection: Connection, source: sqlite3.Connection, table: Table) -> Brought:
    if not _has(source, table):
        return Brought(table.name, None, 0)
    sent = _sent(source, table)
    incoming = table.to_metadata(MetaData(), name=f"incoming_{table.name}")
    connection.exec_driver_sql(
        f"CREATE TEMPORARY TABLE {incoming.name} (LIKE {table.name}) ON COMMIT DROP"
    )
    names = [column.name for column in table.columns]
    database.bulk_insert(connection, incoming, names, _rows(source, table, sent[0]))
    connection.exec_driver_sql(f"ANALYZE {incoming.name}")
    _refuse_conflicts(connection, table, incoming)
    try:
        new = connection.exec_driver_sql(
            f"INSERT INTO {table.name} ({', '.join(names)}) "  # noqa: S608
            f"SELECT {', '.join(names)} FROM {incoming.name} "
            f"ON CONFLICT ({_key(table)}) DO NOTHING"
        ).rowcount
    except IntegrityError as error:
        reason = " ".join(str(error.orig).split())
        raise ConflictError(f"nothing was brought over: {table.name}: {reason}") from error
    arrived = _arrived(connection, table, incoming)
    if arrived != sent:
        reason = f"{arrived} have arrived where the source has {sent}"
        raise StoreError(f"nothing was brought over: counts and sums of {table.name}: {reason}")
    _number_on(connection, table)
    return Brought(table.name, sent[0], new)


def _refuse_conflicts(connection: Connection, table: Table, incoming: Table) -> None:
    """Name the rows that have the same key and other content."""

    def all_of(alias: str) -> str:
        # Of JSON, Postgres can compare the text alone.
        columns = (f"{alias}.{c.name}" + "::text" * isinstance(c.type, JSON) for c in table.columns)
        return f"({', '.join(columns)})"

    found = connection.exec_driver_sql(
        f"SELECT {_key(table)} FROM {table.name} AS here "  # noqa: S608
        f"JOIN {incoming.name} AS sent USING ({_key(table)}) "
        f"WHERE {all_of('here')} IS DISTINCT FROM {all_of('sent')} ORDER BY {_key(table)}"
    ).all()
    if found:
        named = "; ".join(", ".join(map(str, row)) for row in found[:NAMED])
        more = f" and {len(found) - NAMED} more" if len(found) > NAMED else ""
        raise ConflictError(
            f"nothing was brought over: the store has {table.name} with the same {_key(table)} "
            f"and other content: {named}{more}"
        )


def _number_on(connection: Connection, table: Table) -> None:
    """Let new rows be numbered behind those that were brought."""
    column = table.autoincrement_column
    if column is not None:
        connection.exec_driver_sql(
            "SELECT setval(sequence, greatest(nextval(sequence), latest)) FROM "  # noqa: S608
            f"(SELECT pg_get_serial_sequence('{table.name}', '{column.name}') AS sequence, "
            f"max({column.name}) AS latest FROM {table.name}) AS numbered WHERE latest IS NOT NULL"
        )


def _key(table: Table) -> str:
    return ", ".join(column.name for column in table.primary_key)


# --- the source --------------------------------------------------------------------------------


@contextmanager
def _opened(url: str) -> Iterator[sqlite3.Connection]:
    """The source as it stands, which is only read; nobody runs executions in it meanwhile."""
    try:
        parsed = make_url(url)
    except ArgumentError:
        raise RequestError(f"{url}: write the store as sqlite:///spine.db") from None
    path = Path(parsed.database or "")
    if parsed.get_backend_name() != "sqlite" or not path.is_file():
        raise RequestError(f"{url}: there is no such SQLite store; write it as sqlite:///spine.db")
    read_only = f"{path.absolute().as_uri()}?mode=ro"
    try:
        with _locked(path), closing(_connect(read_only)) as source:
            source.execute("BEGIN")
            source.execute(f"SELECT 1 FROM {executions.name}")  # noqa: S608  (any store has some)
            yield source
    except sqlite3.Error as error:
        raise RequestError(f"{path}: is no store of this version: {error}") from error


def _locked(path: Path) -> AbstractContextManager[object]:
    try:
        return FileLock(f"{path}.lock").acquire(blocking=False)
    except Timeout:
        raise RequestError(f"{path}: another process runs executions in it: let it end") from None
    except OSError as error:
        reason = f"cannot be locked: {error.strerror}; {path}.lock must be a file, to be written to"
        raise RequestError(f"{path}: {reason}") from error


def _connect(uri: str) -> sqlite3.Connection:
    return sqlite3.connect(uri, uri=True, isolation_level=None)


def _has(source: sqlite3.Connection, table: Table) -> bool:
    found = source.execute("SELECT 1 FROM sqlite_master WHERE name = ?", (table.name,))
    return found.fetchone() is not None


def _rows(source: sqlite3.Connection, table: Table, total: int) -> Iterator[Sequence[Any]]:
    """The rows in the form in which SQLite keeps them, which is what a bulk load takes."""
    names = ", ".join(column.name for column in table.columns)
    for done, row in enumerate(source.execute(f"SELECT {names} FROM {table.name}")):  # noqa: S608
        if done % 10_000 == 0:
            progress.report(f"import: {table.name}", done, total)
        yield row


# --- counts and sums ---------------------------------------------------------------------------


def _summed(table: Table) -> list[Column[Any]]:
    """The columns that SQLite keeps as whole numbers: numbers, amounts and instants."""
    kinds = (Exact, Integer, UtcDateTime)
    return [column for column in table.columns if isinstance(column.type, kinds)]


def _sent(source: sqlite3.Connection, table: Table) -> tuple[int, ...]:
    """How many rows the source has, and the sum of each such column."""
    parts = ["count(*)"]
    for column in _summed(table):  # in two halves, because SQLite's sums end at 64 bits
        parts += [f"sum({column.name} {half} {MILLION})" for half in "/%"]
    row = source.execute(f"SELECT {', '.join(parts)} FROM {table.name}").fetchone()  # noqa: S608
    count, *halves = (part or 0 for part in row)
    high, low = halves[::2], halves[1::2]
    return (count, *(h * MILLION + rest for h, rest in zip(high, low, strict=True)))


def _arrived(connection: Connection, table: Table, incoming: Table) -> tuple[int, ...]:
    """The same of the store's rows that have the keys of those in the source."""
    parts = ["count(*)"]
    for column in _summed(table):
        whole = f"here.{column.name}"
        if isinstance(column.type, Exact):
            whole = f"{whole} * {10**column.type.scale}"
        elif isinstance(column.type, UtcDateTime):
            whole = f"extract(epoch FROM {whole}) * {MILLION}"
        parts.append(f"coalesce(sum({whole}), 0)")
    row = connection.exec_driver_sql(
        f"SELECT {', '.join(parts)} FROM {table.name} AS here "  # noqa: S608
        f"JOIN {incoming.name} AS sent USING ({_key(table)})"
    ).one()
    return tuple(row)
