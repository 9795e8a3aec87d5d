"""The processes that carry executions out, hand them on or begin them, by what they said last."""

from datetime import datetime
from typing import Literal, NamedTuple

from sqlalchemy import Connection, delete, func, select, text

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
    is_alive: bool


def tell(connection: Connection, role: Role, process_id: str) -> None:
    """Say that a process lives."""
    connection.execute(TELL, {"id": process_id, "role": role})


def leave(connection: Connection, process_id: str) -> None:
    """Say that a process ends, and forget those that ended long ago without saying so."""
    long_ago = func.clock_timestamp() - func.make_interval(0, 0, 0, 0, 0, 0, FORGOTTEN_SECONDS)
    connection.execute(
        delete(processes).where(
            (processes.c.id == process_id) | (processes.c.seen_at < long_ago),
        )
    )


def seen(connection: Connection, role: Role | None = None) -> list[Process]:
    """The processes of a role, or of all, and whether each has been heard of lately."""
    since = func.clock_timestamp() - func.make_interval(0, 0, 0, 0, 0, 0, ALIVE_SECONDS)
    chosen = select(processes, (processes.c.seen_at > since).label("is_alive"))
    if role is not None:
        chosen = chosen.where(processes.c.role == role)
    rows = connection.execute(chosen.order_by(processes.c.role, processes.c.id))
    return [Process(**row._mapping) for row in rows]
