"""Cron expressions, against a clock that is watched minute by minute."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from functools import cache
from itertools import takewhile
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from market_spine.cron import Cron
from market_spine.schedule import Every

MINUTE = timedelta(minutes=1)
# Where clocks change, and from when they are watched.
CHANGES = {
    "UTC": "2025-02-26",
    "America/New_York": "2025-03-07",
    "US/Eastern": "2025-10-31",
    "Australia/Lord_Howe": "2025-04-04",  # half an hour
    "America/Havana": "2025-03-07",  # at midnight, from 0:00 to 1:00
    "Cuba": "2025-10-31",  # and back to it
    "America/Nuuk": "2025-03-28",  # at 23:00, to midnight
    "America/St_Johns": "2010-11-05",  # at 0:01, back to 23:01
    "Pacific/Apia": "2011-12-28",  # had no 30th of December
}
WATCHED = timedelta(days=5)


@cache
def watched(zone: str) -> list[tuple[datetime, datetime]]:
    """What a clock shows for the first time, or skips and would have shown, and when."""
    begin = datetime.fromisoformat(f"{CHANGES[zone]}T00:00+00:00")
    found: list[tuple[datetime, datetime]] = []
    shown: set[datetime] = set()
    before = begin.astimezone(ZoneInfo(zone)).replace(tzinfo=None) - MINUTE
    for number in range(WATCHED // MINUTE):
        at = begin + MINUTE * number
        clock = at.astimezone(ZoneInfo(zone)).replace(tzinfo=None, fold=0)
        skipped = (clock - before) // MINUTE - 1
        found += [(at + MINUTE * n, before + MINUTE * (n + 1)) for n in range(skipped)]
        if clock not in shown:
            found.append((at, clock))
        shown.add(clock)
        before = clock
    return found


def numbers(first: int, last: int) -> st.SearchStrategy[tuple[str, frozenset[int]]]:
    """A field as text, and what it means."""
    one = st.integers(first, last)
    every = frozenset(range(first, last + 1))
    ranges = st.tuples(one, one, st.integers(1, 9)).map(lambda t: (*sorted(t[:2]), t[2]))
    return st.one_of(
        st.just(("*", every)),
        st.integers(1, 20).map(lambda n: (f"*/{n}", frozenset(range(first, last + 1, n)))),
        st.lists(one, min_size=1).map(lambda ns: (",".join(map(str, ns)), frozenset(ns))),
        ranges.map(lambda r: (f"{r[0]}-{r[1]}", frozenset(range(r[0], r[1] + 1)))),
        ranges.map(lambda r: (f"{r[0]}-{r[1]}/{r[2]}", frozenset(range(r[0], r[1] + 1, r[2])))),
    )


def mostly_every(first: int, last: int) -> st.SearchStrategy[tuple[str, frozenset[int]]]:
    every = st.just(("*", frozenset(range(first, last + 1))))
    return st.one_of(every, every, every, numbers(first, last))


# Few minutes of an hour, so that all that fits can be walked through.
MINUTES = st.sets(st.integers(0, 59), min_size=1, max_size=2).map(
    lambda found: (",".join(map(str, found)), frozenset(found))
)
DATES = st.tuples(mostly_every(1, 31), mostly_every(1, 12), mostly_every(0, 7))


@given(st.sampled_from([*CHANGES]), MINUTES, mostly_every(0, 23), DATES)
def test_instants_are_those_at_which_a_clock_shows_what_fits(
    zone: str,
    minute: tuple[str, frozenset[int]],
    hour: tuple[str, frozenset[int]],
    dates: tuple[tuple[str, frozenset[int]], ...],
) -> None:
    texts, (minutes, hours, days, months, weekdays) = zip(minute, hour, *dates, strict=True)
    enough = any if "*" not in texts[2][0] + texts[4][0] else all

    def fits(clock: datetime) -> bool:
        of_day = (clock.day in days, {clock.isoweekday(), clock.isoweekday() % 7} & weekdays)
        in_day = clock.minute in minutes and clock.hour in hours
        return in_day and clock.month in months and enough(map(bool, of_day))

    expected = sorted({instant for instant, clock in watched(zone) if fits(clock)})
    try:
        cron = Cron.parse(" ".join(texts), ZoneInfo(zone))
    except ValueError:
        assert not expected
        return
    begin = watched(zone)[0][0]
    end = begin + WATCHED - MINUTE
    forward = list(takewhile(lambda at: at <= end, walk(cron.following, begin - MINUTE / 60)))
    assert forward == expected
    back = walk(lambda at: cron.latest(at - MINUTE / 60), end + MINUTE / 60)
    assert [*takewhile(lambda at: at >= begin, back)] == expected[::-1]


def walk(step: Callable[[datetime], datetime], at: datetime) -> Iterator[datetime]:
    while True:
        at = step(at)
        yield at


@pytest.mark.parametrize(
    ("expression", "zone", "at", "latest", "following"),
    [
        ("0 0 29 2 *", "UTC", "2099-01-01", "2096-02-29", "2104-02-29"),
        ("0 0 29 2 */7", "UTC", "2026-01-01", "2004-02-29", "2032-02-29"),  # a Sunday
        ("0 0 13 * fri", "UTC", "2025-06-13", "2025-06-13", "2025-06-20"),
        ("0 0 1 JAN,jul *", "UTC", "2025-05-05", "2025-01-01", "2025-07-01"),
        (
            "30 16 * * mon-fri",
            "America/New_York",
            "2025-11-23",
            "2025-11-21T21:30",
            "2025-11-24T21:30",
        ),
        ("30 2 9 3 *", "America/New_York", "2025-03-10", "2025-03-09T07:30", "2026-03-09T06:30"),
        ("30 1 2 11 *", "America/New_York", "2025-11-03", "2025-11-02T05:30", "2026-11-02T06:30"),
        ("30 23 * * *", "America/Nuuk", "2025-03-30T01:20", "2025-03-29T01:30", "2025-03-30T01:30"),
        (
            "0 0 * * *",
            "America/St_Johns",
            "2010-11-07T03:00",
            "2010-11-07T02:30",
            "2010-11-08T03:30",
        ),
        ("0 12 30 12 *", "Pacific/Apia", "2012-01-01", "2011-12-30T22:00", "2012-12-29T22:00"),
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
        ("", "0 fields"),
        ("@daily", "1 fields"),
        ("0 0 * * * *", "6 fields"),
        ("60 * * * *", "minute: '60'"),
        ("* 24 * * *", "hour: '24'"),
        ("* * 0 * *", "day of the month: '0'"),
        ("* * * 13 *", "month: '13' is not a number from 1 to 12 or one of jan"),
        ("* * * * 8", "day of the week: '8'"),
        ("* * * * monday", "'monday'"),
        ("* * mon * *", "day of the month: 'mon'"),
        ("*/0 * * * *", r"'\*/0'"),
        ("5/10 * * * *", "'5/10'"),
        ("*/5x * * * *", r"'\*/5x'"),
        ("1-2-3 * * * *", "'1-2-3'"),
        ("9-5 * * * *", "'9-5' ends before it begins"),
        ("1,,2 * * * *", "''"),
        ("-1 * * * *", "'-1'"),
        ("\u0661 * * * *", "'\u0661'"),
        ("0 0 30 2 *", "fits no day"),
        ("0 0 31 4,6,9,11 *", "fits no day"),
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
