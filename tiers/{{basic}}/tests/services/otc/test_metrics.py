"""Gold: each metric by hand, what is undefined, and which days are computed when."""

import pytest

from market_spine.schema import otc_metrics_daily, otc_stale_days
from tests.support import Spine
from tests.tape import trade

UNTIL = ("--start", "2025-11-24", "--end", "2025-11-28")


def stale(spine: Spine) -> set[tuple[str, str]]:
    return {(row["symbol"], row["trade_date"]) for row in spine.rows(otc_stale_days)}


def test_a_day_by_hand(spine: Spine) -> None:
    """4 trades that count for all: 100 at 10, 200 at 11, 300 at 12 and 1 at 9.5."""
    spine.take(
        trade("T1", price="10", size="100", side="buy", venue="ALFA", trade_ts=at("15:00:00")),
        trade("T2", price="11", size="200", side="sell", venue="BRVO", trade_ts=at("14:30:00")),
        trade("T3", price="12", size="300", side="buy", venue="ALFA", trade_ts=at("16:00:00")),
        trade("T4", price="9.5", size="1", trade_ts=at("15:30:00")),
        # For volume alone, for prices alone, for nothing.
        trade("T5", price="99", size="10", side="sell", venue="CHRL", conditions="I"),
        trade("T6", price="8", size="500", side="buy", venue="DLTA", conditions="9"),
        trade("T7", price="1", size="500", side="buy", venue="ECHO", conditions="M"),
        trade("T8", price="1", size="500", side="buy", venue="FXTR", event="cancel"),
    )
    # notional: 1000 + 2200 + 3600 + 9.5 + 990 = 7799.5; volume: 611
    # buy 4600 / 400 = 11.5; sell 3190 / 210 = 15.190476...; vwap 12.765139116...
    assert spine.day() == {
        "trade_count": 5,
        "total_volume": "611.000000",
        "total_notional": "7799.500000",
        "vwap": "12.76513912",
        "high_price": "12.000000",
        "low_price": "8.000000",
        "open_price": "11.000000",
        "close_price": "12.000000",
        "range_bps": "3133.5342",
        "buy_vwap": "11.50000000",
        "sell_vwap": "15.19047619",
        "side_spread_bps": "-2891.0583",
        "venue_count": 3,
    }


def at(clock: str, day: str = "2025-11-24") -> str:
    return f"{day}T{clock}Z"


def test_open_and_close_go_by_time_and_then_by_sequence(spine: Spine) -> None:
    spine.take(
        trade("T1", price="1", source_seq="10"),
        trade("T2", price="2", source_seq="9"),
        trade("T3", price="3", source_seq="11"),
        trade("T4", price="4", source_seq="10"),
    )
    day = spine.day()
    assert (day["open_price"], day["close_price"]) == ("2.000000", "3.000000")


def test_a_trade_reported_late_is_in_its_right_place(spine: Spine) -> None:
    spine.take(trade("T2", price="2"))
    late = trade("T1", price="1", trade_ts=at("14:00:00"), reported_at=at("20:00:00"))
    spine.take(late, at="2025-12-09T12:00:00Z")
    assert spine.day()["open_price"] == "1.000000"


@pytest.mark.parametrize(
    ("conditions", "undefined"),
    [
        ("T", {"high_price", "low_price", "open_price", "close_price", "range_bps"}),
        ("9", {"vwap", "range_bps", "buy_vwap"}),
        (
            "M",
            {
                "vwap",
                "high_price",
                "low_price",
                "open_price",
                "close_price",
                "range_bps",
                "buy_vwap",
            },
        ),
        ("@", set()),
    ],
)
def test_what_is_undefined_is_null(conditions: str, undefined: set[str], spine: Spine) -> None:
    spine.take(trade(conditions=conditions, side="buy"))
    one_side = {"sell_vwap", "side_spread_bps"}
    assert {name for name, value in spine.day().items() if value is None} == undefined | one_side


def test_without_sides_there_is_no_spread(spine: Spine) -> None:
    spine.take(trade("T1"), trade("T2"))
    day = spine.day()
    assert (day["buy_vwap"], day["sell_vwap"], day["side_spread_bps"]) == (None, None, None)


def test_equal_sides_have_a_spread_of_nothing(spine: Spine) -> None:
    spine.take(trade("T1", side="buy"), trade("T2", side="sell"))
    assert spine.day()["side_spread_bps"] == "0.0000"


@pytest.mark.parametrize(
    ("sizes", "vwap"),
    [
        # 1 + 2 x 10^-8 x n, by one share of another price in 10^8 / n.
        (("99999999", "1"), "1.00000000"),  # ...000 5: a half goes to the even 0
        (("99999997", "3"), "1.00000002"),  # ...001 5: to the even 2
        (("99999996", "4"), "1.00000002"),
    ],
)
def test_a_vwap_is_rounded_once_and_half_even(
    sizes: tuple[str, str], vwap: str, spine: Spine
) -> None:
    spine.take(
        trade("T1", price="1", size=sizes[0]),
        trade("T2", price="1.5", size=sizes[1]),
    )
    assert spine.day()["vwap"] == vwap


def test_no_digit_of_a_sum_is_lost(spine: Spine) -> None:
    """A float has 15 to 17 digits; here are 19."""
    spine.take(
        trade("T1", price="100", size="9999999999.999999"),
        trade("T2", price="0.000001", size="1"),
    )
    day = spine.day()
    assert day["total_notional"] == "999999999999.999901"
    assert day["total_volume"] == "10000000000.999999"


def test_a_total_beyond_64_bits_fails_and_names_the_day(spine: Spine) -> None:
    rows = [trade(f"T{n}", price="100", size="10000000000") for n in range(10)]
    other = trade("OTHER", symbol="BOLT")
    spine.capture(*rows[:9], other)
    spine.settle()
    assert spine.day()["total_notional"] == "9000000000000.000000"
    before = spine.gold()
    spine.capture(rows[9])
    spine.run("otc_normalize")
    spine.submit("otc_compute_daily_metrics").fails(1, "ACME", "2025-11-24", "9.2")
    assert spine.gold() == before
    assert stale(spine) == {("ACME", "2025-11-24")}, "what was not computed is still to be done"


def test_a_volume_beyond_64_bits_fails_too(spine: Spine) -> None:
    spine.capture(*(trade(f"T{n}", price="0.000001", size="10000000000") for n in range(923)))
    spine.run("otc_normalize")
    spine.submit("otc_compute_daily_metrics").fails(1, "ACME", "2025-11-24")


def test_a_ratio_beyond_64_bits_fails_too(spine: Spine) -> None:
    """10^7 dollars apart, at a vwap of a millionth: 10^17 basis points."""
    spine.capture(
        trade("T1", price="10000000", size="0.000001", conditions="9"),
        trade("T2", price="0.000001", size="10"),
    )
    spine.run("otc_normalize")
    spine.submit("otc_compute_daily_metrics").fails(1, "ACME", "2025-11-24")


# --- which days --------------------------------------------------------------------------------


def test_only_days_that_changed_are_computed(spine: Spine) -> None:
    spine.take(
        trade("T1"),
        trade("T2", symbol="BOLT"),
        trade("T3", trade_ts=at("15:00:00", "2025-11-25")),
    )
    computed = {(r["symbol"], r["date"]): r["computed_at"] for r in spine.rows(otc_metrics_daily)}
    spine.capture(trade("T4", symbol="BOLT"), at="2025-12-09T12:00:00Z")
    spine.run("otc_normalize")
    assert stale(spine) == {("BOLT", "2025-11-24")}
    result = spine.run("otc_compute_daily_metrics")["result"]
    assert result == {"days_computed": 1, "days_removed": 0}
    again = {(r["symbol"], r["date"]): r["computed_at"] for r in spine.rows(otc_metrics_daily)}
    assert {key for key in again if again[key] != computed[key]} == {("BOLT", "2025-11-24")}
    assert spine.run("otc_compute_daily_metrics")["result"]["days_computed"] == 0


@pytest.mark.parametrize(
    "change",
    [
        trade("T9"),
        trade(event="correction", price="11"),
        trade(event="cancel"),
        trade(price="9", reported_at="2025-11-24T00:00:00Z"),  # the lower of two originals
    ],
    ids=["late trade", "correction", "cancel", "lower original"],
)
def test_whatever_changes_a_day_makes_it_stale(change: dict[str, str], spine: Spine) -> None:
    spine.take(trade(), trade("T2", symbol="BOLT"))
    spine.capture(change, at="2025-12-09T12:00:00Z")
    spine.run("otc_normalize")
    assert stale(spine) == {("ACME", "2025-11-24")}


def test_what_changes_nothing_makes_nothing_stale(spine: Spine) -> None:
    spine.take(trade(), trade(event="correction", reported_at=at("16:00:00")))
    spine.capture(trade(), trade("BAD", price="abc"), at="2025-12-09T12:00:00Z")
    spine.run("otc_normalize")
    assert stale(spine) == set()


def test_a_correction_may_move_a_trade_to_another_date(spine: Spine) -> None:
    moved = at("15:00:00", "2025-11-25")
    spine.take(trade(), trade("T2"))
    spine.take(trade(event="correction", trade_ts=moved), at="2025-12-09T12:00:00Z")
    assert {key: day["trade_count"] for key, day in spine.gold().items()} == {
        ("ACME", "2025-11-24"): 1,
        ("ACME", "2025-11-25"): 1,
    }


def test_a_correction_may_move_a_trade_to_another_symbol(spine: Spine) -> None:
    spine.take(trade(), trade("T2"))
    spine.take(trade(event="correction", symbol="BOLT"), at="2025-12-09T12:00:00Z")
    assert {key: day["trade_count"] for key, day in spine.gold().items()} == {
        ("ACME", "2025-11-24"): 1,
        ("BOLT", "2025-11-24"): 1,
    }


def test_a_day_that_its_only_trade_left_is_gone(spine: Spine) -> None:
    spine.take(trade())
    moved = trade(event="correction", trade_ts=at("15:00:00", "2025-11-25"))
    spine.capture(moved, at="2025-12-09T12:00:00Z")
    spine.run("otc_normalize")
    result = spine.run("otc_compute_daily_metrics")["result"]
    assert result == {"days_computed": 1, "days_removed": 1}
    assert {*spine.gold()} == {("ACME", "2025-11-25")}


def test_a_day_whose_trades_are_all_cancelled_stays_with_nothing_in_it(spine: Spine) -> None:
    spine.take(trade(side="buy", venue="ALFA"))
    spine.take(trade(event="cancel", side="buy", venue="ALFA"), at="2025-12-09T12:00:00Z")
    day = spine.day()
    counts = {name: day.pop(name) for name in ("trade_count", "venue_count")}
    totals = {name: day.pop(name) for name in ("total_volume", "total_notional")}
    assert set(counts.values()) == {0}
    assert set(totals.values()) == {"0.000000"}
    assert set(day.values()) == {None}


def test_days_that_are_named_are_computed_whether_stale_or_not(spine: Spine) -> None:
    days = [f"2025-11-{day}" for day in (24, 25, 26)]
    rows = [trade(day, trade_ts=at("15:00:00", day)) for day in days]
    spine.take(*rows, trade("B", symbol="BOLT"))
    before = spine.gold()

    def computed(**params: str) -> int:
        result: int = spine.run("otc_compute_daily_metrics", **params)["result"]["days_computed"]
        return result

    assert computed(symbol="ACME") == 3
    assert computed(start_date="2025-11-25") == 2
    assert computed(symbol="ACME", end_date="2025-11-24") == 1
    assert computed(start_date="2025-11-24", end_date="2025-11-25") == 3
    assert computed(symbol="NONE") == 0
    assert spine.gold() == before


# --- what was known then -----------------------------------------------------------------------


def test_as_of_answers_what_was_known_then(spine: Spine) -> None:
    monday, tuesday, wednesday = (f"2025-12-{day:02}T22:00:00Z" for day in (8, 9, 10))
    spine.take(trade(price="10"), at=monday)
    spine.take(trade(event="correction", price="11"), trade("T2", price="11"), at=tuesday)
    spine.take(trade(event="cancel"), at=wednesday)

    def vwap_at(instant: str) -> list[tuple[int, str | None]]:
        days = spine.json("metrics", "daily", "ACME", *UNTIL, "--as-of", instant)
        return [(day["trade_count"], day["vwap"]) for day in days]

    assert vwap_at("2025-12-08T21:59:59.999999Z") == []
    assert vwap_at(monday) == vwap_at("2025-12-09T21:59:59.999999Z") == [(1, "10.00000000")]
    assert vwap_at(tuesday) == vwap_at("2025-12-09T17:00:00-05:00") == [(2, "11.00000000")]
    assert vwap_at(wednesday) == vwap_at("2030-01-01T00:00:00Z") == [(1, "11.00000000")]
    now = spine.json("metrics", "daily", "ACME", *UNTIL)
    assert [day["vwap"] for day in now] == ["11.00000000"]


def test_as_of_knows_a_day_that_its_only_trade_has_left(spine: Spine) -> None:
    spine.take(trade(), at="2025-12-08T22:00:00Z")
    moved = trade(event="correction", trade_ts=at("15:00:00", "2025-11-25"))
    spine.take(moved, at="2025-12-09T22:00:00Z")

    def days(*as_of: str) -> list[str]:
        return [day["date"] for day in spine.json("metrics", "daily", "ACME", *UNTIL, *as_of)]

    assert days("--as-of", "2025-12-09T00:00:00Z") == ["2025-11-24"]
    assert days("--as-of", "2025-12-10T00:00:00Z") == days() == ["2025-11-25"]
