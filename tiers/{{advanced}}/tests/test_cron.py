"""Ticks: each has one that follows and one that was latest, also where the clocks change."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from market_spine.cron import Cron
from market_spine.schedule import Every

QUARTER = timedelta(minutes=15)
# Where clocks change, by hours as everywhere but on Lord Howe Island, and around when.
CHANGES = {
    "UTC": "2025-02-28",
    "America/New_York": "2025-03-09",
    "US/Eastern": "2025-11-02",
    "America/Havana": "2025-03-09",  # at midnight, from 0:00 to 1:00
    "Cuba": "2025-11-02",  # and back to it
    "America/Nuuk": "2025-03-30",  # at 23:00, to midnight
    "America/St_Johns": "2010-11-07",  # at 0:01, back to 23:01
}
EXPRESSIONS = (
    *("* * * * *", "*/20 * * * *", "30 * * * *", "*/30 1 * * *", "30 1 * * *", "15,45 2 * * *"),
    *("0 0 * * *", "1 0,23 * * *", "30 2 * * sun", "0 0 1 * mon", "59 23 28-31 * *"),
)


@pytest.mark.parametrize("expression", EXPRESSIONS)
@pytest.mark.parametrize("zone", CHANGES)
def test_whoever_looks_agrees_on_the_ticks(zone: str, expression: str) -> None:
    """Else two beats, or one that was started again, would submit twice, or leave one out."""
    cron = Cron.parse(expression, ZoneInfo(zone))
    begin = datetime.fromisoformat(f"{CHANGES[zone]}T00:00+00:00")
    for at in (begin + QUARTER * number for number in range(-12, 44)):
        latest, following = cron.latest(at), cron.following(at)
        assert latest <= at < following
        assert cron.following(latest) == following
        assert cron.latest(following) == following
        assert cron.latest(following - timedelta(microseconds=1)) == latest


@pytest.mark.parametrize(
    ("expression", "zone", "at", "latest", "following"),
    [
        ("0 0 29 2 *", "UTC", "2099-01-01", "2096-02-29", "2104-02-29"),
        ("0 0 13 * fri", "UTC", "2025-06-13", "2025-06-13", "2025-06-20"),  # one is enough
        ("0 0 1-7 * */7", "UTC", "2025-06-13", "2025-06-01", "2025-07-06"),  # both
        ("0 0 1 JAN,jul *", "UTC", "2025-05-05", "2025-01-01", "2025-07-01"),
        (
            "30 16 * * mon-fri",
            "America/New_York",
            "2025-11-23",
            "2025-11-21T21:30",
            "2025-11-24T21:30",
        ),
        # Skipped, and shown twice.
        ("30 2 9 3 *", "America/New_York", "2025-03-10", "2025-03-09T07:00", "2026-03-09T06:30"),
        ("30 1 2 11 *", "America/New_York", "2025-11-03", "2025-11-02T05:30", "2026-11-02T06:30"),
        (
            "*/30 * * * *",
            "America/New_York",
            "2025-11-02T06:10",
            "2025-11-02T06:00",
            "2025-11-02T06:30",
        ),
        ("0 12 30 12 *", "Pacific/Apia", "2012-01-01", "2011-12-30T10:00", "2012-12-29T22:00"),
    ],
)
def test_days_that_are_rare_and_clocks_that_change(
    expression: str, zone: str, at: str, latest: str, following: str
) -> None:
    cron = Cron.parse(expression, ZoneInfo(zone))
    instant = datetime.fromisoformat(at).replace(tzinfo=UTC)
    assert cron.latest(instant) == datetime.fromisoformat(latest).replace(tzinfo=UTC)
    assert cron.following(instant) == datetime.fromisoformat(following).replace(tzinfo=UTC)


@pytest.mark.parametrize(
    ("expression", "reason"),
    [
        ("", "five fields"),
        ("@daily", "five fields"),
        ("0 0 * * * *", "five fields"),
        ("60 * * * *", "bad minute"),
        ("* 24 * * *", "bad hour"),
        ("* * mon * *", "bad day-of-month"),
        ("* * * 13 *", "bad month"),
        ("* * * * monday", "bad day-of-week"),
        ("*/0 * * * *", "bad minute"),
        ("9-5 * * * *", "bad minute"),
        ("1,,2 * * * *", "bad minute"),
        ("0 0 31 4,6,9,11 *", "bad day-of-month"),
    ],
)
def test_what_is_no_expression_is_refused(expression: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        Cron.parse(expression, ZoneInfo("UTC"))


@given(
    st.integers(1, 40 * 86_400),
    st.datetimes(datetime(1970, 1, 1), datetime(2199, 1, 1), timezones=st.just(UTC)),
)
def test_an_interval_has_its_multiples_since_1970(seconds: int, at: datetime) -> None:
    microseconds = (at - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)
    expected = microseconds // 10**6 // seconds * seconds
    latest, following = Every(seconds).latest(at), Every(seconds).following(at)
    assert latest.timestamp() == expected
    assert following.timestamp() == expected + seconds
