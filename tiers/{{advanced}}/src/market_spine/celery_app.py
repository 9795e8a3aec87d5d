"""The Celery app: one task, which is given the id of an execution.

Celery carries messages and keeps processes. What ran, runs or failed is for the ledger to say, so
that no results are kept, and for the relay to repair, so that nothing is retried or timed here.
"""

import logging
import os
from functools import cache
from uuid import UUID

# A worker that is told to end finishes what it runs; it must be said before Celery is imported.
os.environ.setdefault("REMAP_SIGTERM", "SIGQUIT")

from celery import Celery

from market_spine import broker
from market_spine.errors import StoreError
from market_spine.settings import settings

HARD_LIMIT_SECONDS = 6 * 3600  # a run that takes longer hangs
# After this long, Redis hands a message that nobody has acknowledged to another worker. It would be
# turned away by the claim; recovery is for the lease, which is quicker.
VISIBILITY_SECONDS = HARD_LIMIT_SECONDS + 3600
BROKER_SECONDS = 2.0  # for Redis to connect, or to answer
PREFIX = "spine."  # of the queues, one a lane

TASK = "run_pipeline"

log = logging.getLogger(__name__)


@cache
def app() -> Celery:
    """The app of this process."""
    made = Celery("market_spine", set_as_current=False)
    made.conf.update(
        broker_url=broker.url(),
        broker_connection_retry_on_startup=True,
        # No thread of the API waits for the connection of another, each of which may take its time.
        broker_pool_limit=settings().spine_api_threads,
        broker_transport_options={
            "visibility_timeout": VISIBILITY_SECONDS,
            "socket_timeout": BROKER_SECONDS,
            "socket_connect_timeout": BROKER_SECONDS,
            "max_retries": 0,  # to connect: whoever submits waits once, and the relay tries again
        },
        task_ignore_result=True,
        task_acks_late=True,
        task_reject_on_worker_lost=True,
        task_time_limit=HARD_LIMIT_SECONDS,
        worker_prefetch_multiplier=1,
        worker_enable_remote_control=False,
        worker_soft_shutdown_timeout=settings().spine_drain_seconds,
        worker_hijack_root_logger=False,
    )
    made.task(name=TASK)(run_pipeline)
    return made


def send(execution_id: UUID, lane: str) -> None:
    """Put an id into a lane's queue.

    Raises:
        kombu.exceptions.OperationalError: the broker cannot be reached, or does not answer.
    """
    app().send_task(TASK, (str(execution_id),), queue=PREFIX + lane, retry=False)


def run_pipeline(execution_id: str) -> None:
    """Carry out an execution, unless somebody has."""
    from market_spine import runner

    try:
        runner.run_pipeline(UUID(execution_id))
    except StoreError as error:  # before the claim, or behind the end: the relay sees to it
        log.warning("execution %s: %s", execution_id, error)
