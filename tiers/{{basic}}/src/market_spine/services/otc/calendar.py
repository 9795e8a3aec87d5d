"""Days: the New York date of an instant, and the trading days of the New York Stock Exchange."""

from collections.abc import Iterator
from datetime import date, datetime, timedelta
from functools import cache, lru_cache
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

if TYPE_CHECKING:
    from holidays.financial.ny_stock_exchange import NewYorkStockExchange

NEW_YORK = ZoneInfo("America/New_York")


def new_york_date(instant: datetime) -> date:
    """The date in New York at an instant given in UTC.

    New York's offset is whole hours and changes on the hour, so one look-up serves a whole hour.
    """
    return _date_of_hour(instant.replace(minute=0, second=0, microsecond=0))


@lru_cache(maxsize=4096)
def _date_of_hour(hour: datetime) -> date:
    return hour.astimezone(NEW_YORK).date()


@cache
def _holidays() -> "NewYorkStockExchange":
    from holidays.financial.ny_stock_exchange import NewYorkStockExchange  # slow, seldom needed

    return NewYorkStockExchange()  # type: ignore[no-untyped-call]


def is_trading_day(day: date) -> bool:
    """Whether the exchange trades on that day, if only for half of it."""
    return day.weekday() < 5 and day not in _holidays()


def trading_days(start: date, end: date) -> Iterator[date]:
    """The trading days from start to end, both included."""
    day = start
    while day <= end:
        if is_trading_day(day):
            yield day
        day += timedelta(days=1)


def previous_trading_day(day: date) -> date:
    """The last trading day before a day."""
    day -= timedelta(days=1)
    while not is_trading_day(day):
        day -= timedelta(days=1)
    return day
