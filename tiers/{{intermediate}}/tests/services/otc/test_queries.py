"""Pages of trades, in every store."""

from datetime import date
from typing import Any

from market_spine import database
from market_spine.services.otc import queries
from tests.support import Spine
from tests.tape import trade

FIRST, LAST = date(2025, 11, 24), date(2025, 11, 26)


def page(limit: int, after: dict[str, Any] | None = None) -> list[dict[str, Any]]:
    """The trades behind one."""
    order = ("trade_date", "trade_ts", "source_seq", "version_id")
    place: Any = tuple(after[name] for name in order) if after else None
    with database.snapshot() as connection:
        return [*queries.trades(connection, "ACME", FIRST, LAST, limit=limit, after=place)]


def test_a_page_begins_behind_any_trade(spine: Spine) -> None:
    """Also where days, times and numbers are equal."""
    spine.take(
        *(
            trade(f"{day}-{time}-{n}", trade_ts=f"2025-11-{day}T{time}Z", source_seq=str(n // 2))
            for day in (24, 25, 26)
            for time in ("15:00:00", "15:00:00.000001")
            for n in range(4)
        ),
        trade("elsewhere", symbol="BOLT"),
    )
    whole = page(100)
    assert len(whole) == 24
    for index, last in enumerate(whole):
        assert page(5, last) == whole[index + 1 : index + 6]
