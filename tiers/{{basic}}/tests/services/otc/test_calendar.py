"""Days: the New York date around midnight and at changes of the clock, and the trading days."""

from datetime import UTC, date, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from market_spine.services.otc.calendar import (
    NEW_YORK,
    is_trading_day,
    new_york_date,
    previous_trading_day,
    trading_days,
)
from tests.support import Spine
from tests.tape import trade

DATES = {
    # Winter: New York's day starts at 5:00 UTC.
    "2025-11-24T23:59:59.999999Z": "2025-11-24",
    "2025-11-25T00:00:00Z": "2025-11-24",
    "2025-11-25T04:59:59.999999Z": "2025-11-24",
    "2025-11-25T05:00:00Z": "2025-11-25",
    # Summer: at 4:00 UTC.
    "2025-07-01T03:59:59.999999Z": "2025-06-30",
    "2025-07-01T04:00:00Z": "2025-07-01",
    # The clock goes forward on 2025-03-09 at 7:00 UTC.
    "2025-03-09T04:59:59Z": "2025-03-08",
    "2025-03-09T05:00:00Z": "2025-03-09",
    "2025-03-10T03:59:59Z": "2025-03-09",
    "2025-03-10T04:00:00Z": "2025-03-10",
    # And back on 2025-11-02 at 6:00 UTC.
    "2025-11-02T03:59:59Z": "2025-11-01",
    "2025-11-02T04:00:00Z": "2025-11-02",
    "2025-11-03T04:59:59Z": "2025-11-02",
    "2025-11-03T05:00:00Z": "2025-11-03",
    # Whatever zone the text is in.
    "2025-11-24T23:30:00-05:00": "2025-11-24",
    "2025-11-25T13:30:00+09:00": "2025-11-24",
    "2025-11-25T10:29:00+05:30": "2025-11-24",
    "2025-11-25T10:30:00+05:30": "2025-11-25",
    # The ends of what is accepted, the first before its own year in New York.
    "1970-01-01T00:00:00Z": "1969-12-31",
    "2199-12-31T23:59:59Z": "2199-12-31",
}


def test_trade_date_is_the_date_in_new_york(spine: Spine) -> None:
    rows = [trade(text, trade_ts=text) for text in DATES]
    spine.take(*rows)
    assert {text: row["trade_date"] for text, row in spine.silver().items()} == DATES
    assert {day for _, day in spine.gold()} == {*DATES.values()}


@given(
    st.datetimes(
        datetime(1970, 1, 1),
        datetime(2199, 12, 31),
        timezones=st.just(UTC),
    )
)
def test_new_york_date_is_that_of_the_zone_itself(instant: datetime) -> None:
    assert new_york_date(instant) == instant.astimezone(NEW_YORK).date()


@pytest.mark.parametrize(
    ("day", "trades"),
    [
        ("2025-11-24", True),
        ("2025-11-27", False),  # Thanksgiving
        ("2025-11-28", True),  # the half day after it
        ("2025-11-29", False),  # a Saturday
        ("2025-12-25", False),
        ("2026-01-01", False),
        ("2022-06-20", False),  # Juneteenth, on the Monday after
        ("2021-06-18", True),  # before it was a holiday of the exchange
        ("2025-01-09", False),  # a day of mourning
        ("2001-09-11", False),
        ("2012-10-29", False),  # a hurricane
    ],
)
def test_trading_days_are_those_of_the_exchange(day: str, trades: bool) -> None:
    assert is_trading_day(date.fromisoformat(day)) is trades


def test_trading_days_of_a_range_include_both_ends() -> None:
    days = [*trading_days(date(2025, 11, 26), date(2025, 12, 1))]
    assert days == [date(2025, 11, 26), date(2025, 11, 28), date(2025, 12, 1)]
    assert [*trading_days(date(2025, 11, 29), date(2025, 11, 30))] == []


def test_previous_trading_day_skips_weekends_and_holidays() -> None:
    assert previous_trading_day(date(2025, 12, 1)) == date(2025, 11, 28)
    assert previous_trading_day(date(2025, 11, 28)) == date(2025, 11, 26)
    assert previous_trading_day(date(2025, 11, 25)) == date(2025, 11, 24)
