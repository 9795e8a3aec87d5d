"""spine metrics and spine trades: what they print."""

from tests.cli.conftest import columns
from tests.support import Spine

DAY = ("--start", "2025-11-24", "--end", "2025-11-24")


def test_metrics_are_decimals_as_strings(filled: Spine) -> None:
    (day,) = filled.json("metrics", "daily", "ACME", *DAY)
    assert day.pop("computed_at")
    assert day == {"symbol": "ACME", "date": "2025-11-24", **filled.day()}
    assert day["total_notional"] == "2150.000000"
    assert day["side_spread_bps"] is None
    heading, row = columns(filled.ok("metrics", "daily", "ACME", *DAY).out)
    cells = dict(zip(heading, row, strict=True))
    assert cells["date"] == "2025-11-24"
    assert (cells["notional"], cells["vwap"]) == ("2,150.000000", "10.75000000")
    assert cells["spread bps"] == "-"


def test_trades_are_listed_in_the_order_of_time(filled: Spine) -> None:
    found = filled.json("trades", "ACME", *DAY)
    assert [row["trade_id"] for row in found] == ["T1", "T2"]
    assert found[0]["price"] == "10.500000"
    assert [row["trade_id"] for row in filled.json("trades", "ACME", *DAY, "--limit", 1)] == ["T1"]
    heading, first, _ = columns(filled.ok("trades", "ACME", *DAY).out)
    cells = dict(zip(heading, first, strict=True))
    assert cells["time (UTC)"] == "2025-11-24 15:00:00.000000Z"
    assert (cells["trade"], cells["side"], cells["venue"]) == ("T1", "buy", "ALFA")
    assert cells["conditions"] == "form_t"
