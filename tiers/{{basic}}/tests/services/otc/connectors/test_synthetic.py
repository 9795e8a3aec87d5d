"""Made-up trades: the same seed, the same trades, and all of them keep the rules."""

from market_spine.schema import otc_trades_raw
from tests.support import Spine

RANGE = {"start_date": "2025-11-26", "end_date": "2025-11-30"}
WEEKEND = {"start_date": "2025-11-29", "end_date": "2025-11-30"}  # has no trades


def test_the_same_seed_makes_the_same_trades(spine: Spine) -> None:
    for path in ("7/50", "7/50", "8/50"):
        spine.run("otc_ingest", connector="synthetic", path=path, **RANGE)
    hashes = [row["record_hash"] for row in spine.rows(otc_trades_raw)]
    assert len(hashes) == 3 * 2 * 50, "two trading days, for there is a holiday between"
    assert hashes[:100] == hashes[100:200]
    assert not {*hashes[:100]} & {*hashes[200:]}


def test_made_up_trades_keep_the_rules(spine: Spine) -> None:
    spine.run("otc_ingest", connector="synthetic", path="3/200", **RANGE)
    spine.settle()
    assert spine.letters() == []
    assert len(spine.silver()) == 400
    assert {day for _, day in spine.gold()} == {"2025-11-26", "2025-11-28"}


def test_a_day_is_the_same_whatever_the_range(spine: Spine) -> None:
    day = {"start_date": "2025-11-28", "end_date": "2025-11-28"}
    for dates in (RANGE, day):
        spine.run("otc_ingest", connector="synthetic", path="7/20", **dates)
    hashes = [row["record_hash"] for row in spine.rows(otc_trades_raw)]
    assert hashes[20:40] == hashes[40:]


def test_what_it_cannot_make_it_refuses(spine: Spine) -> None:
    spine.submit("otc_ingest", connector="synthetic", path="x", **RANGE).fails(
        1, "synthetic", "'x'"
    )
    spine.submit("otc_ingest", connector="synthetic", path="7/1000001", **WEEKEND).fails(
        1, "'7/1000001'", "1,000,000"
    )
    spine.run("otc_ingest", connector="synthetic", path="7/1000000", **WEEKEND)
    spine.submit("otc_ingest", connector="synthetic").fails(1, "synthetic", "start_date")
