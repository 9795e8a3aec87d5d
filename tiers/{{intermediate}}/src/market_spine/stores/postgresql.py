"""Postgres: many writers, one server, a schema that its migrations make.

Transactions are READ COMMITTED; a snapshot is REPEATABLE READ and cannot write. Rows are loaded by
COPY, and long lists are sent as one text: the driver would turn over each value in Python.
"""

import atexit
import logging
import os
import socket
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Any

import orjson
import psycopg
from psycopg.adapt import Buffer, Dumper
from psycopg.conninfo import make_conninfo
from sqlalchemy import (
    ARRAY,
    URL,
    BindParameter,
    ColumnElement,
    Connection,
    Engine,
    String,
    Table,
    Text,
    bindparam,
    create_engine,
    event,
    func,
    make_url,
    select,
    text,
)
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import ArgumentError, DBAPIError
from sqlalchemy.sql.dml import Insert

from market_spine import copy_format, database, migrations, refusals
from market_spine.deadline import query_seconds
from market_spine.errors import StoreError
from market_spine.idle import ask_after_idling

SCHEME = "postgresql"
RANK = 10

CONNECT_SECONDS = 5
# A server that has vanished without a word is noticed after a minute, and so is a client, which
# may have held a lock.
KEEPALIVE = {
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
    "tcp_user_timeout": 60_000,
}
OF_SESSION = {
    "timezone": "UTC",
    "tcp_keepalives_idle": 30,
    "tcp_keepalives_interval": 10,
    "tcp_keepalives_count": 3,
}
KEPT_CONNECTIONS = 10  # further ones are closed after use; a thread has one at a time, so few are
COPY_ROWS = 2_500  # rows that are sent at a time; the server loads them while the next are made
MANY_ROWS = 50_000  # in one transaction; what the planner thinks of the table is outdated then
LOADED = "rows loaded"  # in this transaction, by table
LIMIT = "seconds"  # for each statement of this connection, as they were last set
SEPARATOR = "\x1f"  # of the values in a list
RUN_LOCK = "run lock"

logging.getLogger("psycopg").setLevel(logging.ERROR)  # what it warns of is raised, too


def default_url() -> str:
    """The embedded server of this repo, which is started if it does not run."""
    from market_spine import embedded

    return embedded.ensure()


def open_engine(url: str) -> Engine:
    """An engine over a database whose schema is this version's.

    Raises:
        StoreError: the schema is not, or not yet.
    """
    engine = connect(url)
    atexit.register(engine.dispose)  # or the driver would complain of connections left open
    with engine.connect() as connection:
        migrations.require_current(connection)
    return engine


def connect(url: str) -> Engine:
    """An engine over a database, whatever is in it.

    Raises:
        StoreError: the URL has an option that Postgres does not know.
    """
    parsed = make_url(url).set(drivername="postgresql+psycopg")
    _check_options(parsed)
    options = " ".join(f"-c {name}={value}" for name, value in OF_SESSION.items())
    engine = create_engine(
        parsed,
        pool_size=KEPT_CONNECTIONS,
        max_overflow=-1,
        hide_parameters=True,  # rows do not belong into messages
        json_serializer=_json,
        json_deserializer=orjson.loads,
        connect_args={
            "connect_timeout": CONNECT_SECONDS,
            "application_name": f"market_spine {process_id()}",
            "options": f"{options} {parsed.query.get('options', '')}",
            **KEEPALIVE,
        },
    )
    ask_after_idling(engine)
    event.listen(engine, "connect", _configure)
    event.listen(engine, "begin", _begin)
    event.listen(engine, "commit", _take_stock)
    event.listen(engine, "rollback", _forget_limit)
    event.listen(engine, "set_connection_execution_options", _read_only)
    return engine


def process_id() -> str:
    """What this process is called, there and in the ledger: its host, and its number on it."""
    return f"{socket.gethostname()[:40]}:{os.getpid()}"


def _check_options(url: URL) -> None:
    try:
        _, options = url.get_dialect()().create_connect_args(url)
        make_conninfo(**dict.fromkeys(options, ""))
    except (ArgumentError, psycopg.ProgrammingError) as error:
        reason = " ".join(str(error).split())
        raise StoreError(f"DATABASE_URL: {reason}: mend what follows its '?'") from error


def _json(value: Any) -> str:
    return orjson.dumps(value).decode()


class _Characters(Dumper):
    def dump(self, value: str) -> Buffer:
        return value.replace("\0", copy_format.NO_NUL).encode()


def _configure(connection: psycopg.Connection, _record: object) -> None:
    connection.adapters.register_dumper(str, _Characters)


def _begin(connection: Connection) -> None:
    connection.info.pop(LOADED, None)  # of a transaction that was rolled back
    seconds = query_seconds.get()
    if connection.info.get(LIMIT) != seconds:  # most often it is what the last request set
        limit = "DEFAULT" if seconds is None else round(seconds * 1000)
        connection.exec_driver_sql(f"SET statement_timeout = {limit}")
        connection.info[LIMIT] = seconds


def _forget_limit(connection: Connection) -> None:
    if not connection.invalidated:
        connection.info[LIMIT] = ...  # what a rollback goes back to is not known


def _take_stock(connection: Connection) -> None:
    """Tell the planner of tables that have just grown, as Postgres itself would in a minute."""
    for table, rows in sorted(connection.info.get(LOADED, {}).items()):
        if rows >= MANY_ROWS:
            connection.exec_driver_sql(f"ANALYZE {table}")


def _read_only(_connection: Connection, options: dict[str, Any]) -> None:
    if options.get("read_only"):
        options.update(postgresql_readonly=True, isolation_level="REPEATABLE READ")


def insert_new(table: Table) -> Insert:
    """See `database.Store`."""
    return insert(table).on_conflict_do_nothing()


def is_one_of(column: ColumnElement[Any], values: Sequence[Any]) -> ColumnElement[bool]:
    """See `database.Store`."""
    # The list as text, because `any_()` is a cycle of objects, which would keep it for a while.
    texts = [str(value) for value in values]
    if texts == [""] or any(SEPARATOR in value for value in texts):
        listed: BindParameter[Any] = bindparam("listed", texts, ARRAY(Text), unique=True)
        among = ":listed"
    else:
        listed = bindparam("listed", SEPARATOR.join(texts), unique=True)
        among = f"string_to_array(:listed, '{SEPARATOR}')"
    if not isinstance(column.type, String):
        among = f"CAST({among} AS {column.type.compile(database.engine().dialect)}[])"
    return column.op("=", is_comparison=True)(text(f"ANY ({among})").bindparams(listed))


# --- bulk load ---------------------------------------------------------------------------------


def copy_rows(
    connection: Connection,
    table: Table,
    names: Sequence[str],
    rows: Iterable[Sequence[Any]],
    constants: Mapping[str, Any],
) -> None:
    """See `database.Store`."""
    columns = [table.c[name] for name in names]
    shared = {table.c[name]: value for name, value in constants.items()}
    preparer = connection.dialect.identifier_preparer
    name = preparer.format_table(table)
    into = f"{name} ({', '.join(map(preparer.quote, [*names, *constants]))})"
    loaded: Counter[str] = connection.info.setdefault(LOADED, Counter())
    waiting = iter(rows)
    with copying(connection, f"COPY {into} FROM STDIN (FORMAT BINARY)") as copy:
        copy.write(copy_format.HEADER)
        while batch := list(islice(waiting, COPY_ROWS)):
            copy.write(copy_format.batch(columns, batch, shared))
            loaded[name] += len(batch)
        copy.write(copy_format.END)


@contextmanager
def copying(connection: Connection, statement: str) -> Iterator[psycopg.Copy]:
    """A COPY of rows into the store, in the transaction.

    Raises:
        DBAPIError: as of any other statement.
    """
    driver: Any = connection.connection.dbapi_connection
    try:
        with driver.cursor() as cursor, cursor.copy(statement) as copy:
            yield copy
    except psycopg.Error as error:
        raise DBAPIError.instance(
            statement, None, error, psycopg.Error, hide_parameters=True, dialect=connection.dialect
        ) from error


# --- locks -------------------------------------------------------------------------------------


def lock_key(name: str) -> ColumnElement[int]:
    """What Postgres calls a lock of that name."""
    return func.hashtextextended(f"market_spine {name}", 0)


def transaction_lock(connection: Connection, name: str) -> None:
    """See `database.Store`."""
    connection.execute(select(func.pg_advisory_xact_lock(lock_key(name))))


@contextmanager
def run_lock(*, wait: bool) -> Iterator[bool]:
    """See `database.Store`: a lock of the session, which ends with it."""
    with database.explained(), database.engine().connect() as pooled:
        connection = pooled.execution_options(isolation_level="AUTOCOMMIT")
        key = lock_key(RUN_LOCK)
        if wait:
            connection.execute(select(func.pg_advisory_lock(key)))
            free = True
        else:
            free = connection.execute(select(func.pg_try_advisory_lock(key))).scalar_one()
        try:
            yield free
        finally:
            if free and not connection.invalidated:
                connection.execute(select(func.pg_advisory_unlock(key)))


def explain(error: DBAPIError) -> str | None:
    """See `database.Store` and `refusals.reason_of`."""
    place = make_url(database.url()).set(query={}).render_as_string(hide_password=True)
    return refusals.reason_of(error, f"the store {place}")
