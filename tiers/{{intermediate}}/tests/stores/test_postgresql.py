"""The Postgres store: exact in and out, its own rules, and a word for whatever goes wrong."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import psycopg
import pytest
from sqlalchemy import BigInteger, Connection, Text, column, delete, make_url, select, text
from sqlalchemy.exc import DBAPIError, IntegrityError
from uuid_utils.compat import uuid7

from market_spine import database, deadline, ledger
from market_spine.errors import StoreError, StoreUnavailableError
from market_spine.schema import (
    execution_events,
    otc_metrics_daily,
    otc_stale_days,
    otc_trades,
    otc_trades_raw,
)
from market_spine.stores.postgresql import process_id
from tests import postgres
from tests.postgres import Other
from tests.support import Spine
from tests.tape import trade

COMMANDS = [
    ["executions", "list"],
    ["run", "otc_normalize"],
    ["metrics", "daily", "ACME", "--start", "2025-11-24", "--end", "2025-11-24"],
]
each_command = pytest.mark.parametrize("args", COMMANDS, ids=" ".join)


@pytest.fixture(scope="module")
def store() -> str:
    """Only this one."""
    return "postgresql"


def name_of(spine: Spine) -> str:
    return str(make_url(postgres.database_of(spine.folder)).database)


@contextmanager
def within(seconds: float | None) -> Iterator[None]:
    """Give each statement so much time."""
    token = deadline.query_seconds.set(seconds)
    try:
        yield
    finally:
        deadline.query_seconds.reset(token)


# --- which server ------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+psycopg"])
def test_an_address_may_be_pasted_as_it_is_handed_out(
    scheme: str, spine: Spine, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, _, rest = postgres.database_of(spine.folder).partition(":")
    monkeypatch.setenv("DATABASE_URL", f" {scheme}:{rest} ")
    spine.restart()
    assert spine.json("executions", "list") == []


@each_command
@pytest.mark.parametrize(
    ("url", "culprits"),
    [
        ("postgresql://spine:secret@127.0.0.1:1/spine", ["127.0.0.1:1", "cannot be reached"]),
        ("postgresql://nowhere.invalid/spine", ["nowhere.invalid", "cannot be reached"]),
    ],
)
def test_a_server_that_cannot_be_reached_is_named(
    args: list[str], url: str, culprits: list[str], spine: Spine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", url)
    spine.restart()
    assert "secret" not in spine(*args).fails(3, "DATABASE_URL", *culprits).err


@pytest.mark.parametrize("args", [*COMMANDS, ["db", "upgrade"], ["db", "check"]], ids=" ".join)
@pytest.mark.parametrize(
    ("rest", "culprit"),
    [
        ("me:secret@host:port/spine", "port is not a number"),
        ("me:secret@host:/spine", "port is not a number"),
        ("me:x@secret@host/spine", "%40"),
        ("me:x@secret/x@host/spine", "%40"),
        ("me:x@y?secret@host/spine", "%40"),
        ("me:x/secret@y@host/spine", "%40"),
        ("me/x:secret@host/spine", "%40"),
        ("me:x@secret:x@host/spine", "%40"),
        ("me:secret@host/spine?colour=secret", '"colour"'),
        ("me:secret@host/spine?row_factory=secret", '"row_factory"'),
        ("me:secret@host/spine?port=x", "port"),
    ],
)
def test_an_address_that_is_not_what_was_meant(
    rest: str, culprit: str, args: list[str], spine: Spine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", f"postgresql://{rest}")
    spine.restart()
    assert "secret" not in spine(*args).fails(3, "DATABASE_URL", culprit).err


def test_a_part_of_an_address_may_be_escaped(spine: Spine, monkeypatch: pytest.MonkeyPatch) -> None:
    user, password = f"spine_test_{os.getpid()}", "a@b:c/d?e%"
    url = make_url(postgres.database_of(spine.folder)).set(username=user, password=password)
    monkeypatch.setenv("DATABASE_URL", url.render_as_string(hide_password=False))
    with postgres.connect(postgres.server()) as connection:
        connection.execute(f"CREATE ROLE {user} LOGIN SUPERUSER PASSWORD '{password}'".encode())
        try:
            spine.restart()
            assert spine.json("executions", "list") == []
        finally:
            connection.execute(f"DROP ROLE {user}".encode())


@pytest.mark.parametrize(
    ("change", "culprits"),
    [
        ({"database": "no_such_database"}, ["no_such_database", "has no such database"]),
        ({"username": "no_such_user"}, ["no_such_user", "refuses this user"]),
    ],
)
def test_a_part_of_the_address_that_is_wrong_is_named(
    change: dict[str, Any], culprits: list[str], spine: Spine, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = make_url(postgres.database_of(spine.folder)).set(**change)
    monkeypatch.setenv("DATABASE_URL", url.render_as_string(hide_password=False))
    spine.restart()
    spine("executions", "list").fails(3, "DATABASE_URL", *culprits)


@each_command
def test_a_database_without_its_schema_is_left_alone(
    args: list[str], spine: Spine, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = postgres.new_database(template="template0")
    monkeypatch.setenv("DATABASE_URL", url)
    spine.restart()
    spine(*args).fails(3, "intermediate_0001", "spine db upgrade")
    with postgres.connect(url) as connection:
        tables = "SELECT 1 FROM pg_tables WHERE schemaname = 'public'"
        assert connection.execute(tables).fetchall() == []
    spine.restart()
    postgres.drop_database(url)


def test_a_database_that_may_not_be_written_to_is_named(spine: Spine, other: Other) -> None:
    spine.take(trade())
    read_only = f"ALTER DATABASE {name_of(spine)} SET default_transaction_read_only = on"
    other.execute(read_only.encode())
    spine.restart()
    spine("run", "otc_normalize").fails(3, name_of(spine), "read-only")
    assert spine.day()["trade_count"] == 1, "what it holds can be read"


# --- what goes wrong ---------------------------------------------------------------------------


def test_the_replicas_of_a_service_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    pods = [f"worker-of-market-data-{end}" for end in ("7d9c8b6f5d-abcde", "7d9c8b6f5d-abcdf")]
    hosts = [f"ip-10-0-0-{number}.eu-central-1.compute.internal" for number in (1, 2)]
    known = set()
    for host in (*pods, *hosts):
        monkeypatch.setattr("socket.gethostname", lambda host=host: host)
        known.add(process_id().split(":")[0])
        assert len(f"market_spine {process_id()}") < 64, "what Postgres keeps of a name"
    assert len(known) == 4


def test_a_query_takes_no_longer_than_it_may(spine: Spine, other: Other) -> None:
    with other.transaction():
        other.execute("LOCK TABLE otc_trades")
        with within(0.2), pytest.raises(StoreError, match="told to stop"):
            spine.count(otc_trades)
    with within(5):
        assert spine.count(otc_trades) == 0


@pytest.mark.usefixtures("spine")
def test_a_time_limit_holds_for_its_own_transactions_only() -> None:
    def limit() -> object:
        return connection.execute(text("SHOW statement_timeout")).scalar_one()

    for ended in ("commit", "rollback"):
        for seconds, shown in ((5, "5s"), (7, "7s"), (None, "0")):
            with within(seconds), database.engine().connect() as connection:
                assert limit() == shown, ended
                getattr(connection, ended)()
                assert limit() == shown, f"after a {ended}"


def test_a_connection_that_is_lost_is_an_outage_and_no_defect(other: Other) -> None:
    def lose(connection: Connection) -> None:
        pid = connection.execute(text("SELECT pg_backend_pid()")).scalar_one()
        other.execute("SELECT pg_terminate_backend(%s, 5000)", [pid])

    def mark(connection: Connection) -> None:
        names, row = ["symbol", "trade_date"], ["ACME", "2025-11-24"]
        database.bulk_insert(connection, otc_stale_days, names, [row])

    def take(connection: Connection) -> None:
        connection.execute(delete(otc_stale_days))

    def err(connection: Connection) -> None:
        connection.execute(text("SELECT no_such_function()"))

    def do(*steps: Callable[[Connection], None]) -> None:
        with database.transaction() as connection:
            for step in steps:
                step(connection)

    for steps in ([lose], [lose, take], [lose, mark], [mark, lose], [take, lose, take]):
        with pytest.raises(StoreUnavailableError):
            do(*steps)
    with database.snapshot() as connection:
        assert connection.execute(select(otc_stale_days)).all() == []
    with pytest.raises(DBAPIError):
        do(err)


@pytest.mark.usefixtures("spine")
def test_one_of_two_that_wait_for_each_other_may_be_done_again() -> None:
    barrier = threading.Barrier(2)

    def take(first: str, second: str) -> object:
        try:
            with database.transaction() as connection:
                database.store().transaction_lock(connection, first)
                barrier.wait(20)
                database.store().transaction_lock(connection, second)
        except StoreUnavailableError as error:
            return error
        return None

    with ThreadPoolExecutor(2) as pool:
        found = [*pool.map(take, ["a", "b"], ["b", "a"])]
    (error,) = filter(None, found)
    assert "waited for each other" in str(error)


def test_rows_that_break_the_rules_of_the_database_cannot_get_in(
    spine: Spine, other: Other
) -> None:
    """Whoever writes to the store without this code meets its constraints."""
    spine.take(trade())
    for table, change, rule in [
        (otc_trades, "price = 0", "price_and_size_are_positive"),
        (otc_trades, "event = 'bust'", "event_is_known"),
        (otc_trades, "side = 'short'", "side_is_known"),
        (otc_trades, "known_to = known_from - interval '1 second'", "known_in_order"),
        (otc_trades, "event = 'cancel'", "cancel_counts_for_nothing"),
        (otc_metrics_daily, "low_price = high_price + 1", "low_is_not_above_high"),
        (otc_metrics_daily, "vwap = NULL", "vwap_needs_volume"),
    ]:
        with pytest.raises(psycopg.errors.CheckViolation, match=rule):
            other.execute(f"UPDATE {table.name} SET {change}".encode())


def test_a_load_that_breaks_a_rule_is_named_and_leaves_nothing(spine: Spine) -> None:
    spine.take(trade())
    (row,) = spine.rows(otc_metrics_daily)
    names, again = ["symbol", "trade_date"], [["ACME", "2025-11-25"], ["ACME", "2025-11-25"]]

    def load() -> None:
        with database.transaction() as connection:
            connection.execute(delete(otc_metrics_daily))
            database.bulk_insert(connection, otc_stale_days, names, again)

    with pytest.raises(IntegrityError, match="pk_otc_stale_days"):
        load()
    assert spine.rows(otc_metrics_daily) == [row]
    assert spine.rows(otc_stale_days) == []


def test_history_may_be_deleted_by_a_transaction_that_says_so(spine: Spine, other: Other) -> None:
    spine.run("otc_normalize")
    before = spine.count(execution_events)
    forbidden = ["DELETE FROM execution_events", "TRUNCATE execution_events"]
    for change in [*forbidden, "UPDATE execution_events SET seq = seq + 10"]:
        with pytest.raises(psycopg.IntegrityError, match="append-only"):
            other.execute(change.encode())
    with other.transaction():
        other.execute("SET LOCAL market_spine.retention = 'on'")
        with pytest.raises(psycopg.IntegrityError, match="append-only"), other.transaction():
            other.execute("UPDATE execution_events SET seq = seq + 10")
        assert other.execute("DELETE FROM execution_events").rowcount == before
    assert spine.count(execution_events) == 0
    spine.run("otc_normalize")
    with pytest.raises(psycopg.IntegrityError, match="append-only"):
        other.execute("DELETE FROM execution_events")


# --- what is kept ------------------------------------------------------------------------------

GOLD = ["symbol", "date", "trade_count", "total_volume", "total_notional", "vwap"]
LARGEST = 2**63 - 1


@pytest.mark.usefixtures("spine")
def test_amounts_are_the_same_to_the_last_unit() -> None:
    units = [
        *(0, 1, 99, 100, 9_999, 10_000, 999_999, 1_000_000, 1_000_001, 12_340_000),
        *(10**n for n in range(2, 19)),
        *(10**n - 1 for n in range(2, 19)),
        *(LARGEST, LARGEST - 1, 123_456_789_012_345_678),
    ]
    rows = [[f"S{n}", "2025-11-24", 1, amount, -amount, 3] for n, amount in enumerate(units)]
    volume = otc_metrics_daily.c.total_volume
    with database.transaction() as connection:
        constants = {"venue_count": 1, "computed_at": datetime.now(UTC)}
        connection.execute(text("ALTER TABLE otc_metrics_daily DROP CONSTRAINT vwap_needs_volume"))
        database.bulk_insert(connection, otc_metrics_daily, GOLD, rows, constants)
        found = connection.execute(select(otc_metrics_daily)).mappings().all()
        positive = connection.execute(select(volume).where(volume > 0)).all()
    assert [row["total_volume"] for row in found] == [Decimal(n).scaleb(-6) for n in units]
    assert [row["total_notional"] for row in found] == [Decimal(-n).scaleb(-6) for n in units]
    assert {str(row["vwap"]) for row in found} == {"3E-8"}
    assert {row["high_price"] for row in found} == {None}
    assert len(positive) == len(units) - 1


@pytest.mark.usefixtures("spine")
def test_text_and_instants_are_the_same_to_the_last_character() -> None:
    texts = ["", " ", "a\tb", "a\nb", "a\r\nb", r"\N", r"a\b", '"', "'", "é", "日本", "𝄞"]
    texts += ["\\.", "NULL"]
    first = datetime(1970, 1, 2, tzinfo=UTC)
    instants = [
        *(0, 1, 999_999, 1_000_000, 946_684_799_999_999, 946_684_800_000_000),
        *(7_258_118_400_000_000 - n for n in range(1, 9)),
    ]
    names = ["source_file", "payload", "source_row", "captured_at", "record_hash"]
    rows = [
        [name, name, number, instant, ""]
        for number, (name, instant) in enumerate(zip(texts, instants, strict=True))
    ]
    capture_id = uuid7()
    with database.transaction() as connection:
        constants = {"capture_id": capture_id, "source": "a\t'b'"}
        database.bulk_insert(connection, otc_trades_raw, names, rows, constants)
        found = connection.execute(select(otc_trades_raw)).mappings().all()
    epoch = first - timedelta(days=1)
    assert [row["source_file"] for row in found] == [row["payload"] for row in found] == texts
    assert [row["captured_at"] for row in found] == [
        epoch + timedelta(microseconds=instant) for instant in instants
    ]
    assert {(row["capture_id"], row["source"]) for row in found} == {(capture_id, "a\t'b'")}


def test_a_torn_file_s_nul_is_shown_and_breaks_nothing(spine: Spine) -> None:
    spine.take(trade(side="b\0y"), trade("T2", price="x\0"), trade("T\0"), trade("GOOD"))
    (_, price), (_, side), (field, _) = spine.faults()
    assert ("x\u2400" in price, "b\u2400y" in side, field) == (True, True, "trade_id")
    assert {*spine.silver()} == {"GOOD"}


def test_a_list_may_be_long_and_hold_anything(spine: Spine) -> None:
    odd = ["", " ", "a,b", "{}", '"', "'", "\\", "\x1f", "é", "NULL", "a\nb"]
    with database.snapshot() as connection:

        def among(kind: Any, value: object, values: list[Any]) -> bool:
            asked = database.store().is_one_of(column("x", kind), values)
            row = select(text("x")).select_from(text("(SELECT :value AS x) AS rows"))
            typed = row.where(asked).params(value=value) if kind is BigInteger else row.where(asked)
            return bool(connection.execute(typed, {"value": value}).all())

        for value in odd:
            assert among(Text, value, odd)
            assert among(Text, value, [value])
            assert not among(Text, value, [other for other in odd if other != value])
            assert not among(Text, value, [])
        large = [*range(2**40, 2**40 + 100_000)]
        assert among(BigInteger, large[-1], large)
        assert not among(BigInteger, 1, large)
    assert spine.executions() == []


# --- transactions and locks --------------------------------------------------------------------


def test_a_snapshot_sees_one_moment_and_cannot_write(spine: Spine) -> None:
    with database.snapshot() as connection:
        before = ledger.list_executions(connection, limit=10)
        spine.run("otc_normalize")
        assert ledger.list_executions(connection, limit=10) == before == []
    with pytest.raises(StoreError, match="read-only"), database.snapshot() as connection:
        connection.execute(delete(otc_stale_days))
    assert len(spine.executions()) == 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no such signal")
def test_the_run_lock_ends_with_its_process(spine: Spine) -> None:
    waits = "from market_spine import database\nwith database.store().run_lock(wait=True):\n"
    process = subprocess.Popen(
        [sys.executable, "-c", waits + "    print('held', flush=True)\n    input()"],
        cwd=spine.folder,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    with database.store().run_lock(wait=False) as free:
        assert not free
    process.send_signal(signal.SIGKILL)
    process.communicate()
    with database.store().run_lock(wait=True) as free:
        assert free
        with database.store().run_lock(wait=False) as again:
            assert not again
    with database.store().run_lock(wait=False) as free:
        assert free


def test_what_has_grown_much_is_known_to_the_planner_at_once(spine: Spine, other: Other) -> None:
    days = [[f"S{n}", str(date(2025, 11, 24))] for n in range(50_000)]
    with database.transaction() as connection:
        database.bulk_insert(connection, otc_stale_days, ["symbol", "trade_date"], days)
    grown = "SELECT reltuples FROM pg_class WHERE relname = 'otc_stale_days'"
    assert other.execute(grown).fetchone() == (50_000,)
    assert spine.count(otc_stale_days) == 50_000
