"""The DBOS backend: queues in the ledger's own Postgres, and no server besides.

DBOS keeps them in a schema of its own, `dbos`, which the first worker makes. A message is an id,
written by the function that DBOS provides for those who submit without its library.
"""

from collections.abc import Sequence
from uuid import UUID

from sqlalchemy import text

from market_spine import database, engines
from market_spine.backends.celery import drain, is_served, resume, serve

__all__ = ["drain", "is_served", "resume", "serve"]  # these are the same for every broker

RANK = -1  # an extra, which is chosen by its name alone
SCHEMES = ("postgresql",)
DEFERS = True

APPLICATION = "market_spine"
PREFIX = "spine."  # of the queues, one a lane
ENQUEUE = text(
    """
SELECT dbos.enqueue_workflow(
    workflow_name => :task,
    queue_name => :queue,
    positional_args => ARRAY[to_json(CAST(:id AS text))],
    application_name => :application
)
"""
).bindparams(task=engines.TASK, application=APPLICATION)


def enqueue(execution_id: UUID, lane: str) -> None:
    """Put an id into a lane's queue; if there is none yet, leave it to the relay."""

    def tell() -> None:
        with database.transaction() as connection:
            connection.execute(ENQUEUE, {"id": execution_id, "queue": PREFIX + lane})

    engines.hand_over(execution_id, lane, tell)


def work(processes: int, lanes: Sequence[str] | None) -> None:
    """Be a worker until a signal ends it."""
    engines.serve("dbos", processes, lanes)
