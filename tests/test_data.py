"""The sample tape, the generator that made it and the oracle of its metrics.

The sample must contain every situation that the rules speak of: each is looked for in the rows
themselves, not by the names that the set pieces bear.
"""

from __future__ import annotations

import csv
import subprocess
import sys
from collections import Counter, defaultdict
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

DATA = Path(__file__).parents[1] / "data"
SAMPLE = DATA / "otc_sample.csv"
EXPECTED = DATA / "otc_expected_metrics.csv"
HEADER = "trade_id,source_seq,event,symbol,trade_ts,reported_at,price,size,side,venue,conditions"
CODES = "@45679BCEFHIKLMNOPQRTUVXZ"
CORE = ("ALDRF", "CNTHY", "BRVO.B", "KESTQ", "MRNW", "PLXA-P")  # symbols of ordinary trades

Row = dict[str, str]


def run(script: str, *arguments: object) -> str:
    command = [sys.executable, "-B", str(DATA / script), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def reported(row: Row) -> datetime:
    return datetime.fromisoformat(row["reported_at"] or row["trade_ts"])


def new_york(text: str) -> datetime:
    return datetime.fromisoformat(text).astimezone(ZoneInfo("America/New_York"))


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    """The well-formed rows of the sample, duplicates included."""
    with SAMPLE.open(encoding="ascii", newline="") as file:
        found = list(csv.DictReader(file))
    return [row for row in found if row["trade_id"] and not row["trade_id"].startswith("BAD-")]


@pytest.fixture(scope="module")
def trades(rows: list[Row]) -> dict[str, list[Row]]:
    """The distinct records of each trade, in the order of the file."""
    found: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        if row not in found[row["trade_id"]]:
            found[row["trade_id"]].append(row)
    return found


@pytest.fixture(scope="module")
def gold() -> dict[tuple[str, str], Row]:
    with EXPECTED.open(encoding="ascii", newline="") as file:
        return {(row["symbol"], row["date"]): row for row in csv.DictReader(file)}


# The committed files are what the programs write.


def test_sample_is_what_the_generator_writes(tmp_path: Path) -> None:
    run("generate_otc_trades.py", "--out", tmp_path / "tape.csv")
    assert (tmp_path / "tape.csv").read_bytes() == SAMPLE.read_bytes()


def test_expected_metrics_are_what_the_oracle_prints() -> None:
    assert run("oracle.py", SAMPLE) == EXPECTED.read_text(encoding="ascii")


def test_files_pass_through_jinja_unharmed() -> None:
    for file in (SAMPLE, EXPECTED):
        assert not set("{}#") & set(file.read_text(encoding="ascii"))


def test_a_long_tape_keeps_its_rates_and_its_order(tmp_path: Path) -> None:
    shares = ("--malformed", 0.01, "--duplicates", 0.02, "--corrections", 0.03, "--cancels", 0.04)
    tape = tmp_path / "tape.csv"
    arguments = ("--trades", 20_000, "--days", 3, "--seed", 7, *shares, "--out", tape)
    run("generate_otc_trades.py", *arguments)
    first = tape.read_bytes()
    run("generate_otc_trades.py", *arguments)
    assert tape.read_bytes() == first

    lines = first.decode("ascii").splitlines()[1:]
    events = Counter(line.split(",")[2] for line in lines)
    assert 500 < events["correction"] < 700
    assert 700 < events["cancel"] < 900
    assert 300 < len(lines) - len(set(lines)) < 500
    rejected = dict(line.split(",") for line in run("oracle.py", tape, "--rejected").split()[1:])
    assert 150 < sum(map(int, rejected.values())) < 250
    numbers = [int(line.split(",")[1]) for line in lines if line.split(",")[1].isdigit()]
    assert numbers == sorted(numbers)


# What the sample contains.


def test_sample_is_a_plausible_tape(rows: list[Row]) -> None:
    assert 3_000 <= len(rows) <= 4_500
    assert len({row["symbol"] for row in rows}) == 8
    assert len({row["venue"] for row in rows} - {""}) >= 5
    assert [reported(row) for row in rows] == sorted(reported(row) for row in rows)
    dates = {new_york(row["trade_ts"]).date().isoformat() for row in rows}
    assert min(dates) == "2025-11-24"
    assert max(dates) == "2025-12-05"
    assert "2025-11-27" not in dates
    whole = sum("." not in row["size"] for row in rows)
    assert whole > 0.9 * len(rows)


def test_only_form_t_prints_are_outside_the_session(rows: list[Row]) -> None:
    for row in rows:
        at = new_york(row["trade_ts"])
        close = "13:00" if at.day == 28 else "16:00"
        in_session = "09:30" <= f"{at:%H:%M}" < close
        if row["symbol"] in CORE:
            assert in_session != bool(set("TU") & set(row["conditions"])), row


def test_volume_is_u_shaped(rows: list[Row]) -> None:
    hours = Counter(new_york(row["trade_ts"]).hour for row in rows if row["symbol"] in CORE)
    assert hours[10] > 1.5 * hours[12] < hours[15]


def test_buys_are_dearer_than_sells_on_most_days(gold: dict[tuple[str, str], Row]) -> None:
    spreads = [float(row["side_spread_bps"]) for (name, _), row in gold.items() if name in CORE]
    assert sum(spread > 0 for spread in spreads) > 0.75 * len(spreads)


def test_every_symbol_trades_every_day(gold: dict[tuple[str, str], Row]) -> None:
    assert Counter(name for name, _ in gold if name in CORE) == dict.fromkeys(CORE, 9)


def test_every_sale_condition_occurs_alone(rows: list[Row]) -> None:
    assert {row["conditions"] for row in rows} >= {*CODES, ""}
    assert set("".join(row["conditions"] for row in rows)) == set(CODES)


def test_odd_lots_and_fractions(rows: list[Row]) -> None:
    ordinary = [row for row in rows if row["symbol"] in CORE]
    assert all((float(row["size"]) < 100) == ("I" in row["conditions"]) for row in ordinary)
    assert sum("I" in row["conditions"] for row in rows) > 100
    assert sum("." in row["size"] for row in rows) > 20


def test_empty_fields_and_another_zone(rows: list[Row]) -> None:
    for field in ("reported_at", "side", "venue", "conditions"):
        assert any(row[field] == "" for row in rows), field
    assert any(row["trade_ts"].endswith("-05:00") for row in rows)


def test_prints_on_both_sides_of_midnight_utc_are_of_one_date(rows: list[Row]) -> None:
    before = [row for row in rows if row["trade_ts"] == "2025-11-24T23:59:59.9Z"]
    after = [row for row in rows if row["trade_ts"] == "2025-11-25T00:00:00.1Z"]
    assert [new_york(row["trade_ts"]).day for row in before + after] == [24, 24]


def test_late_as_of_and_weekend_prints(rows: list[Row]) -> None:
    originals = [row for row in rows if row["event"] == "original"]
    delays = [reported(row) - new_york(row["trade_ts"]) for row in originals]
    assert sum(1 <= delay.total_seconds() / 3600 < 12 for delay in delays) >= 5
    assert sum(delay.days >= 1 for delay in delays) >= 5
    (weekend,) = [row for row in rows if new_york(row["trade_ts"]).weekday() >= 5]
    assert new_york(weekend["reported_at"]).date().isoformat() == "2025-12-01"


def test_every_history_of_a_trade(trades: dict[str, list[Row]]) -> None:
    histories = Counter(tuple(row["event"] for row in records) for records in trades.values())
    o, c, x = "original", "correction", "cancel"
    assert set(histories) == {
        (o,),
        (c,),  # without an original
        (x,),
        (o, c),
        (c, o),  # before its original
        (o, x),
        (x, o),
        (o, c, c),
        (o, c, x),
        (o, x, c),
        (o, o),  # conflicting
    }
    assert histories[o, c] > 10
    assert histories[o, x] > 10
    assert histories[o, o] == 2


def test_conflicting_originals_in_either_order(trades: dict[str, list[Row]]) -> None:
    pairs = [r for r in trades.values() if [row["event"] for row in r] == ["original"] * 2]
    first_wins = [
        (reported(one), int(one["source_seq"])) < (reported(two), int(two["source_seq"]))
        for one, two in pairs
    ]
    assert sorted(first_wins) == [False, True]


def test_corrections_move_price_and_date(trades: dict[str, list[Row]]) -> None:
    moved: Counter[str] = Counter()
    for records in trades.values():
        original = next((row for row in records if row["event"] == "original"), None)
        for row in records:
            if original and row["event"] == "correction":
                moved["price"] += row["price"] != original["price"]
                dates = {new_york(r["trade_ts"]).date() for r in (row, original)}
                moved["date"] += len(dates) > 1
                moved["days after"] += (reported(row) - reported(original)).days >= 1
    assert moved["date"] == 1
    assert moved["price"] > 10
    assert moved["days after"] > 5


def test_duplicates_of_originals_and_of_a_correction(rows: list[Row]) -> None:
    repeated = [row for row, next_row in pairwise(rows) if row == next_row]
    counts = Counter(row["event"] for row in repeated)
    assert counts["original"] > 10
    assert counts["correction"] == 1
    assert len(rows) - len({tuple(row.values()) for row in rows}) == len(repeated)


def test_order_never_depends_on_the_record_hash(trades: dict[str, list[Row]]) -> None:
    records = [row for found in trades.values() for row in found]
    assert len({row["source_seq"] for row in records}) == len(records)


def test_symbol_days_without_something(gold: dict[tuple[str, str], Row]) -> None:
    empty = {key for key, row in gold.items() if row["trade_count"] == "0"}
    assert empty == {
        ("VRL.U", "2025-11-26"),  # all cancelled
        ("VRL.U", "2025-12-01"),  # a cancel alone
        ("VRL.U", "2025-12-04"),  # no volume-eligible trade
    }
    priceless = {key for key, row in gold.items() if row["vwap"] and not row["high_price"]}
    assert priceless == {("TWLE", "2025-11-29"), ("VRL.U", "2025-12-02")}
    assert gold["VRL.U", "2025-12-04"]["high_price"] == "42.800000"
    one_side = gold["VRL.U", "2025-12-03"]
    assert one_side["buy_vwap"]
    assert not one_side["sell_vwap"]
    assert not one_side["side_spread_bps"]
    assert ("VRL.U", "2025-11-24") not in gold  # its only trade was moved to the next day


def test_each_malformation_occurs_once() -> None:
    lines = SAMPLE.read_text(encoding="ascii").splitlines()
    bad = [line for line in lines if line.startswith(("BAD-", ","))]
    assert len(bad) == 36
    assert Counter(line.split(",")[0] for line in bad).most_common(1)[0][1] == 1
    rejected = run("oracle.py", SAMPLE, "--rejected").split()[1:]
    assert rejected == [
        "conditions,1",
        "event,1",
        "notional,1",
        "price,9",
        "reported_at,1",
        "row,2",
        "side,1",
        "size,9",
        "source_seq,1",
        "symbol,2",
        "trade_id,4",  # missing, too long, and the two that conflict
        "trade_ts,5",
        "venue,1",
    ]


# The oracle, on tapes small enough for a pocket calculator.


def metrics(tmp_path: Path, *lines: str) -> list[Row]:
    tape = tmp_path / "tape.csv"
    tape.write_text("\n".join([HEADER, *lines]) + "\n", encoding="ascii")
    return list(csv.DictReader(run("oracle.py", tape).splitlines()))


def a_print(
    trade_id: str,
    price: str,
    size: str,
    side: str = "",
    *,
    seq: int = 1,
    event: str = "original",
    traded: str = "2025-12-01T15:00:00Z",
    reported_at: str = "",
    venue: str = "QUAY",
    conditions: str = "",
) -> str:
    cells = (trade_id, seq, event, "ABC", traded, reported_at, price, size, side, venue, conditions)
    return ",".join(map(str, cells))


def test_oracle_on_two_sides(tmp_path: Path) -> None:
    tape = (
        a_print("A", "10.02", "100", "buy", traded="2025-12-01T15:00:00Z"),
        a_print("B", "9.98", "300", "sell", traded="2025-12-01T15:00:01Z", venue="HELM"),
        a_print("C", "11", "50", traded="2025-12-01T15:00:02Z", conditions="I"),
        a_print("D", "12", "900", traded="2025-12-01T21:00:00Z", conditions="M"),
    )
    assert metrics(tmp_path, *tape) == [
        {
            "symbol": "ABC",
            "date": "2025-12-01",
            "trade_count": "3",
            "total_volume": "450.000000",
            "total_notional": "4546.000000",
            "vwap": "10.10222222",
            "high_price": "10.020000",
            "low_price": "9.980000",
            "open_price": "10.020000",
            "close_price": "9.980000",
            "range_bps": "39.5952",  # 0.04 / (4546 / 450) = 0.00395952…
            "buy_vwap": "10.02000000",
            "sell_vwap": "9.98000000",
            "side_spread_bps": "39.5952",
            "venue_count": "2",
        }
    ]


def test_oracle_opens_and_closes_by_source_seq(tmp_path: Path) -> None:
    tape = (a_print("A", "10", "1", seq=10), a_print("B", "11", "1", seq=9))
    (day,) = metrics(tmp_path, *tape)
    assert (day["open_price"], day["close_price"]) == ("11.000000", "10.000000")


def test_oracle_rounds_half_even(tmp_path: Path) -> None:
    tape = (a_print("A", "2.5", "0.000001"), a_print("B", "3.5", "0.000001"))
    (day,) = metrics(tmp_path, *tape)
    assert day["total_notional"] == "0.000006"  # 2.5 goes to 2 and 3.5 to 4


@pytest.mark.parametrize(
    ("events", "price"),
    [
        (["original"], "10.000000"),
        (["original", "correction"], "11.000000"),
        (["correction", "original"], "10.000000"),
        (["original", "cancel", "correction"], ""),
        (["original", "original"], "10.000000"),
        (["original", "original", "correction"], "12.000000"),
        (["original", "correction", "correction"], "12.000000"),
        (["cancel"], ""),
    ],
)
def test_oracle_ranks_records(tmp_path: Path, events: list[str], price: str) -> None:
    lines = [
        a_print("A", str(10 + n), "100", event=event, seq=n, reported_at=f"2025-12-01T16:0{n}:00Z")
        for n, event in enumerate(events)
    ]
    for tape in (lines, lines[::-1], lines + lines):
        (day,) = metrics(tmp_path, *tape)
        assert day["close_price"] == price
        assert day["trade_count"] == ("1" if price else "0")


@pytest.mark.parametrize(
    ("price", "size", "accepted"),
    [
        ("10000000", "1", True),
        ("10000000.000001", "1", False),
        ("1", "10000000000", True),
        ("1", "10000000000.000001", False),
        ("10000000", "100000", True),
        ("10000000", "100000.000001", False),
        ("0.000001", "0.000001", True),
        ("+1", "1", False),
        ("1.", "1", False),
        (".5", "1", False),
        ("1_000", "1", False),
        ("0.0", "1", False),
    ],
)
def test_oracle_limits_numbers(tmp_path: Path, price: str, size: str, accepted: bool) -> None:
    assert len(metrics(tmp_path, a_print("A", price, size))) == accepted
