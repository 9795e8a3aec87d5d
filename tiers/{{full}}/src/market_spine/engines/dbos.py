"""Workers of DBOS: threads of one process, which find their queues in the ledger's database."""

from collections.abc import Sequence
from threading import BoundedSemaphore

from dbos import DBOS

from market_spine import database
from market_spine.backends.dbos import APPLICATION, PREFIX
from market_spine.cli._signals import stopped_by_signal
from market_spine.engines import TASK, carry_out, cut_off
from market_spine.settings import settings
from market_spine.stores.postgresql import process_id

POLL_SECONDS = 0.5


def serve(processes: int, lanes: Sequence[str]) -> None:
    """Carry out executions of the lanes, so many at once, until a signal ends it."""
    stopping = stopped_by_signal()
    hands = BoundedSemaphore(processes)
    running: set[str] = set()

    def run(execution_id: str) -> None:
        with hands:  # the lanes' queues have limits of their own, and those may add up to more
            if not stopping.is_set():
                running.add(execution_id)
                try:
                    carry_out(execution_id)
                finally:
                    running.discard(execution_id)

    DBOS(
        config={
            "name": APPLICATION,
            "system_database_url": database.url(),
            # What was begun and lost is for the ledger to tell, and any version carries an id.
            "executor_id": process_id(),
            "application_version": APPLICATION,
            "log_level": "WARNING",
        }
    )
    DBOS.workflow(name=TASK)(run)
    queues = [PREFIX + lane for lane in lanes]
    DBOS.listen_queues(queues)
    DBOS.launch()
    for queue in queues:
        DBOS.register_queue(
            queue,
            worker_concurrency=processes,
            polling_interval_sec=POLL_SECONDS,
            on_conflict="always_update",
        )
    stopping.wait()
    DBOS.destroy(workflow_completion_timeout_sec=round(settings().spine_drain_seconds))
    if running:
        cut_off()
