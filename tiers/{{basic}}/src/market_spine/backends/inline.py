"""The inline backend: whoever submits does the work, one execution after the other.

The queue is the ledger. The outermost call holds the store's run lock and drains all that is
queued, so what a killed process left behind is picked up by the next one.
"""

import logging
from uuid import UUID

from market_spine import database, ledger

RANK = 0

log = logging.getLogger(__name__)
_draining = False  # this process is inside `_drain`, which will get to what is enqueued now


def enqueue(_execution_id: UUID, _lane: str) -> None:
    """Run what is queued, oldest first, which comes to this execution and its children."""
    if _draining:
        return
    with database.store().run_lock(wait=False) as free:
        if free:
            _drain()
    if not free:
        log.warning("waiting for another process that is running executions")
        with database.store().run_lock(wait=True):
            _drain()


def resume() -> None:
    """Fail what died while it ran and run what is queued, unless another process is at it."""
    database.engine()  # says what is wrong with the store before a lock is made beside it
    with database.store().run_lock(wait=False) as free:
        if free:
            _drain()


def _drain() -> None:
    from market_spine.runner import run_pipeline

    global _draining
    _draining = True
    try:
        _fail_the_dead()
        while True:
            with database.snapshot() as connection:
                execution = ledger.next_queued(connection)
            if execution is None:
                return
            try:
                run_pipeline(execution.id)
            except KeyboardInterrupt:
                with database.transaction() as connection:
                    ledger.request_cancel(connection, execution.root_id)
                raise
    finally:
        _draining = False


def _fail_the_dead() -> None:
    """With the run lock held nobody runs anything: a running row's process is dead."""
    with database.snapshot() as connection:
        dead = ledger.running(connection)
    for execution in dead:
        log.warning("%s %s was cut off: failed", execution.pipeline, execution.id)
        with database.transaction() as connection:
            error = "its process died while it ran; nothing of its output was kept"
            ledger.finish(connection, execution, "failed", error=error)
