"""The archive: what retention takes out of the store, as Parquet in a folder, and the way back.

A batch is a folder of its own, with a file for each table, compressed with zstd. It appears whole
or not at all, and is on the disk before its rows leave the store. Whole numbers, instants
and truth values have their types; all else is the text that Postgres shows of it, to the letter.
"""

import os
import re
import shutil
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pyarrow as pa  # type: ignore[import-untyped]
from pyarrow import parquet
from sqlalchemy import (
    Boolean,
    Column,
    ColumnElement,
    Connection,
    Integer,
    Table,
    Text,
    cast,
    exc,
    select,
)
from uuid_utils.compat import uuid7

from market_spine import transfer
from market_spine.errors import ConflictError, RequestError, StoreError
from market_spine.schema import UtcDateTime, metadata, otc_captures
from market_spine.settings import settings
from market_spine.stores import postgresql

ROWS = 20_000  # that are held in memory at a time
ON_CONFLICT = "restore first what it refers to, or leave it archived if the store has others by now"
UNFINISHED = ".unfinished"  # the folder of a batch that is being written; one at a time is
# The name of a batch. A volume has folders of its own beside them, such as lost+found.
NAME = re.compile(r"[a-z]+-\d{8}-[0-9a-f-]{36}")


def folder() -> Path:
    """Where the archive is.

    It is never made here: rows that went into the place of a volume that is not mounted were lost.

    Raises:
        RequestError: there is none.
    """
    named = settings().spine_archive
    if named is None:
        raise RequestError("SPINE_ARCHIVE is unset: name the archive's folder, which must exist")
    with suppress(PermissionError):
        if named.is_dir():
            return named
    where = named.absolute()
    todo = "mount it, make it, or see to its rights"
    raise RequestError(f"SPINE_ARCHIVE: there is no folder {where}, or it cannot be seen: {todo}")


def name_of(kind: str, reached: datetime) -> str:
    """The name of a new batch, which says how far it has come."""
    return f"{kind}-{reached:%Y%m%d}-{uuid7()}"


def write(
    connection: Connection, name: str, rows: Mapping[Table, ColumnElement[bool]]
) -> dict[Table, int]:
    """Write a batch; nobody else may be writing one.

    Args:
        connection: the transaction that will remove the rows.
        name: of the batch, which there is none of yet.
        rows: those of each table that it takes.

    Returns:
        How many rows of each table it has.

    Raises:
        StoreError: it cannot be written; nothing may be removed.
    """
    unfinished = folder() / UNFINISHED
    try:
        shutil.rmtree(unfinished, ignore_errors=True)  # of a process that was killed
        unfinished.mkdir()
        counts = {
            table: _write_table(connection, table, chosen, unfinished / _file_of(table))
            for table, chosen in rows.items()
        }
        _sync(unfinished)
        unfinished.rename(folder() / name)
        _sync(folder())
    except OSError as error:
        raise StoreError(f"SPINE_ARCHIVE: cannot be written: {error}: see to its disk") from error
    return counts


def _write_table(
    connection: Connection, table: Table, chosen: ColumnElement[bool], path: Path
) -> int:
    schema = pa.schema([(column.name, _kind(column)) for column in table.c])
    columns = [
        cast(column, Text).label(column.name) if pa.types.is_string(_kind(column)) else column
        for column in table.c
    ]
    ordered = select(*columns).where(chosen).order_by(*table.primary_key)
    found = connection.execute(ordered, execution_options={"yield_per": ROWS})
    count = 0
    with path.open("wb") as file:
        with parquet.ParquetWriter(file, schema, compression="zstd") as writer:
            for some in found.partitions():
                arrays = [
                    pa.array(values, field.type)
                    for values, field in zip(zip(*some, strict=True), schema, strict=True)
                ]
                writer.write_batch(pa.record_batch(arrays, schema=schema))
                count += len(some)
        file.flush()
        os.fsync(file.fileno())
    return count


def _kind(column: Column[Any]) -> pa.DataType:
    match column.type:
        case UtcDateTime():
            return pa.timestamp("us", "UTC")
        case Integer():
            return pa.int64()
        case Boolean():
            return pa.bool_()
        case _:
            return pa.string()


def _file_of(table: Table) -> str:
    return f"{table.name}.parquet"


def _sync(place: Path) -> None:
    """See that what was done in a folder outlives a loss of power."""
    descriptor = os.open(place, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# --- the way back ------------------------------------------------------------------------------


def batches(pattern: str) -> list[Path]:
    """The batches whose names fit, in an order in which each finds what it refers to.

    Raises:
        RequestError: there is no archive, it cannot be read, or none fits.
    """
    archive = folder()
    try:
        names = sorted(one.name for one in archive.iterdir())
    except OSError as error:
        raise RequestError(f"SPINE_ARCHIVE: cannot be read: {error}: see to its rights") from error
    found = [archive / one for one in names if NAME.fullmatch(one) and fnmatchcase(one, pattern)]
    if not found:
        raise RequestError(
            f"the archive has no batch '{pattern}': give a name as ls {archive} shows it, or a "
            "pattern for such names"
        )
    return found


def restore(connection: Connection, batch: Path) -> dict[str, int]:
    """Bring a batch back, in the caller's transaction; what the store has stays as it is.

    Returns:
        How many rows of each table are new.

    Raises:
        ConflictError: the store has other rows in their place, or lacks what they refer to.
        RequestError: the batch cannot be read, or has what the store has no place for.
    """
    restored = {}
    path = batch
    try:
        there = {file.name for file in batch.iterdir()}
        for table in metadata.sorted_tables:  # what is referred to comes first
            path = batch / _file_of(table)
            if path.name in there:
                restored[table.name] = _restore_table(connection, table, path)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise RequestError(
            f"{path}: cannot be read: {_said(error)}: nothing of its batch was restored; see to "
            "its rights, or put a whole copy in its place"
        ) from error
    except exc.DataError as error:
        raise RequestError(
            f"{path}: the store has no place for a value: {_said(error.orig)}: nothing of its "
            "batch was restored; put the file as it was written in its place"
        ) from error
    except ConflictError as error:
        raise ConflictError(f"{batch.name}: {error}; {ON_CONFLICT}") from error
    except exc.IntegrityError as error:
        reason = f"nothing was brought over: {_said(error.orig)}"
        raise ConflictError(f"{batch.name}: {reason}; {ON_CONFLICT}") from error
    if not restored:
        raise RequestError(f"{batch}: has no file of a table: put a whole copy in its place")
    return restored


def _said(error: BaseException | None) -> str:
    """What an error says, in one line."""
    return " ".join(str(error).split())


def _restore_table(connection: Connection, table: Table, path: Path) -> int:
    with parquet.ParquetFile(path) as file:
        names = file.schema_arrow.names
        if unknown := [name for name in names if name not in table.c]:
            raise RequestError(f"{path}: {table.name} has no column {', '.join(unknown)} any more")
        quoted = connection.dialect.identifier_preparer.quote
        incoming = quoted(f"incoming_{table.name}")
        columns = ", ".join(map(quoted, names))
        connection.exec_driver_sql(
            f"CREATE TEMPORARY TABLE {incoming} (LIKE {quoted(table.name)} INCLUDING DEFAULTS)"
        )
        with postgresql.copying(connection, f"COPY {incoming} ({columns}) FROM STDIN") as copy:
            for some in file.iter_batches(ROWS):
                for row in zip(*(column.to_pylist() for column in some.columns), strict=True):
                    copy.write_row(row)
    # A capture may have been normalized once more after a batch that was then not committed.
    kept = [table.c[name] for name in names]
    fixed = [column for column in kept if column is not otc_captures.c.normalized_at]
    transfer.refuse_conflicts(connection, fixed, incoming)
    new = transfer.add_new(connection, kept, incoming)
    connection.exec_driver_sql(f"DROP TABLE {incoming}")
    return new
