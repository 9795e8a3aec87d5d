"""spine db import brings the tables that a repo has added, whatever their names and types."""

import enum
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Computed,
    Date,
    DateTime,
    Enum,
    Float,
    Integer,
    Interval,
    LargeBinary,
    Numeric,
    SmallInteger,
    String,
    Table,
    Text,
    Time,
    TypeDecorator,
    Uuid,
    insert,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.schema import SchemaItem
from uuid_utils.compat import uuid7

from market_spine import database
from market_spine.schema import Exact, Json, RowId, UtcDateTime, Word, metadata
from tests.support import Spine, spine_in

NAME = "Order"  # a reserved word, and of mixed case
NOON = datetime(2025, 11, 24, 12, 0, 0, 1)


class Side(enum.Enum):
    """Kept by its name."""

    BUY = 1


class Tags(TypeDecorator[list[str]]):
    """What an owner may keep as JSON."""

    impl = JSON
    cache_ok = True


TYPES = {
    "DateTime": (DateTime(), NOON),
    "with a zone": (DateTime(timezone=True), NOON.replace(tzinfo=UTC)),
    "Date": (Date(), date(1900, 2, 28)),
    "Time": (Time(), time(23, 59, 59, 999_999)),
    "Interval": (Interval(), timedelta(days=400, microseconds=1)),
    "Numeric": (Numeric(12, 4), Decimal("-12345678.0001")),
    "any Numeric": (Numeric(), Decimal("0.5000000000")),
    "Numeric as float": (Numeric(12, 4, asdecimal=False), 0.25),
    "Float": (Float(), 0.1 + 0.2),
    "short Float": (Float(24), 0.5),
    "LargeBinary": (LargeBinary(), bytes(range(256))),
    "Enum": (Enum(Side), Side.BUY),
    "Enum as text": (Enum("in", "out", native_enum=False), "out"),
    "JSON": (JSON(), {"b": [1.0, None], "a": "ä"}),
    "JSONB": (JSON().with_variant(JSONB(), "postgresql"), {"b": 1}),
    "kept as JSON": (Tags(), ["a"]),
    "Text": (Text(), "a\tb\\N\r\n"),
    "String": (String(3), "äöü"),
    "Boolean": (Boolean(), True),
    "SmallInteger": (SmallInteger(), -(2**15)),
    "widened": (Integer().with_variant(BigInteger(), "postgresql"), 2**40),
    "Uuid": (Uuid(), uuid7()),
    "Uuid as text": (Uuid(native_uuid=False), uuid7()),
    "Exact": (Exact(2), Decimal("-0.05")),
    "UtcDateTime": (UtcDateTime(), NOON.replace(tzinfo=UTC)),
}


@pytest.fixture(scope="module")
def store() -> str:
    """Where things are brought to."""
    return "postgresql"


@pytest.fixture
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the source is."""
    return tmp_path_factory.mktemp("own")


def key() -> Column[str]:
    return Column("end", Word, primary_key=True)


@contextmanager
def own(*columns: SchemaItem) -> Iterator[Table]:
    """A table that schema.py has besides."""
    table = Table(NAME, metadata, *columns)
    try:
        yield table
    finally:
        metadata.remove(table)


def brought(
    spine: Spine, folder: Path, table: Table, rows: list[dict[str, Any]], *changes: str
) -> str:
    """A store of SQLite with rows in that table, which Postgres has too; returns its URL."""
    with spine_in(folder), database.transaction() as connection:
        connection.execute(insert(table), rows)
        for change in changes:
            connection.execute(text(change))
    spine.restart()
    with database.transaction() as connection:
        table.create(connection)
    return f"sqlite:///{folder}/spine.db"


@pytest.mark.parametrize(("kind", "value"), TYPES.values(), ids=TYPES)
def test_a_value_of_any_type_arrives(kind: Any, value: object, spine: Spine, folder: Path) -> None:
    with own(key(), Column("user", kind), Column("Size", Integer)) as table:
        given: list[dict[str, Any]] = [
            {"end": "a", "user": value, "Size": 7},
            {"end": "b", "user": None, "Size": None},
        ]
        source = brought(spine, folder, table, given)
        for new in (2, 0):
            rows = {row["table"]: row for row in spine.json("db", "import", source)}
            assert rows[NAME] == {"table": NAME, "rows": 2, "new": new}
        with database.snapshot() as connection:
            found = connection.execute(table.select().order_by(table.c.end)).mappings()
            assert [dict(row) for row in found] == given
        spine.ok("db", "import", source, "--replace")


def test_numbers_of_an_own_table_go_on(spine: Spine, folder: Path) -> None:
    with own(Column("Group", RowId, primary_key=True), Column("note", Text)) as table:
        source = brought(spine, folder, table, [{"Group": 7, "note": "a"}])
        spine.ok("db", "import", source)
        with database.transaction() as connection:
            connection.execute(insert(table), {"note": "b"})
        assert [row["Group"] for row in spine.rows(table)] == [7, 8]
        with database.transaction() as connection:
            connection.execute(table.update().values(note="c"))
        spine("db", "import", source).fails(2, NAME, "with the same Group and other content: 7")


def test_what_the_store_computes_itself_is_computed(spine: Spine, folder: Path) -> None:
    twice = Column("twice", Integer, Computed("2 * once", persisted=True))
    with own(key(), Column("once", Integer), twice) as table:
        source = brought(spine, folder, table, [{"end": "a", "once": 2}])
        for _ in range(2):
            spine.ok("db", "import", source)
        assert spine.rows(table) == [{"end": "a", "once": 2, "twice": 4}]


def test_null_of_json_and_none_stay_apart(spine: Spine, folder: Path) -> None:
    with own(key(), Column("data", JSON), Column("more", Json)) as table:
        given = [{"end": "a", "data": None, "more": JSON.NULL}]
        source = brought(spine, folder, table, given)
        spine.ok("db", "import", source)
        with database.snapshot() as connection:
            counted = text(f'SELECT data::text, more::text FROM "{NAME}"')
            assert connection.execute(counted).all() == [("null", "null")]


# --- what cannot be brought --------------------------------------------------------------------


def test_a_table_without_a_key_is_refused(spine: Spine, folder: Path) -> None:
    with own(Column("note", Text)) as table:
        source = brought(spine, folder, table, [{"note": "a"}])
        spine("db", "import", source, "--replace").fails(2, NAME, "primary key", "schema.py")
        assert spine.rows(table) == []


@pytest.mark.parametrize(
    ("kind", "kept", "culprits"),
    [
        (DateTime(), "'tomorrow'", [f"{NAME}.user", "DateTime", "tomorrow"]),
        (Enum(Side), "'SELL'", [f"{NAME}.user", "Enum", "SELL"]),
        (Exact(2), "'x'", [f"{NAME}.user", "'x'", "Exact"]),
        (UtcDateTime(), "'x'", [f"{NAME}.user", "UtcDateTime"]),
        (Uuid(), "'x'", [f"{NAME}.user", "Uuid"]),
        (Integer(), str(2**40), [NAME, "user", "out of range"]),
        (String(3), "'four'", [NAME, "too long"]),
        (JSON(), "'{'", [NAME, "user", "json"]),
    ],
    ids=str,
)
def test_what_sqlite_let_through_is_named(
    kind: Any,
    kept: str,
    culprits: list[str],
    spine: Spine,
    folder: Path,
) -> None:
    with own(key(), Column("user", kind)) as table:
        change = f'UPDATE "{NAME}" SET user = {kept}'
        source = brought(spine, folder, table, [{"end": "a"}], change)
        spine("db", "import", source).fails(2, "nothing was brought over", *culprits)
        assert spine.rows(table) == []


def test_a_table_that_the_store_lacks_is_named(spine: Spine, folder: Path) -> None:
    with own(key()) as table:
        source = brought(spine, folder, table, [{"end": "a"}])
        with database.transaction() as connection:
            table.drop(connection)
        spine("db", "import", source).fails(2, "nothing was brought over", NAME, "spine db check")
