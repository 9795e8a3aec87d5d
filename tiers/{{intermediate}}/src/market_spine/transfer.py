"""Bringing a store of SQLite over into Postgres: every table, with its ids, in one transaction.

Nothing is changed unless all of it arrives and the sums on both sides agree. What is there already
stays as it is; if other rows have the place of those that are brought, they are named and nothing
is brought over, unless the store is to be emptied first.

A repo may have tables of its own: names are quoted, and values are read and written as the types
of their columns do it.
"""

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from filelock import FileLock, Timeout
from psycopg.errors import UndefinedColumn, UndefinedTable
from sqlalchemy import JSON, Column, Connection, Dialect, Integer, Table, exc, make_url, select
from sqlalchemy.dialects import sqlite

from market_spine import progress
from market_spine.errors import ConflictError, RequestError, StoreError
from market_spine.schema import Exact, UtcDateTime, executions, metadata
from market_spine.stores import postgresql

NAMED = 5  # rows that are named, of those that are in the way
PATIENCE = "5s"  # how long emptying waits for whoever uses a table
MILLION = 1_000_000
# What types raise at a value that is not theirs, which SQLite lets in.
UNREADABLE = (ArithmeticError, LookupError, TypeError, ValueError)
SQLITE = sqlite.dialect()

_quoted = SQLITE.identifier_preparer.quote_identifier  # Postgres does it alike


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
        RequestError: there is no such store, or it is in use, or not of this version, or it has
            what cannot be brought.
        ConflictError: the store holds other rows in the place of those that are brought, or it is
            to be emptied and has executions that have not ended.
        StoreError: what has arrived is not what was sent.
    """
    with _opened(url) as source:
        for table in metadata.sorted_tables:
            if _has(source, table) and not table.primary_key:
                raise RequestError(
                    f"nothing was brought over: {table.name} has no primary key, without which a "
                    "row cannot be told from another: give it one in schema.py and by a migration"
                )
        try:
            if replace:
                _empty(connection)
            return [_bring(connection, source, table) for table in metadata.sorted_tables]
        except ConflictError as error:
            if replace:
                raise
            remedy = "with --replace, all that the store holds is removed first"
            raise ConflictError(f"{error}; {remedy}") from error
        except exc.ProgrammingError as error:
            if not isinstance(error.orig, UndefinedTable | UndefinedColumn):
                raise
            lacking = error.orig.diag.message_primary
            remedy = "spine db check says what schema.py has and the store has not"
            raise RequestError(f"nothing was brought over: {lacking}: {remedy}") from error


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
    names = ", ".join(_quoted(table.name) for table in metadata.sorted_tables)
    # The trigger of the events wants to be told by a transaction that removes some.
    connection.exec_driver_sql("SET LOCAL market_spine.retention = 'on'")
    try:
        connection.exec_driver_sql(f"TRUNCATE {names} RESTART IDENTITY")
    except exc.NotSupportedError as error:
        raise ConflictError(f"nothing was removed: {_said(error)}") from error


def _bring(connection: Connection, source: sqlite3.Connection, table: Table) -> Brought:
    if not _has(source, table):
        return Brought(table.name, None, 0)
    sent = _sent(source, table)
    here, incoming = _quoted(table.name), _quoted(f"incoming_{table.name}")
    connection.exec_driver_sql(f"CREATE TEMPORARY TABLE {incoming} (LIKE {here}) ON COMMIT DROP")
    _send(connection, source, table, incoming, sent[0])
    connection.exec_driver_sql(f"ANALYZE {incoming}")
    _refuse_conflicts(connection, table, incoming)
    names = ", ".join(_quoted(column.name) for column in _given(table))
    try:
        new = connection.exec_driver_sql(
            f"INSERT INTO {here} ({names}) SELECT {names} FROM {incoming} "  # noqa: S608
            f"ON CONFLICT ({_key(table)}) DO NOTHING"
        ).rowcount
    except exc.IntegrityError as error:
        raise ConflictError(f"nothing was brought over: {table.name}: {_said(error)}") from error
    arrived = _arrived(connection, table, incoming)
    if arrived != sent:
        reason = f"{arrived} have arrived where the source has {sent}"
        raise StoreError(f"nothing was brought over: counts and sums of {table.name}: {reason}")
    _number_on(connection, table)
    return Brought(table.name, sent[0], new)


def _refuse_conflicts(connection: Connection, table: Table, incoming: str) -> None:
    """Name the rows that have the same key and other content."""

    def all_of(alias: str) -> str:
        # There are types, such as JSON, of which Postgres can compare the text alone.
        columns = (f"{alias}.{_quoted(column.name)}::text" for column in _given(table))
        return f"ROW({', '.join(columns)})"

    found = connection.exec_driver_sql(
        f"SELECT {_key(table)} FROM {_quoted(table.name)} AS here "  # noqa: S608
        f"JOIN {incoming} AS sent USING ({_key(table)}) "
        f"WHERE {all_of('here')} IS DISTINCT FROM {all_of('sent')} ORDER BY {_key(table)}"
    ).all()
    if found:
        named = "; ".join(", ".join(map(str, row)) for row in found[:NAMED])
        more = f" and {len(found) - NAMED} more" if len(found) > NAMED else ""
        raise ConflictError(
            f"nothing was brought over: the store has {table.name} with the same "
            f"{', '.join(table.primary_key.columns.keys())} and other content: {named}{more}"
        )


def _number_on(connection: Connection, table: Table) -> None:
    """Let new rows be numbered behind those that were brought."""
    column = table.autoincrement_column
    if column is not None:
        connection.exec_driver_sql(
            "SELECT setval(sequence, greatest(nextval(sequence), latest)) FROM "  # noqa: S608
            f"(SELECT pg_get_serial_sequence(%s, %s) AS sequence, max({_quoted(column.name)}) "
            f"AS latest FROM {_quoted(table.name)}) AS numbered WHERE latest IS NOT NULL",
            (_quoted(table.name), column.name),
        )


def _key(table: Table) -> str:
    return ", ".join(_quoted(column.name) for column in table.primary_key)


def _said(error: exc.DBAPIError) -> str:
    return " ".join(str(error.orig).split())


def _given(table: Table) -> list[Column[Any]]:
    """The columns that the database does not compute itself."""
    return [column for column in table.columns if column.computed is None]


# --- the source --------------------------------------------------------------------------------


@contextmanager
def _opened(url: str) -> Iterator[sqlite3.Connection]:
    """The source as it stands, which is only read; nobody runs executions in it meanwhile."""
    try:
        parsed = make_url(url)
    except exc.ArgumentError:
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


# --- on the way ----------------------------------------------------------------------------------


def _send(
    connection: Connection, source: sqlite3.Connection, table: Table, incoming: str, total: int
) -> None:
    """Copy a table's rows into the temporary one."""
    columns = _given(table)
    names = ", ".join(_quoted(column.name) for column in columns)
    converted = [
        (place, convert)
        for place, column in enumerate(columns)
        for convert in _conversions(column, connection.dialect)
    ]
    rows = source.execute(str(select(*columns).compile(dialect=SQLITE)))
    try:
        with postgresql.copying(connection, f"COPY {incoming} ({names}) FROM STDIN") as copy:
            for done, row in enumerate(rows):
                if done % 10_000 == 0:
                    progress.report(f"import: {table.name}", done, total)
                values = [*row]
                for place, convert in converted:
                    values[place] = convert(values[place])
                copy.write_row(values)
    except (exc.DataError, exc.IntegrityError) as error:
        reason = f"{_said(error)}: mend the value in the source, or the column here"
        raise RequestError(f"nothing was brought over: {table.name}: {reason}") from error
    except UNREADABLE as error:
        name, kind = f"{table.name}.{columns[place].name}", columns[place].type
        reason = f"{values[place]!r} is no {kind!r}: mend it in the source"
        raise RequestError(f"nothing was brought over: {name}: {reason}") from error


def _conversions(column: Column[Any], dialect: Dialect) -> Iterator[Callable[[Any], Any]]:
    """What makes a value of SQLite one of Python, and that one of Postgres, if need be."""
    if isinstance(column.type, JSON):
        return  # it is text in both; read, its null would be None
    read = column.type.dialect_impl(SQLITE).result_processor(SQLITE, None)
    write = column.type.dialect_impl(dialect).bind_processor(dialect)
    yield from (convert for convert in (read, write) if convert)


# --- counts and sums ---------------------------------------------------------------------------


def _summed(table: Table) -> list[Column[Any]]:
    """The columns that SQLite keeps as whole numbers: numbers, amounts and instants."""
    kinds = (Exact, Integer, UtcDateTime)
    return [column for column in table.columns if isinstance(column.type, kinds)]


def _sent(source: sqlite3.Connection, table: Table) -> tuple[int, ...]:
    """How many rows the source has, and the sum of each such column."""
    parts = ["count(*)"]
    for column in _summed(table):  # in two halves, because SQLite's sums end at 64 bits
        parts += [f"sum({_quoted(column.name)} {half} {MILLION})" for half in "/%"]
    statement = f"SELECT {', '.join(parts)} FROM {_quoted(table.name)}"  # noqa: S608
    count, *halves = (part or 0 for part in source.execute(statement).fetchone())
    high, low = halves[::2], halves[1::2]
    return (count, *(h * MILLION + rest for h, rest in zip(high, low, strict=True)))


def _arrived(connection: Connection, table: Table, incoming: str) -> tuple[int, ...]:
    """The same of the store's rows that have the keys of those in the source."""
    parts = ["count(*)"]
    for column in _summed(table):
        whole = f"here.{_quoted(column.name)}"
        if isinstance(column.type, Exact):
            whole = f"{whole} * {10**column.type.scale}"
        elif isinstance(column.type, UtcDateTime):
            whole = f"extract(epoch FROM {whole}) * {MILLION}"
        parts.append(f"coalesce(sum({whole}), 0)")
    row = connection.exec_driver_sql(
        f"SELECT {', '.join(parts)} FROM {_quoted(table.name)} AS here "  # noqa: S608
        f"JOIN {incoming} AS sent USING ({_key(table)})"
    ).one()
    return tuple(row)
