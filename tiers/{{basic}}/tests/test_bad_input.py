"""Bad input: one line that names the culprit, nothing half written, and the next run works."""

import gzip
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from market_spine.schema import otc_captures, otc_trades_raw
from tests.support import Spine
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
    "a device": (
        lambda folder: (folder / "bad.csv").symlink_to("/dev/null"),
        "bad.csv",
        ["bad.csv", "not a regular file"],
    ),
    "a name that is too long": (lambda _: None, "bad" * 100, ["bad", "too long"]),
    "a part of a name that is too long": (lambda _: None, f"{'bad' * 100}/*", ["bad", "no file"]),
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
        ("otc_ingest", {"captured_at": "0001-01-01T00:00:00+14:00"}, "captured_at"),
        ("otc_ingest", {"start_date": "0"}, "start_date"),
        ("otc_ingest", {"start_date": "0001-01-01"}, "start_date"),
        (
            "otc_backfill_range",
            {"start_date": "9999-12-29", "end_date": "9999-12-31"},
            "start_date",
        ),
        ("otc_ingest", {"path": ""}, "path"),
        ("otc_ingest", {"path": "x" * 5000}, "path"),
        ("otc_ingest", {"source": "x" * 101}, "source"),
        ("otc_ingest", {"symbols": ""}, "symbols"),
        ("otc_ingest", {"symbols": "x" * 65}, "symbols"),
        ("otc_ingest", {"symbols": ",".join(["A"] * 1001)}, "symbols"),
        ("otc_backfill_day", {"day": "2025-11-24", "symbols": ",".join(["A"] * 1001)}, "symbols"),
        ("otc_compute_daily_metrics", {"symbol": "x" * 65}, "symbol"),
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


def test_limits_are_said_as_people_write_them(spine: Spine) -> None:
    limits = "1970-01-02", "2199-12-30"
    spine.submit("otc_backfill_day", day="0001-01-01").fails(2, "day: 0001-01-01", *limits)
    late = "1969-12-31T23:59:59+00:00"
    spine.submit("otc_ingest", captured_at=late).fails(2, f"captured_at: {late}", limits[0])


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


@pytest.mark.parametrize(
    ("name", "value", "code", "culprits"),
    [
        ("DATABASE_URL", "nonsense://here", 3, ["DATABASE_URL", "nonsense", "sqlite"]),
        ("DATABASE_URL", "not a url", 3, ["DATABASE_URL", "not a url"]),
        ("DATABASE_URL", "sqlite://", 3, ["DATABASE_URL", "no file"]),
        ("DATABASE_URL", "sqlite:///:memory:", 3, ["DATABASE_URL", "no file"]),
        ("DATABASE_URL", "sqlite:spine.db", 3, ["DATABASE_URL", "sqlite://"]),
        ("DATABASE_URL", "sqlite://tapes/spine.db", 3, ["DATABASE_URL", "sqlite:///"]),
        ("DATABASE_URL", "sqlite://me:secret@host/spine.db", 3, ["DATABASE_URL", "host"]),
        ("DATABASE_URL", "other://me:secret@host:port/spine", 3, ["DATABASE_URL", "port"]),
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
    assert "secret" not in spine("executions", "list").fails(code, *culprits).err
    spine("run", "otc_normalize").fails(code, *culprits)


def test_an_at_sign_may_stand_in_the_path_of_a_store(
    spine: Spine, monkeypatch: pytest.MonkeyPatch
) -> None:
    (spine.folder / "me@home").mkdir()
    monkeypatch.setenv("DATABASE_URL", "sqlite:///me@home/spine@1.db")
    spine.restart()
    spine.take(trade())
    assert (spine.folder / "me@home/spine@1.db").exists()
