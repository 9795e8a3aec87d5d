"""spine db import: a store of SQLite arrives in full, once, or not at all."""

import shutil
import signal
import sqlite3
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg
import pytest
from filelock import FileLock
from sqlalchemy import Column, Table

from market_spine import backends, database, dispatcher, ledger
from market_spine.schema import Word, dead_letters, executions, metadata, otc_trades
from tests.postgres import Other
from tests.support import Spine, ended, spine_in
from tests.tape import trade
from tests.test_demo import with_sample

SOURCE = "sqlite:///basic.db"
GIVEN = ("dead_", "execution", "otc_")  # tables; a repo's own ones are empty here


@pytest.fixture(scope="module")
def store() -> str:
    """Where things are brought to."""
    return "postgresql"


@pytest.fixture(scope="module")
def basic(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of the tier below that has something of everything."""
    folder = with_sample(tmp_path_factory.mktemp("basic"))
    with spine_in(folder) as spine:
        fill(spine)
    return folder / "spine.db"


def fill(spine: Spine) -> None:
    """The sample, a correction of it, a failure, a retry, a key, days that are stale."""
    spine.run("otc_backfill_range", start_date="2025-11-24", end_date="2025-12-05")
    spine.capture(trade("X1"), trade("X2", price="x"), at="2025-12-08T12:00:00Z")
    spine.settle()
    spine.capture(trade("X1", event="correction", price="7.000001"), at="2025-12-09T12:00:00Z")
    spine.run("otc_normalize")
    spine.submit("otc_ingest", path="missing.csv")
    (letter,) = (row for row in spine.letters() if row["kind"] == "execution")
    spine("dead-letters", "retry", letter["id"])
    dispatcher.submit("otc_normalize", {}, idempotency_key="k")


@pytest.fixture
def at_hand(spine: Spine, basic: Path) -> Spine:
    """The command line, with that store in its folder."""
    shutil.copy(basic, spine.folder / "basic.db")
    return spine


def unended(status: str) -> None:
    """Leave an execution in a state from which nobody will take it on."""
    with database.transaction() as connection:
        execution = dispatcher.submit_in(connection, "otc_normalize", {})
        claimed = None if status == "queued" else ledger.claim(connection, execution.id)
        if claimed and status == "waiting":
            ledger.wait_for_children(connection, claimed, {})


def everything(spine: Spine) -> dict[str, list[dict[str, Any]]]:
    """Every row of every table, in a fixed order."""
    return {
        table.name: sorted(spine.rows(table), key=lambda row: sorted(map(str, row.items())))
        for table in metadata.sorted_tables
    }


def test_everything_arrives_as_it_was(at_hand: Spine, basic: Path) -> None:
    with spine_in(basic.parent) as spine:
        expected, state = everything(spine), spine.state()
    at_hand.restart()
    brought = at_hand.json("db", "import", SOURCE)
    assert everything(at_hand) == expected
    assert at_hand.state() == state
    assert {row["table"]: (row["rows"], row["new"]) for row in brought} == {
        name: (len(rows), len(rows)) for name, rows in expected.items()
    }
    empty = {name for name, rows in expected.items() if not rows}
    assert not {name for name in empty if name.startswith(GIVEN)}, "there is of everything"
    at_hand.check_ledger()


def test_a_store_that_is_older_than_a_column_arrives_without_it(at_hand: Spine) -> None:
    with closing(sqlite3.connect(at_hand.folder / "basic.db")) as older:
        older.execute("ALTER TABLE dead_letters DROP COLUMN field")
    for _ in range(2):
        at_hand.ok("db", "import", SOURCE)
    letters = everything(at_hand)["dead_letters"]
    assert {row["field"] for row in letters} == {None}
    assert {row["kind"] for row in letters} == {"execution", "record"}


def test_a_second_import_changes_nothing(at_hand: Spine) -> None:
    at_hand.ok("db", "import", SOURCE)
    before = everything(at_hand)
    again = at_hand.json("db", "import", SOURCE)
    assert {row["new"] for row in again} == {0}
    assert everything(at_hand) == before


def test_work_goes_on_where_it_was(at_hand: Spine, monkeypatch: pytest.MonkeyPatch) -> None:
    """New rows are numbered behind the old ones, and what was stale is computed."""
    at_hand.ok("db", "import", SOURCE)
    assert at_hand.day()["vwap"] == "10.00000000"
    at_hand.run("otc_compute_daily_metrics")
    assert at_hand.day()["vwap"] == "7.00000100"
    at_hand.take(trade("X3", price="8"), at="2025-12-10T12:00:00Z")
    assert at_hand.day()["trade_count"] == 2
    key = dispatcher.submit("otc_normalize", {}, idempotency_key="k")
    with database.snapshot() as connection:
        found = ledger.find_by_idempotency_key(connection, "k")
    assert found == key
    monkeypatch.setenv("SPINE_BACKEND", "thread")
    at_hand.restart()
    at_hand.run("otc_normalize")
    at_hand.check_ledger()


def test_what_came_later_in_the_source_is_brought_by_the_next_import(
    spine: Spine, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("growing")
    source = f"sqlite:///{folder}/spine.db"
    with spine_in(folder) as basic:
        basic.capture(trade("T1"), at="2025-12-08T12:00:00Z")
    spine.restart()
    assert {row["table"]: row["new"] for row in spine.json("db", "import", source)}[
        "otc_trades_raw"
    ] == 1
    with spine_in(folder) as basic:
        basic.capture(trade("T2"), at="2025-12-09T12:00:00Z")
    spine.restart()
    assert {row["table"]: (row["rows"], row["new"]) for row in spine.json("db", "import", source)}[
        "otc_trades_raw"
    ] == (2, 1)


def test_a_run_that_had_died_is_settled_by_the_next_command(at_hand: Spine, other: Other) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DATABASE_URL", SOURCE)
        at_hand.restart()
        unended("running")
    at_hand.restart()
    at_hand.ok("db", "import", SOURCE)
    backends.chosen().resume()
    died = other.execute("SELECT 1 FROM dead_letters WHERE reason LIKE '%process died%'")
    assert died.rowcount == 1


# --- one or the other --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "culprits"),
    [
        ("UPDATE otc_trades SET price = price + 1 WHERE trade_id = 'X1'", ["version_id"]),
        ("UPDATE otc_metrics_daily SET venue_count = 9 WHERE symbol = 'ACME'", ["ACME"]),
        ("UPDATE executions SET result = '{}' WHERE pipeline = 'otc_backfill_range'", ["id"]),
        ("UPDATE executions SET lane = 'x'", ["executions", "and 1"]),
        (
            "UPDATE otc_trades SET version_id = version_id + 1000000 WHERE trade_id = 'X1'",
            ["one_open_version_per_trade", "X1"],
        ),
        (
            "UPDATE dead_letters SET id = gen_random_uuid() WHERE kind = 'record'",
            ["one_open_letter_per_record"],
        ),
    ],
)
def test_other_rows_in_the_same_place_are_named_and_left(
    change: str, culprits: list[str], at_hand: Spine, other: Other
) -> None:
    at_hand.ok("db", "import", SOURCE)
    other.execute(change.encode())
    before = everything(at_hand)
    at_hand("db", "import", SOURCE).fails(2, "nothing was brought over", *culprits)
    assert everything(at_hand) == before


def test_a_store_that_has_numbered_its_own_rows_is_left_alone(at_hand: Spine) -> None:
    at_hand.take(trade("OWN", symbol="BOLT"))
    before = everything(at_hand)
    at_hand("db", "import", SOURCE).fails(2, "otc_trades", "version_id", "1")
    assert everything(at_hand) == before


def test_an_import_that_is_killed_leaves_nothing_and_is_done_again(
    at_hand: Spine, basic: Path, other: Other
) -> None:
    with spine_in(basic.parent) as spine:
        sent = {table.name: spine.count(table) for table in metadata.sorted_tables}
    at_hand.restart()
    for after in (0.0, 0.1, 0.2):
        process = at_hand.start("db", "import", SOURCE)
        importing = (
            b"SELECT 1 FROM pg_stat_activity WHERE query ~ 'incoming' AND pid <> pg_backend_pid()"
        )
        deadline = time.monotonic() + 20
        while not other.execute(importing).rowcount and process.poll() is None:
            assert time.monotonic() < deadline
        time.sleep(after)
        process.send_signal(signal.SIGKILL)
        if ended(process).code == 0:
            break
        arrived = {table.name: at_hand.count(table) for table in metadata.sorted_tables}
        assert arrived in (dict.fromkeys(sent, 0), sent)
    at_hand.ok("db", "import", SOURCE)
    assert at_hand.count(otc_trades) > 3000
    assert at_hand.count(dead_letters) > 30


# --- one instead of the other ------------------------------------------------------------------


def test_a_store_with_rows_of_its_own_is_replaced(at_hand: Spine, basic: Path) -> None:
    """As after `make demo` of a repo that has come from the tier below."""
    with spine_in(basic.parent) as spine:
        expected, state = everything(spine), spine.state()
    at_hand.restart()
    at_hand.take(trade("OWN", symbol="BOLT"), trade("BAD", price="x"))
    at_hand("db", "import", SOURCE).fails(2, "nothing was brought over", "--replace", "removed")
    brought = at_hand.json("db", "import", SOURCE, "--replace")
    assert everything(at_hand) == expected
    assert at_hand.state() == state
    assert {row["table"]: (row["rows"], row["new"]) for row in brought} == {
        name: (len(rows), len(rows)) for name, rows in expected.items()
    }
    at_hand.take(trade("X3", price="8"), at="2025-12-10T12:00:00Z")
    assert at_hand.day()["trade_count"] == 2
    at_hand.check_ledger()


def test_the_events_are_guarded_again_after_a_replacement(at_hand: Spine, other: Other) -> None:
    at_hand.ok("db", "import", SOURCE, "--replace")
    for statement in (b"TRUNCATE executions CASCADE", b"DELETE FROM execution_events"):
        with pytest.raises(psycopg.errors.IntegrityError, match="append-only"):
            other.execute(statement)


@pytest.mark.parametrize("status", ["queued", "running", "waiting"])
def test_what_has_not_ended_is_not_replaced(status: str, at_hand: Spine) -> None:
    at_hand.take(trade("OWN"))
    unended(status)
    before = everything(at_hand)
    at_hand("db", "import", SOURCE, "--replace").fails(2, "nothing was removed", f"1 ({status})")
    with database.store().run_lock(wait=True):
        at_hand("db", "import", SOURCE, "--replace").fails(2, "worker")
    assert everything(at_hand) == before


def test_what_is_submitted_meanwhile_is_not_lost(at_hand: Spine, other: Other) -> None:
    """It waits for the end of the import, or the import finds it."""
    at_hand.take(trade("OWN"))
    with other.transaction():
        row = b"'otc_normalize', '{}', 'default', 'cli', 'queued', 1, 1, 1, false, now()"
        other.execute(
            b"INSERT INTO executions (id, root_id, pipeline, params, lane, trigger_source, status,"
            b" attempt, max_attempts, version, cancel_requested, created_at)"
            b" SELECT id, id, " + row + b" FROM gen_random_uuid() AS id"
        )
        importing = at_hand.start("db", "import", SOURCE, "--replace")
        waiting = b"SELECT 1 FROM pg_locks WHERE relation = 'executions'::regclass AND NOT granted"
        deadline = time.monotonic() + 20
        while not other.execute(waiting).rowcount:
            assert time.monotonic() < deadline
    ended(importing).fails(2, "nothing was removed", "1 (queued)")
    assert at_hand.silver().keys() == {"OWN"}


def test_a_replacement_that_fails_leaves_the_store_as_it_was(at_hand: Spine, other: Other) -> None:
    at_hand.take(trade("OWN", symbol="BOLT"))
    before = everything(at_hand)
    other.execute(b"CREATE TABLE notes (about uuid REFERENCES executions)")
    at_hand("db", "import", SOURCE, "--replace").fails(2, "nothing was removed", "notes")
    other.execute(b"DROP TABLE notes")
    with closing(sqlite3.connect(at_hand.folder / "basic.db")) as source, source:
        source.execute("DELETE FROM executions WHERE pipeline = 'otc_backfill_range'")
    failed = at_hand("db", "import", SOURCE, "--replace").fails(2, "nothing was brought over")
    assert "--replace" not in failed.err
    assert everything(at_hand) == before


def test_a_table_that_the_source_lacks_is_named(at_hand: Spine, other: Other) -> None:
    """An owner's, say, that came after the promotion."""
    notes = Table("notes", metadata, Column("symbol", Word, primary_key=True))
    other.execute(b'CREATE TABLE notes (symbol text COLLATE "C" PRIMARY KEY)')
    other.execute(b"INSERT INTO notes VALUES ('ACME')")
    try:
        rows = {row["table"]: row for row in at_hand.json("db", "import", SOURCE)}
        assert rows["notes"] == {"table": "notes", "rows": None, "new": 0}
        assert at_hand.count(notes) == 1
        said = at_hand.ok("db", "import", SOURCE, "--replace").out
        assert [line.split() for line in said.splitlines() if line.startswith("notes")] == [
            ["notes", "not", "in", "the", "source", "0"]
        ]
        assert at_hand.count(notes) == 0
    finally:
        metadata.remove(notes)


# --- what cannot be brought --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "culprits"),
    [
        ("sqlite:///nowhere.db", ["nowhere.db", "no such SQLite store"]),
        ("sqlite://", ["no such SQLite store"]),
        ("basic.db", ["basic.db", "sqlite:///"]),
        ("postgresql://localhost/spine", ["no such SQLite store"]),
        ("sqlite:///text.db", ["text.db", "is no store of this version"]),
        ("sqlite:///songs.db", ["songs.db", "is no store of this version", "executions"]),
        ("sqlite:///older.db", ["otc_metrics_daily.venue_count", "not in the source"]),
    ],
)
def test_what_is_no_store_is_named(source: str, culprits: list[str], at_hand: Spine) -> None:
    (at_hand.folder / "text.db").write_text("my shopping list\n" * 100)
    with closing(sqlite3.connect(at_hand.folder / "songs.db")) as songs:
        songs.execute("CREATE TABLE songs (title TEXT)")
    shutil.copy(at_hand.folder / "basic.db", at_hand.folder / "older.db")
    with closing(sqlite3.connect(at_hand.folder / "older.db")) as older, older:
        older.execute("ALTER TABLE otc_metrics_daily DROP COLUMN venue_count")
    at_hand("db", "import", source).fails(2, *culprits)
    assert at_hand.count(executions) == 0
    assert not (at_hand.folder / "nowhere.db").exists()


def test_a_store_that_is_in_use_is_left_alone(at_hand: Spine) -> None:
    with FileLock(at_hand.folder / "basic.db.lock"):
        at_hand("db", "import", SOURCE).fails(2, "basic.db", "another process")
    with database.store().run_lock(wait=True):
        at_hand("db", "import", SOURCE).fails(2, "worker")
    assert at_hand.count(executions) == 0


def test_a_store_that_cannot_be_locked_is_left_alone(at_hand: Spine) -> None:
    (at_hand.folder / "basic.db.lock").mkdir()
    at_hand("db", "import", SOURCE).fails(2, "basic.db", "cannot be locked", "directory")
    assert at_hand.count(executions) == 0


def test_no_worker_begins_before_the_import_is_committed(at_hand: Spine, other: Other) -> None:
    """A trigger of somebody makes the commit wait."""
    other.execute(
        b"CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql AS "
        b"$$ BEGIN PERFORM pg_advisory_xact_lock(7); RETURN NULL; END $$"
    )
    other.execute(
        b"CREATE CONSTRAINT TRIGGER wait AFTER INSERT ON executions DEFERRABLE INITIALLY DEFERRED"
        b" FOR EACH ROW EXECUTE FUNCTION wait()"
    )
    with other.transaction():
        other.execute("SELECT pg_advisory_xact_lock(7)")
        importing = at_hand.start("db", "import", SOURCE)
        waiting = b"SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
        deadline = time.monotonic() + 20
        while not other.execute(waiting).rowcount:
            assert time.monotonic() < deadline
        with database.store().run_lock(wait=False) as free:
            assert not free
    assert ended(importing).code == 0
    with database.store().run_lock(wait=False) as free:
        assert free


def test_what_arrives_otherwise_is_refused(at_hand: Spine, other: Other) -> None:
    """A trigger of somebody changes an amount on its way."""
    other.execute(
        b"CREATE FUNCTION halve() RETURNS trigger LANGUAGE plpgsql AS "
        b"$$ BEGIN NEW.size = NEW.size / 2; RETURN NEW; END $$"
    )
    other.execute(
        b"CREATE TRIGGER halve BEFORE INSERT ON otc_trades FOR EACH ROW EXECUTE FUNCTION halve()"
    )
    at_hand("db", "import", SOURCE).fails(3, "otc_trades", "counts and sums")
    assert at_hand.count(executions) == 0


def test_sums_may_be_larger_than_sqlite_s(
    spine: Spine, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("large")
    with spine_in(folder) as basic:
        large = {"price": "100", "size": "9999999999"}
        days = [f"2025-11-{day:02}T15:00:00Z" for day in range(1, 21)]
        basic.take(*(trade(f"T{n}", trade_ts=day, **large) for n, day in enumerate(days)))
        expected = everything(basic)
    spine.restart()
    spine.ok("db", "import", f"sqlite:///{folder}/spine.db")
    assert everything(spine) == expected
    assert len(expected["otc_trades"]) == 20
