"""The archive: exact, whole whatever is killed, and read back only where it belongs."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest
from pyarrow import parquet  # type: ignore[import-untyped]
from sqlalchemy import text

from market_spine import database, dispatcher
from market_spine.schema import executions, otc_captures, otc_trades_raw
from tests.fleet import COMMAND
from tests.retained import BRONZE, Keeper, keeper_in
from tests.stores.test_sqlite import by_the_modes
from tests.support import ended
from tests.tape import trade

ORIGINAL = trade(reported_at="2025-11-24T16:00:00Z")
# Of two originals with one id, that which was reported first stands.
EARLIER = trade(price="9", reported_at="2025-11-24T15:00:00Z")


@pytest.fixture
def keeper(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Keeper]:
    """A store that keeps everything for 30 days, with an archive."""
    with keeper_in(tmp_path_factory.mktemp("kept")) as found:
        yield found


# --- exact -------------------------------------------------------------------------------------

ODD = r"""{"b" :  1.10, "a": "tab\t, \\N, \", é, \u2400",
 "a": 12345678901234567890.000000001}"""


def test_values_come_back_to_the_letter(keeper: Keeper) -> None:
    dispatcher.submit("otc_normalize", {}, idempotency_key="a\tkey, \\N\nof \u2400 two lines")
    dispatcher.submit("otc_normalize", {}, idempotency_key="")
    with database.transaction() as connection:
        odd = (
            "UPDATE executions SET params = :odd, result = 'null', error = '', progress = :odd, "
            "not_before = '9999-12-31 23:59:59.999999+00', "
            "created_at = '1900-01-01 00:00:00.000001+00', worker_id = '\\N'"
        )
        connection.execute(text(odd), {"odd": ODD})
    keeper.age()
    before = keeper.everything()
    assert keeper.removed("--apply")["executions"] == 2
    keeper.spine.ok("retention", "restore")
    assert keeper.everything() == before


def test_a_store_that_was_begun_anew_numbers_behind_what_is_restored(keeper: Keeper) -> None:
    keeper.spine.take(trade(), trade("T2"))
    keeper.age()
    keeper.spine.ok("retention", "--apply")
    with database.transaction() as connection:
        tables = "otc_metrics_daily, otc_trades, otc_trades_raw, otc_captures"
        connection.execute(text(f"TRUNCATE {tables} RESTART IDENTITY CASCADE"))
    keeper.spine.ok("retention", "restore")
    keeper.spine.take(trade("T3"), name="later.csv")
    assert keeper.spine.count(otc_trades_raw) == 3


def test_others_can_read_it(keeper: Keeper) -> None:
    keeper.spine.take(trade(), trade("T2"))
    keeper.age()
    keeper.spine.ok("retention", "--apply")
    (batch,) = (one for one in keeper.batches() if one.name.startswith("bronze-"))
    file = parquet.ParquetFile(batch / "otc_trades_raw.parquet")
    assert file.metadata.row_group(0).column(0).compression == "ZSTD"
    types = {field.name: str(field.type) for field in file.schema_arrow}
    assert types["raw_id"] == "int64"
    assert types["captured_at"] == "timestamp[us, tz=UTC]"
    assert types["payload"] == "string"


# --- bronze ------------------------------------------------------------------------------------


def replayed(keeper: Keeper) -> tuple[int, int, dict[str, int]]:
    """The exit code, the trades left out, and how many rows of each table are the same."""
    end = keeper.spine("replay", "--json")
    tables = {one["table"]: one["same"] for one in end.json["tables"]}
    return end.code, end.json["trades_left_out"], tables


def test_a_replay_leaves_out_what_is_archived_and_is_exact_again_when_it_is_restored(
    keeper: Keeper,
) -> None:
    keeper.spine.take(ORIGINAL, trade("T2"), trade("T3", symbol="BOLT"))
    keeper.age()
    correction = trade(event="correction", price="11", reported_at="2025-11-25T16:00:00Z")
    keeper.spine.take(correction, trade("T4", symbol="CROW"), name="later.csv")
    with database.transaction() as connection:  # it is as young as a capture can be
        for table in ("otc_captures", "otc_trades_raw"):
            now = f"UPDATE {table} SET captured_at = now() WHERE captured_at > '2025-12-01'"
            connection.execute(text(now))
        known = "UPDATE otc_trades SET known_from = now() WHERE known_from > '2025-12-01'"
        connection.execute(text(known))
        ended = "UPDATE otc_trades SET known_to = now() WHERE known_to > '2025-12-01'"
        connection.execute(text(ended))
    whole = replayed(keeper)
    assert whole == (0, 0, {"otc_trades": 5, "otc_metrics_daily": 3})
    keeper.spine.ok("retention", "--apply")
    assert keeper.spine.count(otc_captures) == 1
    assert replayed(keeper) == (0, 3, {"otc_trades": 1, "otc_metrics_daily": 1})
    with database.transaction() as connection:
        wrong = "UPDATE otc_trades SET price = price + 1 WHERE symbol = 'CROW'"
        connection.execute(text(wrong))
    assert replayed(keeper)[0] == 1, "what can be rebuilt is still compared"
    with database.transaction() as connection:
        connection.execute(text(wrong.replace("+", "-")))
    keeper.spine.ok("retention", "restore", "bronze-*")
    assert replayed(keeper) == whole


def test_a_record_that_contradicts_an_archived_one_waits_for_it_and_others_do_not(
    keeper: Keeper,
) -> None:
    keeper.spine.take(ORIGINAL)
    keeper.age()
    keeper.spine.ok("retention", "--apply")
    keeper.spine.capture(trade("T2"), EARLIER, ORIGINAL, trade("T3"), name="late.csv")
    keeper.spine.capture(trade("T4"), name="other.csv")
    keeper.spine.settle()
    silver = keeper.spine.silver()
    assert {*silver} == {"T1", "T2", "T3", "T4"}
    assert silver["T1"]["price"] == "10.000000"
    assert keeper.spine.ok("doctor").out == "all is well\n"
    assert replayed(keeper)[:2] == (0, 1)

    waiting = keeper.spine.letters()
    keeper.spine.ok("dead-letters", "retry", waiting[0]["id"])
    waiting += keeper.spine.letters()
    assert len({letter["id"] for letter in waiting}) == 2, "it is refused again, by another letter"
    for letter in waiting:
        assert '"price":"9"' in letter["payload"]
        assert "captured 2025-08-30" in letter["reason"]
        assert "spine retention restore 'bronze-*', then retry" in letter["reason"]

    keeper.spine.ok("retention", "restore", "bronze-*")
    keeper.spine.ok("dead-letters", "retry", waiting[1]["id"])
    assert keeper.spine.silver()["T1"]["price"] == "9.000000"
    (refused,) = keeper.spine.letters()
    assert '"price":"10"' in refused["payload"]
    keeper.age()
    keeper.spine.ok("retention", "--apply")
    (row,) = keeper.spine.rows(otc_trades_raw)
    assert row["raw_id"] == refused["raw_id"], "its record is still to be had"


def test_only_what_contradicts_an_archived_record_waits_and_not_that_record_come_again(
    keeper: Keeper,
) -> None:
    keeper.spine.take(ORIGINAL, trade(event="correction", price="11"))
    keeper.age()
    keeper.spine.ok("retention", "--apply")
    keeper.spine.take(EARLIER, ORIGINAL, name="late.csv")
    (waiting,) = keeper.spine.letters()
    assert '"price":"9"' in waiting["payload"]


def test_bronze_stays_while_something_needs_it(keeper: Keeper) -> None:
    capture = keeper.spine.capture(trade())
    keeper.age()
    apply = ("retention", "--apply")
    keeper.spine.ok(*apply)
    assert keeper.held(otc_captures) == keeper.spine.count(otc_trades_raw) == 1, "it is pending"
    keeper.spine.settle()
    keeper.age()
    (row,) = keeper.spine.rows(otc_trades_raw)
    for params in ({"capture_id": capture}, {"raw_id": row["raw_id"]}):
        with database.transaction() as connection:
            named = dispatcher.submit_in(connection, "otc_normalize", params)
        keeper.spine.ok(*apply)
        assert keeper.spine.count(otc_trades_raw) == 1, params
        dispatcher.cancel(named.id)
    keeper.spine.ok(*apply)
    assert keeper.numbers(*BRONZE) == {"otc_captures": 0, "otc_trades_raw": 0}


def test_a_batch_has_so_many_raw_rows_or_a_single_capture(
    keeper: Keeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("market_spine.retention.RAW_ROWS", 2)
    for number, rows in enumerate((1, 0, 1, 3, 1)):
        tape = (trade(f"T{number}-{row}") for row in range(rows))
        keeper.spine.capture(*tape, at=f"2025-12-0{number + 1}T12:00:00Z", name=f"{number}.csv")
    keeper.spine.settle()
    keeper.age()
    before = keeper.everything()
    keeper.spine.ok("retention", "--apply")
    files = [batch / "otc_trades_raw.parquet" for batch in keeper.batches()]
    sizes = [parquet.read_metadata(file).num_rows for file in files if file.exists()]
    assert sizes == [2, 3, 1]
    keeper.spine.ok("retention", "restore")
    assert keeper.everything() == before


def test_only_the_rows_of_a_capture_leave_with_it(keeper: Keeper) -> None:
    """Two captures were written at the same time: their rows stand between each other's."""
    keeper.spine.take(trade("T1"), trade("T2"), trade("T3"))
    keeper.age()
    keeper.spine.take(trade("T4"), trade("T5"), trade("T6"), name="other.csv")
    with database.transaction() as connection:
        swap = (
            "UPDATE otc_trades_raw SET raw_id = CASE raw_id WHEN 2 THEN 5 ELSE 2 END "
            "WHERE raw_id = 2"
        )
        connection.execute(text("UPDATE otc_trades_raw SET raw_id = 105 WHERE raw_id = 5"))
        connection.execute(text(swap))
        connection.execute(text("UPDATE otc_trades_raw SET raw_id = 2 WHERE raw_id = 105"))
        connection.execute(text("UPDATE otc_captures SET first_raw_id = 1, last_raw_id = 6"))
        young = "UPDATE otc_captures SET captured_at = now() WHERE captured_at > '2025-12-01'"
        assert connection.execute(text(young)).rowcount == 1
    keeper.spine.ok("retention", "--apply")
    assert {row["raw_id"] for row in keeper.spine.rows(otc_trades_raw)} == {2, 4, 6}


# --- whole, whatever is killed -----------------------------------------------------------------

KILLED = """
import os, signal
from itertools import count
from market_spine import archive, retention
retention.TREES = retention.CAPTURES = 1
original, calls = {point}, count(1)
def killed(*args):
    result = original(*args)
    if next(calls) == {number}:
        os.kill(os.getpid(), signal.SIGKILL)
    return result
{point} = killed
"""
POINTS = {
    "some files are there": ("archive._write_table", 3),
    "the files are there": ("archive._sync", 3),
    "the batch is there": ("archive.write", 2),
    "the batch of a capture is there": ("archive.write", 5),
    "captures are removed": ("retention._remove", 5),
}


@pytest.mark.parametrize("name", POINTS)
def test_a_process_that_is_killed_loses_nothing(name: str, keeper: Keeper) -> None:
    keeper.fill()
    before, keys = keeper.everything(), keeper.keys()
    point, number = POINTS[name]
    killed = KILLED.format(point=point, number=number)
    process = subprocess.Popen(
        [sys.executable, "-c", killed + COMMAND, "retention", "--apply"],
        cwd=keeper.spine.folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert ended(process).code == -signal.SIGKILL
    assert keeper.keys() == keys
    keeper.spine.check_ledger()
    keeper.spine.ok("retention", "--apply")
    assert {*keeper.numbers().values()} == {0}
    assert keeper.keys() == keys
    assert not (keeper.archive / ".unfinished").exists()
    keeper.spine.ok("retention", "restore")
    assert keeper.everything() == before


# --- what is refused ---------------------------------------------------------------------------


@pytest.mark.parametrize("archive", ["", "nowhere"])
def test_without_an_archive_nothing_is_removed(
    archive: str, keeper: Keeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    keeper.fill()
    before = keeper.everything()
    monkeypatch.setenv("SPINE_ARCHIVE", archive)
    if not archive:
        monkeypatch.delenv("SPINE_ARCHIVE")
    keeper.spine.restart()
    assert sum(keeper.removed().values()) > 0, "counting needs none"
    keeper.spine("retention", "--apply").fails(2, "SPINE_ARCHIVE")
    keeper.spine("retention", "restore").fails(2, "SPINE_ARCHIVE")
    assert keeper.everything() == before


def test_an_archive_that_cannot_be_written_keeps_the_rows(keeper: Keeper) -> None:
    keeper.fill()
    before = keeper.everything()
    (keeper.archive / ".unfinished").write_text("a file, where a folder should be")
    keeper.spine("retention", "--apply").fails(3, "SPINE_ARCHIVE", ".unfinished")
    assert keeper.everything() == before


def test_a_key_that_was_used_anew_keeps_its_batch_out_and_no_other(
    keeper: Keeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("market_spine.retention.TREES", 1)
    for key in ("a", "b"):
        dispatcher.submit("otc_normalize", {}, idempotency_key=key)
    keeper.age()
    keeper.spine.ok("retention", "--apply")
    anew = dispatcher.submit("otc_normalize", {}, idempotency_key="a")
    keeper.spine("retention", "restore").fails(
        2, "executions-", "one_execution_per_idempotency_key", "leave it archived"
    )
    kept = {row["idempotency_key"]: row["id"] for row in keeper.spine.rows(executions)}
    assert {*kept} == {"a", "b"}
    assert kept["a"] == str(anew.id)
    keeper.spine.check_ledger()


def test_rows_of_another_store_are_refused(keeper: Keeper) -> None:
    keeper.spine.take(trade())
    keeper.age()
    keeper.spine.ok("retention", "--apply")
    keeper.spine.ok("retention", "restore")
    with database.transaction() as connection:
        connection.execute(text("UPDATE otc_trades_raw SET source_file = 'another'"))
    before = keeper.everything()
    keeper.spine("retention", "restore", "bronze-*").fails(
        2, "bronze-", "otc_trades_raw", "other content", "leave it archived"
    )
    assert keeper.everything() == before


def test_letters_without_their_execution_are_refused(keeper: Keeper) -> None:
    keeper.spine.take(trade("BAD", price="x"))
    keeper.age()
    keeper.close_letters()
    keeper.spine.ok("retention", "--apply")
    keeper.spine("retention", "restore", "letters-*").fails(2, "letters-", "execution_id")
    keeper.spine.ok("retention", "restore")


@pytest.mark.parametrize("pattern", ["", "/archive/*", "archive/bronze-*", "../*", "**", ".*"])
def test_a_pattern_is_for_names_of_batches(pattern: str, keeper: Keeper) -> None:
    """Neither for paths, nor for what else a volume has."""
    (keeper.archive / "lost+found").mkdir()
    (keeper.archive / "notes.txt").touch()
    keeper.spine("retention", "restore", pattern).fails(2, f"no batch '{pattern}'", "ls archive")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there are no file modes like these")
def test_what_may_not_be_read_is_named(keeper: Keeper, monkeypatch: pytest.MonkeyPatch) -> None:
    volume = keeper.archive.rename(keeper.spine.folder / "volume")
    keeper.archive = volume / "archive"
    keeper.archive.mkdir()
    monkeypatch.setenv("SPINE_ARCHIVE", str(keeper.archive))
    keeper.spine.restart()
    keeper.spine.take(trade())
    keeper.age()
    keeper.spine.ok("retention", "--apply")
    (batch,) = (one for one in keeper.batches() if one.name.startswith("bronze-"))
    file = batch / "otc_trades_raw.parquet"
    for closed in (file, batch, keeper.archive, volume):
        keeper.spine.restart()
        keeper.spine.count(executions)  # connects, as is not possible without the rights of root
        mode = closed.stat().st_mode
        closed.chmod(0)
        code, err = by_the_modes(keeper.spine, ["retention", "restore", "bronze-*"])
        closed.chmod(mode)
        assert (code, err.count("\n")) == (2, 1), err
        assert err.startswith("error: ")
        assert str(keeper.archive if closed == volume else closed) in err
    keeper.spine.restart()
    (keeper.archive / "lost+found").mkdir(mode=0)
    keeper.spine.count(executions)
    assert by_the_modes(keeper.spine, ["retention", "restore"]) == (0, "")


def test_what_cannot_be_read_hinders_no_other_batch(keeper: Keeper) -> None:
    keeper.fill()
    before = keeper.everything()
    keeper.spine.ok("retention", "--apply")
    bronze, ledger, letters = keeper.batches()
    broken = [keeper.archive / f"bronze-2024010{day}{bronze.name[15:]}" for day in range(1, 6)]
    for one in broken:
        shutil.copytree(bronze, one)
    file = "otc_trades_raw.parquet"
    whole = (bronze / file).read_bytes()
    (broken[0] / file).write_bytes(whole[: len(whole) // 2])
    (broken[1] / file).write_bytes(whole[:4] + b"\xff" * 4000 + whole[4004:])
    table = parquet.read_table(bronze / file)
    at = table.schema.get_field_index("source_row")
    words = table.set_column(at, "source_row", [["one"] * len(table)])
    parquet.write_table(words, broken[2] / file)
    shutil.rmtree(broken[3])
    broken[3].write_text("a file, where a folder should be")
    shutil.rmtree(broken[4])
    broken[4].mkdir()

    end = keeper.spine("retention", "restore", "--json")
    assert end.code == 2
    assert {row["batch"] for row in end.json} == {bronze.name, ledger.name, letters.name}
    lines = end.err.splitlines()
    assert len(lines) == len(broken), end.err
    for line, one in zip(lines, broken, strict=True):
        assert line.startswith(f"error: archive/{one.name}")
        assert line.endswith("in its place")
    assert keeper.everything() == before


def test_what_cannot_be_read_is_named(keeper: Keeper) -> None:
    keeper.spine("retention", "restore").fails(2, "no batch '*'")
    keeper.spine.take(trade())
    keeper.age()
    keeper.spine.ok("retention", "--apply")
    (batch,) = (one for one in keeper.batches() if one.name.startswith("bronze-"))
    whole = shutil.copytree(batch, keeper.spine.folder / "whole")
    (batch / "otc_trades_raw.parquet").write_bytes(b"PAR1")
    keeper.spine("retention", "restore", "bronze-*").fails(2, "otc_trades_raw.parquet")
    assert keeper.numbers(*BRONZE) == {"otc_captures": 0, "otc_trades_raw": 0}
    shutil.copytree(whole, batch, dirs_exist_ok=True)
    table = parquet.read_table(whole / "otc_captures.parquet")
    more = table.append_column("colour", table.column("source"))
    parquet.write_table(more, batch / "otc_captures.parquet")
    keeper.spine("retention", "restore", "bronze-*").fails(2, "otc_captures", "colour")
    shutil.copytree(whole, batch, dirs_exist_ok=True)
    keeper.spine.ok("retention", "restore", "bronze-*")
    assert keeper.numbers(*BRONZE) == {"otc_captures": 1, "otc_trades_raw": 1}
