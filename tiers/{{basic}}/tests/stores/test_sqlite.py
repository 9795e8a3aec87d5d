"""The SQLite store: one that cannot be used is named and left alone; it guards its own rules."""

import ctypes
import os
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from market_spine.schema import otc_metrics_daily, otc_trades
from market_spine.stores import sqlite
from tests.support import Spine, spine_in
from tests.tape import trade

COMMANDS = [
    ["executions", "list"],
    ["dead-letters", "list"],
    ["run", "otc_normalize"],
    ["metrics", "daily", "ACME", "--start", "2025-11-24", "--end", "2025-11-24"],
]
each_command = pytest.mark.parametrize("args", COMMANDS, ids=" ".join)


@pytest.fixture(scope="module")
def store() -> str:
    """Only this one."""
    return "sqlite"


@each_command
def test_a_file_that_is_no_database_is_left_alone(args: list[str], spine: Spine) -> None:
    spine.store.write_text("my shopping list\n" * 100)
    spine(*args).fails(3, "spine.db", "is not a database")
    assert spine.store.read_text() == "my shopping list\n" * 100


@each_command
def test_a_store_of_another_program_is_left_alone(args: list[str], spine: Spine) -> None:
    with closing(sqlite3.connect(spine.store)) as other:
        other.execute("CREATE TABLE songs (title TEXT)")
    before = spine.store.read_bytes()
    spine(*args).fails(3, "spine.db", "songs")
    assert spine.store.read_bytes() == before


@each_command
def test_a_store_of_another_version_is_named(args: list[str], spine: Spine) -> None:
    spine.take(trade())
    spine.restart()
    with closing(sqlite3.connect(spine.store)) as older:
        older.execute("ALTER TABLE otc_metrics_daily DROP COLUMN venue_count")
    spine(*args).fails(3, "spine.db", "another version", "otc_metrics_daily", "venue_count")


def test_a_store_that_is_older_than_a_column_gets_it(spine: Spine) -> None:
    """One that may be empty; with its index."""
    spine.take(trade(price="wrong"))
    spine.restart()
    with closing(sqlite3.connect(spine.store)) as older:
        older.execute("ALTER TABLE dead_letters DROP COLUMN field")
        older.execute("DROP INDEX ix_executions_live")
    (letter,) = spine("dead-letters", "list", "--json").json
    assert (letter["field"], letter["closed_at"]) == (None, None)
    with closing(sqlite3.connect(spine.store)) as mended:
        assert mended.execute("PRAGMA index_info(ix_executions_live)").fetchall()
    spine.take(trade(price="wrong", trade_id="other"))
    assert {row["field"] for row in spine("dead-letters", "list", "--json").json} == {
        None,
        "price",
    }


@each_command
def test_a_store_in_a_folder_that_is_not_there_is_named(
    args: list[str], spine: Spine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", "sqlite:///nowhere/spine.db")
    spine.restart()
    spine(*args).fails(3, "nowhere/spine.db", "cannot be opened")
    assert not (spine.folder / "nowhere").exists()


def test_a_damaged_store_is_named(spine: Spine) -> None:
    spine.take(*(trade(f"T{n}") for n in range(500)))
    spine.restart()
    content = bytearray(spine.store.read_bytes())
    content[100:] = b"\xff" * (len(content) - 100)
    spine.store.write_bytes(content)
    spine("executions", "list").fails(3, "spine.db", "damaged")


@pytest.mark.parametrize("args", COMMANDS[:3], ids=" ".join)
def test_a_locked_store_is_named_and_waited_for(
    args: list[str], spine: Spine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite, "BUSY_SECONDS", 0.2)
    spine.capture(trade())
    with database_locked(spine):
        if args[0] == "run":
            spine(*args).fails(3, "spine.db", "busy")
        else:
            assert spine(*args).code == 0, "reading goes on while another process writes"
    assert spine.run("otc_normalize")["status"] == "succeeded"
    assert len(spine.silver()) == 1
    spine.check_ledger()


@contextmanager
def database_locked(spine: Spine) -> Iterator[None]:
    spine.restart()
    with closing(sqlite3.connect(spine.store, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there are no file modes like these")
@each_command
def test_a_store_that_may_not_be_written_to_is_named(args: list[str]) -> None:
    with TemporaryDirectory() as folder, spine_in(Path(folder)) as spine:
        spine.take(trade())
        spine.restart()
        for path in (spine.store, spine.folder):
            path.chmod(0o555 if path.is_dir() else 0o444)
        code, err = by_the_modes(spine, args)
        spine.folder.chmod(0o755)
        assert code == 3, err
        assert err.startswith("error: ")
        assert "spine.db" in err
        assert err.count("\n") == 1
        spine.store.chmod(0o644)
        assert spine.gold()


def give_up_capabilities() -> None:
    """Be a root for whom file modes hold; another user might not even reach this repo."""
    version_3, this_process = 0x20080522, 0
    header, none = (ctypes.c_uint32 * 2)(version_3, this_process), (ctypes.c_uint32 * 6)()
    if ctypes.CDLL(None).capset(header, none) != 0:
        raise OSError("capset failed")


def by_the_modes(spine: Spine, args: list[str]) -> tuple[int, str]:
    """Run a command as somebody who is bound by file modes, as root is not."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        code = 99
        try:
            if os.geteuid() == 0:
                give_up_capabilities()
            ended = spine(*args)
            os.write(writing, ended.err.encode())
            code = ended.code
        finally:
            os._exit(code)
    os.close(writing)
    with os.fdopen(reading) as told:
        err = told.read()
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status), err


def test_rows_that_break_the_rules_of_the_database_cannot_get_in(spine: Spine) -> None:
    """Whoever writes to the store without this code meets its constraints."""
    spine.take(trade())
    spine.restart()
    with closing(sqlite3.connect(spine.store)) as other:
        for table, change, rule in [
            (otc_trades, "price = 0", "price_and_size_are_positive"),
            (otc_trades, "event = 'bust'", "event_is_known"),
            (otc_trades, "side = 'short'", "side_is_known"),
            (otc_trades, "known_to = known_from - 1", "known_in_order"),
            (otc_trades, "event = 'cancel'", "cancel_counts_for_nothing"),
            (otc_metrics_daily, "low_price = high_price + 1", "low_is_not_above_high"),
            (otc_metrics_daily, "vwap = NULL", "vwap_needs_volume"),
        ]:
            with pytest.raises(sqlite3.IntegrityError, match=rule):
                other.execute(f"UPDATE {table.name} SET {change}")


def test_a_new_file_that_somebody_else_begins_to_write_to_is_waited_for(spine: Spine) -> None:
    """SQLite itself would not wait with the first change, which is to its journal."""
    spine.restart()
    spine.store.unlink(missing_ok=True)
    with closing(sqlite3.connect(spine.store, check_same_thread=False)) as other:
        other.execute("PRAGMA user_version = 1")
        other.execute("BEGIN IMMEDIATE")
        leaving = threading.Timer(0.3, other.rollback)
        leaving.start()
        spine.ok("run", "otc_normalize")
        leaving.join()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there are no file modes like these")
def test_what_no_waiting_mends_is_said_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A new file whose journal cannot be changed, because its folder may not be written to."""
    monkeypatch.setattr(time, "sleep", lambda _: pytest.fail("it waits"))
    with TemporaryDirectory() as folder, spine_in(Path(folder)) as spine:
        with closing(sqlite3.connect(spine.store)) as other:
            other.execute("PRAGMA user_version = 1")
        for path in (spine.store, spine.folder):
            path.chmod(0o555 if path.is_dir() else 0o444)
        code, err = by_the_modes(spine, ["run", "otc_normalize"])
        spine.folder.chmod(0o755)
    assert (code, err.count("\n")) == (3, 1)
    assert "spine.db" in err
