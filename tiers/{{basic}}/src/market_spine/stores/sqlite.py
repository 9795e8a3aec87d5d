"""SQLite: one file, one writer at a time, readers never blocked.

A transaction that may write begins with the write lock (`BEGIN IMMEDIATE`), so that it never fails
half-way because another process wrote first.
"""

import sqlite3
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain, islice
from typing import Any

import orjson
from filelock import FileLock, Timeout
from sqlalchemy import (
    Column,
    ColumnElement,
    Connection,
    Engine,
    Table,
    bindparam,
    create_engine,
    event,
    func,
    literal,
    make_url,
    select,
    text,
)
from sqlalchemy.dialects.sqlite import insert
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.pool import NullPool
from sqlalchemy.schema import CreateColumn
from sqlalchemy.sql.dml import Insert

from market_spine.errors import StoreError
from market_spine.schema import metadata

SCHEME = "sqlite"
RANK = 0

BUSY_SECONDS = 5.0  # how long a command waits for another process's write before it gives up
POLL_SECONDS = 0.02
COPY_ROWS = 500  # of one statement: entering SQLite once for many rows is quicker

# Why SQLite refused, by the first part of its error's name, as a person would put it.
REASONS = {
    "SQLITE_BUSY": "is busy: another process is writing to it; try again when that has finished",
    "SQLITE_LOCKED": "is busy: another process is writing to it; try again when that has finished",
    "SQLITE_READONLY": "is read-only: make the file and its folder writable, or name another store",
    "SQLITE_CANTOPEN": "cannot be opened: check that its folder exists and may be written to",
    "SQLITE_NOTADB": "is not a database: name another file in DATABASE_URL, or move this one away",
    "SQLITE_CORRUPT": "is damaged: restore it from a copy, or move it away and ingest again",
    "SQLITE_FULL": "cannot grow: the disk is full",
    "SQLITE_IOERR": "cannot be read or written: check the disk and the file's permissions",
}


def default_url() -> str:
    """A file in the folder where the command is run."""
    return "sqlite:///spine.db"


def open_engine(url: str) -> Engine:
    """Open the file, make what is missing of it, and refuse one that is not of this version.

    Raises:
        StoreError: the URL names no file, or the file's tables are not the ones of `schema.py`.
    """
    parsed = make_url(url)
    if parsed.username or (parsed.host and parsed.database):
        raise StoreError("DATABASE_URL: SQLite has neither host nor user: write sqlite:///FILE")
    path = parsed.database
    if not path or path == ":memory:":
        raise StoreError(f"DATABASE_URL: {url} names no file, and data must outlive a command")
    engine = create_engine(
        url,
        connect_args={"timeout": BUSY_SECONDS},
        poolclass=NullPool,  # a connection is cheap, and none is left open when a command ends
        hide_parameters=True,  # rows do not belong into messages
        json_serializer=lambda value: orjson.dumps(value).decode(),
        json_deserializer=orjson.loads,
    )
    event.listen(engine, "connect", _configure)
    event.listen(engine, "begin", _begin)
    event.listen(engine, "invalidate", _roll_back)
    with engine.connect().execution_options(read_only=True) as connection:
        is_whole = not _lacking(connection, path)
    if not is_whole:
        with engine.begin() as connection:
            _complete(connection, path)
    return engine


def _configure(connection: sqlite3.Connection, _record: object) -> None:
    connection.isolation_level = None  # transactions are begun by `_begin`, not by the driver
    connection.execute("PRAGMA page_size = 16384")  # of a new file; large ones load faster
    connection.execute("PRAGMA foreign_keys = ON")
    connection.execute("PRAGMA cache_size = -65536")  # 64 MiB


def _roll_back(connection: sqlite3.Connection, *_: object) -> None:
    # Ctrl-C cuts a statement short, and closing the connection alone would leave its write lock.
    connection.rollback()


def _begin(connection: Connection) -> None:
    reads = connection.get_execution_options().get("read_only")
    if not reads:
        _use_wal(connection)
    connection.exec_driver_sql("BEGIN" if reads else "BEGIN IMMEDIATE")


def _use_wal(connection: Connection) -> None:
    """Let readers see what was, while one writes; of a new file this is a change.

    SQLite does not wait for another process that makes the same change, as it does for all else.
    """
    until = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            connection.exec_driver_sql("PRAGMA journal_mode = WAL")
        except OperationalError as error:
            if not _code(error).startswith("SQLITE_BUSY") or time.monotonic() > until:
                raise
            time.sleep(POLL_SECONDS)
        else:
            return


def _complete(connection: Connection, path: str) -> None:
    """Make the tables that are missing and, in those that are there, the columns and indexes."""
    connection.exec_driver_sql("PRAGMA user_version = 1")
    for column in _lacking(connection, path):
        if isinstance(column, Column):
            table = connection.dialect.identifier_preparer.format_table(column.table)
            definition = CreateColumn(column).compile(dialect=connection.dialect)
            connection.exec_driver_sql(f"ALTER TABLE {table} ADD COLUMN {definition}")
    metadata.create_all(connection)
    for index in chain.from_iterable(one.indexes for one in metadata.tables.values()):
        index.create(connection, checkfirst=True)


def _lacking(connection: Connection, path: str) -> list[Table | Column[Any]]:
    """The tables and columns that `schema.py` has and the file has not.

    Raises:
        StoreError: the file is some other program's, or its rows lack what they must have.
    """
    found: dict[str, set[str]] = {}
    for table, column in connection.exec_driver_sql(
        "SELECT m.name, c.name FROM sqlite_master AS m, pragma_table_info(m.name) AS c "
        "WHERE m.type = 'table' AND m.name NOT LIKE 'sqlite_%'"
    ):
        found.setdefault(table, set()).add(column)
    if found and not found.keys() & metadata.tables.keys():
        raise StoreError(
            f"{path} is some other program's database (it has the table '{min(found)}'): "
            "name another file in DATABASE_URL"
        )
    lacking: list[Table | Column[Any]] = []
    for name, table in metadata.tables.items():
        if name not in found:
            lacking.append(table)
            continue
        columns = [column for column in table.columns if column.name not in found[name]]
        for column in columns:
            if not column.nullable and column.server_default is None:
                raise StoreError(
                    f"{path} was made by another version (its table '{name}' lacks "
                    f"'{column.name}'): move it away and ingest again, or use the version that "
                    "made it"
                )
        lacking += columns
    return lacking


def insert_new(table: Table) -> Insert:
    """See `database.Store`."""
    return insert(table).on_conflict_do_nothing()


def is_one_of(column: ColumnElement[Any], values: Sequence[Any]) -> ColumnElement[bool]:
    """See `database.Store`."""
    # One parameter that holds all the values: SQLite allows 32,766 parameters at most. As text,
    # because a table-valued function is a cycle of objects, which would keep them all for a while.
    among = text("(SELECT value FROM json_each(:listed))").bindparams(
        bindparam("listed", orjson.dumps(list(values)).decode(), unique=True)
    )
    return column.op("IN", is_comparison=True)(among)


def copy_rows(
    connection: Connection,
    table: Table,
    names: Sequence[str],
    rows: Iterable[Sequence[Any]],
    constants: Mapping[str, Any],
) -> None:
    """The plain form of a value is the form in which it is stored here: nothing is converted."""
    literals = [
        connection.execute(select(func.quote(literal(value, table.c[name].type)))).scalar_one()
        for name, value in constants.items()
    ]
    preparer = connection.dialect.identifier_preparer
    into = preparer.format_table(table)
    columns = ", ".join(map(preparer.quote, [*names, *constants]))
    one = f"({', '.join([*('?' * len(names)), *literals])})"
    insert_one = f"INSERT INTO {into} ({columns}) VALUES {one}"  # noqa: S608  (quoted)
    insert_many = insert_one + f", {one}" * (COPY_ROWS - 1)
    waiting = iter(rows)
    while len(batch := list(islice(waiting, COPY_ROWS))) == COPY_ROWS:
        connection.exec_driver_sql(insert_many, tuple(chain.from_iterable(batch)))
    if batch:
        connection.exec_driver_sql(insert_one, batch)


def transaction_lock(_connection: Connection, _name: str) -> None:
    """See `database.Store`: a transaction that writes is alone here anyway."""


@contextmanager
def run_lock(*, wait: bool) -> Iterator[bool]:
    """See `database.Store`."""
    # The operating system lets go of it when its process dies, however that comes about.
    lock = FileLock(f"{_path()}.lock")
    try:
        lock.acquire(blocking=wait)
    except Timeout:
        yield False
        return
    except OSError as error:
        reason = f"cannot be locked: {error.strerror}; its folder must be writable"
        raise StoreError(f"the store {_path()} {reason}") from error
    try:
        yield True
    finally:
        lock.release()


def explain(error: DBAPIError) -> str | None:
    """See `database.Store`."""
    code = _code(error)
    for prefix, reason in REASONS.items():
        if code.startswith(prefix):
            return f"the store {_path()} {reason}"
    return None


def _code(error: DBAPIError) -> str:
    return getattr(error.orig, "sqlite_errorname", "")


def _path() -> str:
    from market_spine.settings import settings

    return make_url(settings().database_url or default_url()).database or ""
