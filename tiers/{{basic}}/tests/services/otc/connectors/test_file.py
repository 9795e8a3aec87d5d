"""Files: plain, compressed, archived, many at once, and those that a vendor writes differently."""

import gzip
import zipfile
from pathlib import Path

import pytest

from market_spine.schema import otc_trades_raw
from tests.support import Spine
from tests.tape import Row, csv_text, trade

TEXT = csv_text(trade("T1"), trade("T2"))


def names_of(spine: Spine) -> list[tuple[str, int]]:
    return [(row["source_file"], row["source_row"]) for row in spine.rows(otc_trades_raw)]


def zipped(path: Path, **members: str) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.mkdir("folder")
        for name, text in members.items():
            archive.writestr(f"folder/{name}", text)


def test_a_gzipped_file_says_the_same(spine: Spine) -> None:
    (spine.folder / "tape.csv.gz").write_bytes(gzip.compress(TEXT.encode()))
    spine.run("otc_ingest", path="tape.csv.gz")
    assert names_of(spine) == [("tape.csv.gz", 1), ("tape.csv.gz", 2)]
    spine.settle()
    assert spine.day()["trade_count"] == 2


def test_an_archive_of_one_file_is_named_after_itself(spine: Spine) -> None:
    zipped(spine.folder / "tape.zip", one=TEXT)
    spine.run("otc_ingest", path="tape.zip")
    assert names_of(spine) == [("tape.zip", 1), ("tape.zip", 2)]


def test_every_file_of_an_archive_is_read(spine: Spine) -> None:
    zipped(spine.folder / "tape.zip", one=TEXT, two=csv_text(trade("T3")))
    spine.run("otc_ingest", path="tape.zip")
    files = {name for name, _ in names_of(spine)}
    assert files == {"tape.zip/folder/one", "tape.zip/folder/two"}
    assert len(names_of(spine)) == 3


def test_a_folder_and_a_pattern_are_read_in_the_order_of_names(spine: Spine) -> None:
    folder = spine.folder / "tapes"
    (folder / "deeper").mkdir(parents=True)
    for name in ("b.csv", "a.csv", ".hidden"):
        (folder / name).write_text(TEXT)
    spine.run("otc_ingest", path="tapes")
    assert [name for name, row in names_of(spine) if row == 1] == ["a.csv", "b.csv"]
    spine.run("otc_ingest", path="tapes/b*.csv")
    assert [name for name, _ in names_of(spine)][4:] == ["b.csv", "b.csv"]


def test_a_byte_order_mark_and_other_line_ends_are_no_matter(spine: Spine) -> None:
    text = TEXT.replace("\n", "\r\n")
    (spine.folder / "tape.csv").write_bytes(b"\xef\xbb\xbf" + text.encode())
    spine.run("otc_ingest", path="tape.csv")
    spine.settle()
    assert spine.letters() == []
    assert spine.day()["trade_count"] == 2


def test_quoted_fields_may_hold_delimiters_and_line_ends(spine: Spine) -> None:
    text = TEXT.replace("T1,", '"T,1",').replace("T2,", '"T\n2",')
    (spine.folder / "tape.csv").write_text(text)
    spine.run("otc_ingest", path="tape.csv")
    spine.settle()
    assert {*spine.silver()} == {"T,1"}
    assert spine.faults() == [("trade_id", "has unprintable characters")]


def test_a_header_that_names_a_column_twice_is_refused(spine: Spine) -> None:
    text = TEXT.replace("trade_id,", "price,trade_id,", 1)
    (spine.folder / "tape.csv").write_text(text)
    refused = spine.submit("otc_ingest", path="tape.csv")
    assert refused.code == 1
    assert "the header names 'price' more than once" in refused.err


def test_a_header_may_have_one_column_without_a_name(spine: Spine) -> None:
    lines = [f"{number},{line}" for number, line in enumerate(TEXT.splitlines())]
    lines[0] = "," + TEXT.splitlines()[0]
    (spine.folder / "tape.csv").write_text("\n".join(lines) + "\n")
    spine.run("otc_ingest", path="tape.csv")
    spine.settle()
    assert {*spine.silver()} == {"T1", "T2"}


def test_a_row_whose_symbol_cannot_be_read_is_fetched_for_every_symbol(spine: Spine) -> None:
    text = TEXT + TEXT.splitlines()[1].replace("T1,", "T3,").replace("ACME", "a$c") + "\n"
    assert "a$c" in text
    (spine.folder / "tape.csv").write_text(text)
    ran = spine.run("otc_ingest", path="tape.csv", symbols="OTHER")
    assert ran["result"]["records"] == 1


def test_columns_may_stand_in_any_order_beside_others(spine: Spine) -> None:
    lines = [line.split(",") for line in TEXT.splitlines()]
    text = "\n".join(",".join([*reversed(line), "more"]) for line in lines)
    (spine.folder / "tape.csv").write_text(text)
    spine.run("otc_ingest", path="tape.csv")
    spine.settle()
    assert spine.day()["trade_count"] == 2


@pytest.mark.parametrize(
    ("params", "expected"),
    [
        ({}, ["T1", "T2", "T3", "BAD", "WORSE"]),
        ({"start_date": "2025-11-25"}, ["T2", "T3", "BAD", "WORSE"]),
        ({"end_date": "2025-11-25"}, ["T1", "T2", "BAD", "WORSE"]),
        ({"start_date": "2025-11-25", "end_date": "2025-11-25"}, ["T2", "BAD", "WORSE"]),
        ({"symbols": "BOLT"}, ["T2", "BAD"]),
        ({"symbols": "BOLT,ACME", "end_date": "2025-11-24"}, ["T1", "BAD", "WORSE"]),
    ],
    ids=str,
)
def test_a_request_is_for_days_of_reporting_and_symbols(
    params: dict[str, str], expected: list[str], spine: Spine
) -> None:
    """What cannot be read must not get lost: it fits every request."""
    rows: list[Row | str] = [
        trade("T1"),
        # Reported on the next day, by New York's calendar: at 5:00 UTC it begins.
        trade("T2", symbol="BOLT", reported_at="2025-11-26T04:59:59Z"),
        trade("T3", reported_at="2025-11-26T05:00:00Z"),
        "BAD",
        trade("WORSE", trade_ts="yesterday"),
    ]
    spine.capture(*rows, **params)
    found = [row["payload"].split('"trade_id":"')[1].split('"')[0] for row in raw(spine)]
    assert found == expected


def raw(spine: Spine) -> list[dict[str, str]]:
    return spine.rows(otc_trades_raw)
