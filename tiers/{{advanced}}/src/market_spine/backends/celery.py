"""The Celery backend: workers in any number of processes and places, told of work through Redis.

The message is an id, and the ledger knows the rest. A broker that is down, slow or emptied delays
an execution and never loses it: what it was not told, the relay will tell it.
"""

import logging
import time
from collections.abc import Sequence
from uuid import UUID

from kombu.exceptions import OperationalError
from sqlalchemy import Connection, update

from market_spine import database
from market_spine.celery_app import send
from market_spine.schema import executions

RANK = 20
SCHEMES = ("postgresql",)  # the others have no workers beside the one process that writes
DEFERS = True

SPARED_SECONDS = 5.0  # for which a broker that has just failed is left alone, so that nobody waits

log = logging.getLogger(__name__)
_failed_at = float("-inf")


def enqueue(execution_id: UUID, lane: str) -> None:
    """Tell the workers of a lane; if the broker cannot be reached, leave it to the relay."""
    global _failed_at
    if time.monotonic() - _failed_at > SPARED_SECONDS:
        try:
            send(execution_id, lane)
        except OperationalError as error:
            log.warning("the broker cannot be reached: %s", error)
            _failed_at = time.monotonic()
        else:
            return
    with database.transaction() as connection:
        connection.execute(
            update(executions)
            .where(executions.c.id == execution_id, executions.c.status == "queued")
            .values(dispatched_at=None)
        )


def resume() -> None:
    """What a process that died has left behind is taken back by the relay."""


def serve() -> None:
    """`spine worker` does."""


def work(processes: int, lanes: Sequence[str] | None) -> None:
    """Be a worker until a signal ends it."""
    from market_spine import worker

    worker.serve(processes, lanes)


def drain(_seconds: float | None) -> None:
    """Nothing is carried out in this process."""


def is_served(_connection: Connection) -> bool:
    """What is submitted is safe; `/readyz/worker` tells whether somebody is at it."""
    return True
