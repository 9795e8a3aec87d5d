"""The processes that carry executions out, hand them on or begin them, by what they said last."""

from contextlib import suppress
from datetime import datetime
from typing import Literal, NamedTuple

from sqlalchemy import ColumnElement, Connection, delete, func, select, text

from market_spine import database
from market_spine.errors import RequestError, StoreError
from market_spine.schema import processes

Role = Literal["worker", "relay", "beat"]

ALIVE_SECONDS = 30.0  # after which a process that has said nothing is taken to be gone
FORGOTTEN_SECONDS = 86_400.0

TELL = text(
    """
INSERT INTO processes (id, role, started_at, seen_at)
VALUES (:id, :role, clock_timestamp(), clock_timestamp())
ON CONFLICT (id) DO UPDATE SET seen_at = clock_timestamp()
"""
)


class Process(NamedTuple):
    """A process, as it was seen last."""

    id: str  # its host and its number there
    role: Role
    started_at: datetime
    seen_at: datetime


def require_postgres(who: str) -> None:
    """Refuse a store in which no processes but one are known.

    Raises:
        RequestError: it is one.
    """
    if database.store().SCHEME != "postgresql":
        raise RequestError(f"{who} needs Postgres: unset DATABASE_URL, or name one there")


def tell(connection: Connection, role: Role, process_id: str) -> None:
    """Say that a process lives."""
    connection.execute(TELL, {"id": process_id, "role": role})


def leave(process_id: str) -> None:
    """Say that a process ends, and forget those that ended long ago without saying so.

    Without the store it is left unsaid: who says nothing is taken to be gone.
    """
    gone = (processes.c.id == process_id) | (processes.c.seen_at < _ago(FORGOTTEN_SECONDS))
    with suppress(StoreError), database.transaction() as connection:
        connection.execute(delete(processes).where(gone))


def alive(connection: Connection, role: Role | None = None) -> list[Process]:
    """The processes of a role, or of all, that have been heard of lately."""
    chosen = select(processes).where(processes.c.seen_at > _ago(ALIVE_SECONDS))
    if role is not None:
        chosen = chosen.where(processes.c.role == role)
    rows = connection.execute(chosen.order_by(processes.c.role, processes.c.id))
    return [Process(**row._mapping) for row in rows]


def _ago(seconds: float) -> ColumnElement[datetime]:
    return func.clock_timestamp() - func.make_interval(0, 0, 0, 0, 0, 0, seconds)
