"""Cron expressions: the instants that fit one, by the clocks of a time zone.

Five fields: minute, hour, day of the month, month, day of the week (0 to 7 or sun to sat). Each is
`*`, a number, a range `a-b`, one of the latter two with `/step`, or several of these with commas. A
day has to fit both of its fields; if neither begins with `*`, one of them is enough.

Where the clocks are put forward, what they skip comes as much later; where they are put back, what
they show twice comes the first time only.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Self
from zoneinfo import ZoneInfo

DAY = timedelta(days=1)
MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
WEEKDAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
# What a field counts, its first and last number, and the names that the first ones have.
FIELDS: tuple[tuple[str, int, int, tuple[str, ...]], ...] = (
    ("minute", 0, 59, ()),
    ("hour", 0, 23, ()),
    ("day of the month", 1, 31, ()),
    ("month", 1, 12, MONTHS),
    ("day of the week", 0, 7, WEEKDAYS),
)
PART = re.compile(r"(?:\*|([0-9a-z]+)-([0-9a-z]+))(?:/([1-9][0-9]{0,3}))?|([0-9a-z]+)")
CYCLE = range(29 * 366)  # days: after 28 years the calendar comes again, leap days and all


@dataclass(frozen=True, kw_only=True)
class Cron:
    """What fits an expression."""

    minutes: frozenset[int]
    hours: frozenset[int]
    days: frozenset[int]
    months: frozenset[int]
    weekdays: frozenset[int]  # 0 is Sunday
    one_is_enough: bool  # of the day of the month and that of the week
    zone: ZoneInfo

    @classmethod
    def parse(cls, expression: str, zone: ZoneInfo) -> Self:
        """Read an expression.

        Raises:
            ValueError: it is none, or no day fits it.
        """
        texts = expression.lower().split()
        if len(texts) != len(FIELDS):
            names = ", ".join(name for name, *_ in FIELDS)
            raise ValueError(f"'{expression}' has {len(texts)} fields, and not five: {names}")
        minutes, hours, days, months, weekdays = map(_numbers, FIELDS, texts)
        found = cls(
            minutes=minutes,
            hours=hours,
            days=days,
            months=months,
            weekdays=frozenset(day % 7 for day in weekdays),
            one_is_enough=not (texts[2].startswith("*") or texts[4].startswith("*")),
            zone=zone,
        )
        if not any(found._fits(date(2000, 1, 1) + DAY * number) for number in CYCLE):
            raise ValueError(f"'{expression}' fits no day of any year")
        return found

    def latest(self, at: datetime) -> datetime:
        """The last instant up to this one that fits, in UTC."""
        return max(self._near(at, -DAY, lambda instant: instant <= at))

    def following(self, at: datetime) -> datetime:
        """The first instant after this one that fits, in UTC."""
        return min(self._near(at, DAY, lambda instant: instant > at))

    def _near(
        self, at: datetime, step: timedelta, wanted: Callable[[datetime], bool]
    ) -> list[datetime]:
        """What is wanted of the first day that has any of it."""
        # Where the clocks change at midnight, what is wanted may be on the far side of it.
        day = at.astimezone(self.zone).date() - step
        while True:
            found = [instant for instant in self._instants(day) if wanted(instant)]
            if found:
                return found
            day += step

    def _instants(self, day: date) -> list[datetime]:
        if not self._fits(day):
            return []
        times = [time(hour, minute) for hour in self.hours for minute in self.minutes]
        return [datetime.combine(day, clock, self.zone).astimezone(UTC) for clock in times]

    def _fits(self, day: date) -> bool:
        in_month, in_week = day.day in self.days, day.isoweekday() % 7 in self.weekdays
        fits = in_month or in_week if self.one_is_enough else in_month and in_week
        return fits and day.month in self.months


def _numbers(field: tuple[str, int, int, tuple[str, ...]], text: str) -> frozenset[int]:
    name, first, last, names = field

    def number(word: str) -> int:
        if word in names:
            return names.index(word) + first
        if not (word.isdecimal() and len(word) <= 2 and first <= int(word) <= last):
            also = f" or one of {', '.join(names)}" if names else ""
            raise ValueError(f"{name}: '{word}' is not a number from {first} to {last}{also}")
        return int(word)

    found: set[int] = set()
    for part in text.split(","):
        match = PART.fullmatch(part)
        if match is None:
            raise ValueError(
                f"{name}: '{part}' is not *, a number, a range a-b, */step or a-b/step"
            )
        low, high, step, only = match.groups()
        if only:
            found.add(number(only))
            continue
        begin, end = (number(low), number(high)) if low else (first, last)
        if begin > end:
            raise ValueError(f"{name}: the range '{part}' ends before it begins")
        found.update(range(begin, end + 1, int(step or 1)))
    return frozenset(found)
