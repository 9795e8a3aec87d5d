"""Cron expressions: the instants that fit one, by the clocks of a time zone.

As Debian's cron has it: a day has to fit both of its fields, or one of them if neither begins with
`*`; a time that the clocks skip comes when they go on, and one that they show twice comes once,
unless its hour or its minute is `*`.
"""

from datetime import UTC, datetime, timedelta
from typing import NamedTuple, Self
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

FIELDS = "minute, hour, day of the month, month, day of the week"
# Far enough to come upon an instant from the other side of an hour that the clocks show twice.
AROUND = timedelta(hours=3)


class Cron(NamedTuple):
    """What fits an expression."""

    expression: str
    zone: ZoneInfo

    @classmethod
    def parse(cls, expression: str, zone: ZoneInfo) -> Self:
        """Read an expression.

        Raises:
            ValueError: it is none, or no day fits it.
        """
        if len(expression.split()) != len(FIELDS.split(", ")):
            raise ValueError(f"'{expression}' does not have five fields: {FIELDS}")
        found = cls(expression, zone)
        try:
            found.following(datetime.now(UTC))
        except CronSimError as error:
            raise ValueError(f"'{expression}': {str(error).lower()}") from error
        except StopIteration:
            raise ValueError(f"'{expression}' fits no day of the years to come") from None
        return found

    def latest(self, at: datetime) -> datetime:
        """The last instant up to this one that fits, in UTC."""
        back = CronSim(self.expression, (at + AROUND).astimezone(self.zone), reverse=True)
        return next(tick for tick in back if tick <= at).astimezone(UTC)

    def following(self, at: datetime) -> datetime:
        """The first instant after this one that fits, in UTC."""
        ahead = CronSim(self.expression, (at - AROUND).astimezone(self.zone))
        return next(tick for tick in ahead if tick > at).astimezone(UTC)
