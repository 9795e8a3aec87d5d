"""Bad input: one line that names the culprit, nothing half written, and the next run works."""

import ctypes
import gzip
import os
import sqlite3
import zipfile
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from market_spine.schema import otc_captures, otc_metrics_daily, otc_trades, otc_trades_raw
from market_spine.stores import sqlite
from tests.support import Spine, spine_in
from tests.tape import csv_text, trade

TEXT = csv_text(*(trade(f"T{n}", venue=f"V{n % 7}") for n in range(2000)))


def truncated(text: str) -> bytes:
    packed = gzip.compress(text.encode())
    return packed[: len(packed) // 2]


def archive_cut_off(folder: Path) -> None:
    with zipfile.ZipFile(folder / "bad.zip", "w") as archive:
        archive.writestr("tape.csv", TEXT)
    content = (folder / "bad.zip").read_bytes()
    (folder / "bad.zip").write_bytes(content[: len(content) // 2])


def spoilt_member(folder: Path) -> None:
    with zipfile.ZipFile(folder / "bad.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("tape.csv", TEXT)
    content = bytearray((folder / "bad.zip").read_bytes())
    content[60:80] = bytes(20)
    (folder / "bad.zip").write_bytes(content)


def write(name: str, content: bytes | str) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)

    return make


# What stands in the folder, what is asked for, and what the line must name.
UNREADABLE: dict[str, tuple[Callable[[Path], None], str, list[str]]] = {
    "a missing file": (lambda _: None, "bad.csv", ["bad.csv", "no such file"]),
    "an empty file": (write("bad.csv", ""), "bad.csv", ["bad.csv", "empty"]),
    "an empty folder": (lambda folder: (folder / "bad").mkdir(), "bad", ["bad", "no file"]),
    "a pattern of nothing": (lambda _: None, "bad*.csv", ["bad*.csv", "no file"]),
    "another delimiter": (
        write("bad.csv", TEXT.replace(",", ";")),
        "bad.csv",
        ["bad.csv", "header lacks", "delimiter is ','"],
    ),
    "a header that lacks a column": (
        write("bad.csv", TEXT.replace("price", "prize", 1)),
        "bad.csv",
        ["bad.csv", "header lacks price"],
    ),
    "a truncated gzip": (write("bad.csv.gz", truncated(TEXT)), "bad.csv.gz", ["bad.csv.gz", "cut"]),
    "text named gzip": (write("bad.csv.gz", TEXT), "bad.csv.gz", ["bad.csv.gz", "damaged"]),
    "a zip cut off": (archive_cut_off, "bad.zip", ["bad.zip", "damaged"]),
    "a zip with a spoilt member": (spoilt_member, "bad.zip", ["bad.zip", "damaged"]),
    "a binary file": (
        write("bad.csv", bytes(range(256)) * 1000),
        "bad.csv",
        ["bad.csv"],
    ),
    "binary after good rows": (
        write("bad.csv", TEXT.encode() * 20 + b"\xff\xfe\x00" * 10),
        "bad.csv",
        ["bad.csv", "UTF-8"],
    ),
    "a quote left open": (
        write("bad.csv", TEXT + '"T9,1,original,' + "x" * (17 * 2**20)),
        "bad.csv",
        ["bad.csv", "line 2002", "quote"],
    ),
}


@pytest.mark.parametrize("kind", UNREADABLE)
def test_a_source_that_cannot_be_read_leaves_nothing(kind: str, spine: Spine) -> None:
    spine.take(trade("BEFORE"))
    before = spine.state(), spine.count(otc_trades_raw), spine.count(otc_captures)
    make, path, culprits = UNREADABLE[kind]
    make(spine.folder)
    spine.submit("otc_ingest", path=path).fails(1, *culprits)
    spine.settle()
    assert (spine.state(), spine.count(otc_trades_raw), spine.count(otc_captures)) == before
    (letter,) = spine.letters()
    assert letter["kind"] == "execution"
    spine.take(trade("AFTER"))
    assert spine.silver().keys() == {"BEFORE", "AFTER"}
    spine.check_ledger()


def test_a_field_of_a_megabyte_is_a_record_like_others(spine: Spine) -> None:
    huge = "9" * 2**20
    rows = [trade(name, **{name: huge}) for name in ("symbol", "price", "venue")]
    spine.take(*rows, trade("GOOD"), trade(huge), trade("codes", conditions="x" * 2**20))
    fields = [field for field, _ in spine.faults()]
    assert sorted(fields) == ["conditions", "price", "symbol", "trade_id", "venue"]
    assert all(len(reason) < 200 for _, reason in spine.faults())
    assert {*spine.silver()} == {"GOOD"}
    assert max(len(line) for line in spine.ok("dead-letters", "list").out.splitlines()) < 500


def test_a_null_character_is_no_part_of_an_id_or_a_symbol(spine: Spine) -> None:
    spine.take(trade("T\x001"), trade(symbol="AC\x00ME"))
    assert {field for field, _ in spine.faults()} == {"trade_id", "symbol"}


@pytest.mark.parametrize(
    ("pipeline", "params", "culprit"),
    [
        ("otc_ingest", {"captured_at": "20251206"}, "captured_at"),
        ("otc_ingest", {"start_date": "0"}, "start_date"),
        ("otc_ingest", {"start_date": "0001-01-01"}, "start_date"),
        (
            "otc_backfill_range",
            {"start_date": "9999-12-29", "end_date": "9999-12-31"},
            "start_date",
        ),
        ("otc_normalize", {"raw_id": "99999999999999999999"}, "raw_id"),
    ],
)
def test_a_param_that_only_looks_right_is_refused(
    spine: Spine, pipeline: str, params: dict[str, str], culprit: str
) -> None:
    refused = spine.submit(pipeline, **params)
    assert refused.code == 2
    assert culprit in refused.err
    assert spine.json("executions", "list") == []


def test_an_instant_before_all_time_is_refused(spine: Spine) -> None:
    range_ = ["--start", "2025-11-24", "--end", "2025-11-24"]
    as_of = ["--as-of", "0001-01-01T00:00:00+14:00"]
    refused = spine("metrics", "daily", "ACME", *range_, *as_of)
    assert refused.code == 2
    assert "--as-of" in refused.err


@pytest.mark.parametrize(
    ("params", "culprits"),
    [
        ({"source": "nobody"}, ["nobody", "otc"]),
        ({"source": "../otc"}, ["../otc"]),
        ({"connector": "pigeon"}, ["pigeon", "file", "synthetic"]),
        ({"captured_at": "2999-01-01T00:00:00Z"}, ["captured_at", "2999", "future"]),
    ],
    ids=str,
)
def test_a_source_that_is_not_there_is_named(
    params: dict[str, str], culprits: list[str], spine: Spine
) -> None:
    spine.tape(trade())
    spine.submit("otc_ingest", path="tape.csv", **params).fails(1, *culprits)
    assert spine.count(otc_trades_raw) == 0


@pytest.mark.parametrize(
    "params",
    [{"capture_id": "01a2078f-9888-736d-bbb0-3a6be4ca9fd6"}, {"raw_id": "12"}],
    ids=str,
)
def test_a_capture_that_is_not_there_is_named(params: dict[str, str], spine: Spine) -> None:
    spine.submit("otc_normalize", **params).fails(1, *params.values())


# --- the store ---------------------------------------------------------------------------------

COMMANDS = [
    ["executions", "list"],
    ["dead-letters", "list"],
    ["run", "otc_normalize"],
    ["metrics", "daily", "ACME", "--start", "2025-11-24", "--end", "2025-11-24"],
]
each_command = pytest.mark.parametrize("args", COMMANDS, ids=" ".join)


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


@pytest.mark.parametrize(
    ("name", "value", "code", "culprits"),
    [
        ("DATABASE_URL", "nonsense://here", 3, ["DATABASE_URL", "nonsense", "sqlite"]),
        ("DATABASE_URL", "not a url", 3, ["DATABASE_URL", "not a url"]),
        ("DATABASE_URL", "sqlite://", 3, ["DATABASE_URL", "no file"]),
        ("DATABASE_URL", "sqlite:///:memory:", 3, ["DATABASE_URL", "no file"]),
        ("SPINE_BACKEND", "pigeon", 2, ["SPINE_BACKEND", "pigeon", "inline"]),
    ],
)
def test_a_setting_that_cannot_be_is_named(
    name: str,
    value: str,
    code: int,
    culprits: list[str],
    spine: Spine,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(name, value)
    spine.restart()
    spine("executions", "list").fails(code, *culprits)
    spine("run", "otc_normalize").fails(code, *culprits)


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
