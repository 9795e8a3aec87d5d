"""Schedules: what is submitted again and again, and when; and beat, which submits it.

A tick is an instant at which a schedule is due, and is submitted under an idempotency key of its
own: however many beats there are, and whatever is killed, it has one execution. Of the ticks that
came while no beat ran, the latest is submitted when one starts, and the others are not.
"""

import logging
import tomllib
from datetime import UTC, datetime, timedelta
from functools import cached_property
from threading import Event
from typing import Any, NamedTuple, Self
from uuid import UUID
from zoneinfo import ZoneInfo

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from sqlalchemy import Connection, func, select

from market_spine import database, dispatcher, pipelines, presence
from market_spine.cron import Cron
from market_spine.errors import IdempotencyKeyError, RequestError, StoreError
from market_spine.ledger import Status
from market_spine.schema import EPOCH, executions
from market_spine.settings import settings
from market_spine.stores.postgresql import process_id

LONGEST_WAIT_SECONDS = 5.0  # before beat says again that it lives
RETRY_SECONDS = 1.0  # before a store that is gone is asked again

log = logging.getLogger(__name__)


class Every(NamedTuple):
    """The multiples of a time since 1970, on which all beats agree."""

    seconds: int

    def latest(self, at: datetime) -> datetime:
        """The last one up to an instant."""
        return at - (at - EPOCH) % timedelta(seconds=self.seconds)

    def following(self, at: datetime) -> datetime:
        """The first one after an instant."""
        return self.latest(at) + timedelta(seconds=self.seconds)


class Submitted(NamedTuple):
    """What was made of a tick."""

    tick: datetime
    execution_id: UUID
    status: Status


class Schedule(BaseModel):
    """One table of the file."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, ignored_types=(cached_property,)
    )

    name: str = Field(pattern="^[A-Za-z0-9_.-]{1,100}$")  # the table's
    pipeline: str
    params: dict[str, Any] = {}
    lane: str | None = Field(None, min_length=1)  # None: the pipeline's
    interval: int | None = Field(None, ge=1, le=366 * 86_400)  # seconds
    cron: str | None = None
    timezone: str | None = None  # of cron; None: UTC

    @field_validator("timezone")
    @classmethod
    def _is_known(cls, name: str | None) -> str | None:
        try:
            ZoneInfo(name or "UTC")
        except (KeyError, ValueError, OSError):
            raise ValueError(f"'{name}' is not a time zone, such as America/New_York") from None
        return name

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if (self.interval is None) == (self.cron is None):
            raise ValueError("needs cron or interval, and not both")
        if self.timezone and self.cron is None:
            raise ValueError("timezone: is for cron; an interval goes by no clock")
        try:
            _ = self.ticks
        except ValueError as error:
            raise ValueError(f"cron: {error}") from None
        return self

    @cached_property
    def ticks(self) -> Cron | Every:
        """When it is due."""
        if self.cron is None:
            return Every(self.interval or 1)
        return Cron.parse(self.cron, ZoneInfo(self.timezone or "UTC"))

    @property
    def when(self) -> str:
        """When it is due, in words."""
        if self.cron is None:
            return f"every {self.interval} s"
        return f"{self.cron} ({self.timezone or 'UTC'})"


def load() -> list[Schedule]:
    """The schedules of the file, in its order; none, if there is no file.

    Raises:
        RequestError: the file is not TOML, or a schedule in it cannot be.
    """
    path = settings().spine_schedules
    try:
        tables = tomllib.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return []
    except OSError as error:
        raise RequestError(f"{path}: cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RequestError(f"{path}: not a TOML file: {error}") from error
    try:
        return [_schedule(name, table) for name, table in tables.items()]
    except RequestError as error:
        raise RequestError(f"{path}: {error}") from error


def _schedule(name: str, table: object) -> Schedule:
    if not isinstance(table, dict):
        raise RequestError(f"'{name}' belongs to no schedule: write it below a [name]")
    if table.get("name", name) != name:
        raise RequestError(f"schedule '{name}': name: is the one that stands above it, in brackets")
    try:
        schedule = Schedule.model_validate({**table, "name": name})
        params = pipelines.find(schedule.pipeline).params
    except ValidationError as error:
        raise RequestError(f"schedule '{name}': {_fault(error)}") from error
    except RequestError as error:
        raise RequestError(f"schedule '{name}': pipeline: {error}") from error
    try:
        params.model_validate(schedule.params)
    except ValidationError as error:
        known = ", ".join(params.model_fields) or "none"
        fault = _fault(error, "params")
        reason = f"{fault} (the params of {schedule.pipeline}: {known})"
        raise RequestError(f"schedule '{name}': {reason}") from error
    return schedule


def _fault(error: ValidationError, *within: str) -> str:
    fault = error.errors()[0]
    where = ".".join([*within, *map(str, fault["loc"])])
    reason = fault["msg"].removeprefix("Value error, ")
    return f"{where}: {reason}" if where else reason


def submitted_last(connection: Connection, schedule: Schedule) -> Submitted | None:
    """The latest of its ticks that has an execution."""
    key, mine = executions.c.idempotency_key, _key(schedule, "")
    found = connection.execute(
        select(key, executions.c.id, executions.c.status)
        .where(key > mine, key < f"{mine}~")
        .order_by(key.desc())
        .limit(1)
    ).first()
    if found is None:
        return None
    return Submitted(datetime.fromisoformat(found[0].removeprefix(mine)), *found[1:])


def _key(schedule: Schedule, tick: str) -> str:
    return f"schedule {schedule.name} {tick}"


def serve(stopping: Event) -> None:
    """Submit what is due, as it becomes due, until `stopping` is set.

    Raises:
        RequestError: the file of schedules is wrong, or the store is not one with many users.
    """
    presence.require_postgres("beat")
    schedules, myself = load(), process_id()
    if not schedules:
        log.warning("%s: there are no schedules", settings().spine_schedules)
    due = {schedule.name: EPOCH for schedule in schedules}
    waits = False
    seconds = 0.0
    while not stopping.wait(seconds):
        try:
            with database.transaction() as connection:
                presence.tell(connection, "beat", myself)
                now = connection.execute(select(func.clock_timestamp())).scalar_one()
            for schedule in schedules:
                if due[schedule.name] <= now:
                    submit(schedule, schedule.ticks.latest(now))
                    due[schedule.name] = schedule.ticks.following(now)
            waits = False
            ahead = [(tick - now).total_seconds() for tick in due.values()]
            seconds = min([LONGEST_WAIT_SECONDS, *ahead])
        except StoreError as error:
            if not waits:
                log.warning("beat waits for the store: %s", error)
            waits, seconds = True, RETRY_SECONDS
    presence.leave(myself)


def submit(schedule: Schedule, tick: datetime) -> None:
    """Submit a tick, unless that has been done.

    What it claims may be in use, maybe by the tick before it: then it waits its turn.
    """
    try:
        dispatcher.submit(
            schedule.pipeline,
            schedule.params,
            schedule.lane,
            "schedule",
            idempotency_key=_key(schedule, tick.astimezone(UTC).isoformat()),
            on_conflict="queue",
        )
    except IdempotencyKeyError:
        pass  # it was, before the file was changed
    except RequestError as error:
        log.warning("schedule '%s': %s", schedule.name, error)
