"""Silver: what becomes of a trade that several records tell of, in whatever order they come."""

from itertools import chain, permutations

import pytest

from tests import model
from tests.support import Spine
from tests.tape import Row, trade

MONDAY, TUESDAY, WEDNESDAY = (f"2025-12-{day:02}T22:00:00Z" for day in (8, 9, 10))
ORIGINAL = trade(price="10", reported_at="2025-11-24T15:00:01Z")
CORRECTION = trade(event="correction", price="11", reported_at="2025-11-24T16:00:00Z")
LATER_CORRECTION = trade(event="correction", price="12", reported_at="2025-11-26T16:00:00Z")
CANCEL = trade(event="cancel", price="10", reported_at="2025-11-25T16:00:00Z")


def captured_apart(spine: Spine, *rows: Row) -> None:
    """Each row in a capture of its own, a day after the one before."""
    for day, row in enumerate(rows, start=8):
        spine.take(row, at=f"2025-12-{day:02}T22:00:00Z")


def in_every_order(spine: Spine, *rows: Row, apart: bool) -> list[tuple[Row, ...]]:
    """The rows in each order, as trades P0, P1, ... of symbols like these, in a capture or more."""
    orders: list[tuple[Row, ...]] = [
        tuple({**row, "trade_id": f"P{n}", "symbol": f"P{n}"} for row in order)
        for n, order in enumerate(permutations(rows))
    ]
    captures = [*zip(*orders, strict=True)] if apart else [tuple(chain(*orders))]
    for day, capture in enumerate(captures, start=8):
        spine.take(*capture, at=f"2025-12-{day:02}T22:00:00Z")
    return orders


def stands(spine: Spine, trade_id: str = "T1") -> tuple[str, str]:
    row = spine.silver()[trade_id]
    return row["event"], row["price"]


# --- duplicates --------------------------------------------------------------------------------


def test_exact_duplicates_are_one_record(spine: Spine) -> None:
    spine.capture(ORIGINAL, ORIGINAL, trade("T2"), ORIGINAL)
    result = spine.run("otc_normalize")["result"]
    assert (result["read"], result["new_versions"], result["unchanged"]) == (4, 2, 2)
    spine.run("otc_compute_daily_metrics")
    assert len(spine.versions()) == 2
    assert spine.letters() == []
    assert spine.day()["trade_count"] == 2


def test_normalizing_again_changes_nothing(spine: Spine) -> None:
    capture_id = spine.capture(ORIGINAL, CORRECTION, CANCEL, trade("T2", price="abc"))
    spine.settle()
    before = spine.state()
    result = spine.run("otc_normalize", capture_id=capture_id)["result"]
    assert (result["new_versions"], result["rejected"], result["unchanged"]) == (0, 1, 3)
    spine.run("otc_compute_daily_metrics")
    assert spine.state() == before
    assert spine.run("otc_normalize")["result"] == {"captures": 0}


# --- sources without trade ids -----------------------------------------------------------------

ANONYMOUS = """
[fields]
symbol = "symbol"
trade_ts = "time"
price = "price"
size = "size"
"""
PRINT = "ACME,2025-11-24T15:00:00Z,10,100\n"


def ingest_anonymous(spine: Spine, text: str, name: str) -> None:
    (spine.folder / "mappings" / "anonymous.toml").write_text(ANONYMOUS)
    (spine.folder / name).write_text("symbol,time,price,size\n" + text)
    spine.run("otc_ingest", source="anonymous", path=name)
    spine.settle()


def test_equal_prints_of_a_source_without_ids_stay_two_trades(spine: Spine) -> None:
    ingest_anonymous(spine, PRINT * 2, "prints.csv")
    assert {*spine.silver()} == {"prints.csv:1", "prints.csv:2"}
    assert {row["source_seq"] for row in spine.silver().values()} == {1, 2}
    assert spine.day()["trade_count"] == 2


def test_the_same_file_read_twice_adds_none_to_silver(spine: Spine) -> None:
    ingest_anonymous(spine, PRINT * 2, "prints.csv")
    before = spine.state()
    ingest_anonymous(spine, PRINT * 2, "prints.csv")
    assert spine.state() == before


def test_a_file_of_another_name_brings_other_trades(spine: Spine) -> None:
    ingest_anonymous(spine, PRINT, "one.csv")
    ingest_anonymous(spine, PRINT, "two.csv")
    assert spine.day()["trade_count"] == 2


def test_a_file_that_grew_adds_what_is_new(spine: Spine) -> None:
    ingest_anonymous(spine, PRINT, "prints.csv")
    ingest_anonymous(spine, PRINT * 3, "prints.csv")
    assert spine.day()["trade_count"] == 3
    assert spine.letters() == []


# --- conflicting originals ---------------------------------------------------------------------

FIRST = trade(price="10", reported_at="2025-11-24T15:00:01Z", source_seq="5")
SECOND = trade(price="20", reported_at="2025-11-24T15:00:02Z", source_seq="4")
SAME_TIME = trade(price="30", reported_at="2025-11-24T15:00:02Z", source_seq="5")


def losers(spine: Spine) -> set[str]:
    assert {field for _, field in spine.rejected()} <= {"trade_id"}
    return {record_hash for record_hash, _ in spine.rejected()}


@pytest.mark.parametrize("apart", [True, False])
def test_of_conflicting_originals_the_lowest_stands(apart: bool, spine: Spine) -> None:
    orders = in_every_order(spine, FIRST, SECOND, SAME_TIME, apart=apart)
    for rows in orders:
        trade_id = rows[0]["trade_id"]
        assert stands(spine, trade_id) == ("original", "10.000000")
        assert spine.day(trade_id)["total_notional"] == "1000.000000"
    refused = [row for rows in orders for row in rows if row["price"] != "10"]
    assert losers(spine) == {model.record_hash(row) for row in refused}


def test_at_the_same_time_the_lower_sequence_stands(spine: Spine) -> None:
    spine.take(SAME_TIME, SECOND)
    assert stands(spine) == ("original", "20.000000")


def test_all_else_equal_the_lower_hash_stands(spine: Spine) -> None:
    rows = [trade(price=str(price)) for price in range(10, 15)]
    spine.take(*rows)
    lowest = min(rows, key=model.record_hash)
    assert stands(spine)[1] == f"{lowest['price']}.000000"
    assert len(losers(spine)) == 4


def test_an_original_that_stood_has_a_letter_when_a_lower_one_comes(spine: Spine) -> None:
    spine.take(SECOND, at=MONDAY)
    assert spine.letters() == []
    spine.take(FIRST, at=TUESDAY)
    assert losers(spine) == {model.record_hash(SECOND)}
    known = {row["price"]: (row["known_from"], row["known_to"]) for row in spine.versions()}
    monday, tuesday = (f"2025-12-{day:02}T22:00:00+00:00" for day in (8, 9))
    assert known == {"20.000000": (monday, tuesday), "10.000000": (tuesday, None)}
    (letter,) = spine.letters()
    assert "other content" in letter["reason"]
    assert '"price":"20"' in letter["payload"]


def test_a_loser_that_comes_again_has_one_letter(spine: Spine) -> None:
    captured_apart(spine, FIRST, SECOND, SECOND, FIRST)
    assert len(spine.letters()) == 1
    assert spine.letters(closed=True) == []


def test_a_correction_of_a_loser_s_trade_leaves_its_letter(spine: Spine) -> None:
    captured_apart(spine, FIRST, SECOND, CORRECTION)
    assert stands(spine) == ("correction", "11.000000")
    assert losers(spine) == {model.record_hash(SECOND)}


# --- corrections and cancels -------------------------------------------------------------------


@pytest.mark.parametrize("apart", [True, False])
def test_the_latest_correction_stands(apart: bool, spine: Spine) -> None:
    for rows in in_every_order(spine, ORIGINAL, CORRECTION, LATER_CORRECTION, apart=apart):
        assert stands(spine, rows[0]["trade_id"]) == ("correction", "12.000000")
        assert spine.day(rows[0]["trade_id"])["vwap"] == "12.00000000"
    assert spine.letters() == []


@pytest.mark.parametrize("apart", [True, False])
def test_a_cancel_stands_whatever_is_reported_after_it(apart: bool, spine: Spine) -> None:
    for rows in in_every_order(spine, ORIGINAL, LATER_CORRECTION, CANCEL, apart=apart):
        assert stands(spine, rows[0]["trade_id"])[0] == "cancel"
        assert spine.day(rows[0]["trade_id"])["trade_count"] == 0


@pytest.mark.parametrize("last", [CORRECTION, CANCEL])
def test_what_comes_twice_changes_nothing(last: Row, spine: Spine) -> None:
    captured_apart(spine, ORIGINAL, last)
    before = spine.state()
    spine.take(last, at=WEDNESDAY)
    assert spine.state() == before


@pytest.mark.parametrize("alone", [CORRECTION, CANCEL])
def test_a_correction_or_a_cancel_stands_without_its_original(alone: Row, spine: Spine) -> None:
    spine.take(alone)
    assert stands(spine)[0] == alone["event"]
    assert spine.day()["trade_count"] == (alone is CORRECTION)
    assert spine.letters() == []


def test_an_original_after_its_correction_was_superseded_as_it_arrived(spine: Spine) -> None:
    captured_apart(spine, CORRECTION, ORIGINAL)
    known = {row["event"]: (row["known_from"], row["known_to"]) for row in spine.versions()}
    monday, tuesday = (f"2025-12-{day:02}T22:00:00+00:00" for day in (8, 9))
    assert known == {"correction": (monday, None), "original": (tuesday, tuesday)}


def test_corrections_of_one_moment_go_by_their_sequence(spine: Spine) -> None:
    lower, higher = ({**CORRECTION, "source_seq": seq, "price": seq} for seq in ("9", "10"))
    spine.take(higher, lower)
    assert stands(spine) == ("correction", "10.000000")


# --- the order of captures ---------------------------------------------------------------------


def test_captures_may_be_normalized_in_any_order(spine: Spine) -> None:
    ids = [
        spine.capture(row, at=at)
        for row, at in [(ORIGINAL, MONDAY), (CORRECTION, TUESDAY), (CANCEL, WEDNESDAY)]
    ]
    for capture_id in reversed(ids):
        spine.run("otc_normalize", capture_id=capture_id)
    known = {row["event"]: (row["known_from"], row["known_to"]) for row in spine.versions()}
    monday, tuesday, wednesday = (f"2025-12-{day:02}T22:00:00+00:00" for day in (8, 9, 10))
    assert known == {
        "original": (monday, tuesday),
        "correction": (tuesday, wednesday),
        "cancel": (wednesday, None),
    }


def test_a_capture_of_earlier_that_comes_later_moves_the_beginning(spine: Spine) -> None:
    spine.take(ORIGINAL, at=TUESDAY)
    spine.take(ORIGINAL, at=MONDAY)
    (version,) = spine.versions()
    assert version["known_from"] == "2025-12-08T22:00:00+00:00"
    assert spine.day()["trade_count"] == 1


def test_a_record_normalized_alone_equals_its_part_of_the_capture(spine: Spine) -> None:
    spine.capture(ORIGINAL, CORRECTION, trade("T2"))
    result = spine.run("otc_normalize", raw_id=2)["result"]
    assert (result["read"], result["new_versions"]) == (1, 1)
    assert stands(spine) == ("correction", "11.000000")
    spine.settle()
    assert stands(spine) == ("correction", "11.000000")
    assert {*spine.silver()} == {"T1", "T2"}
