"""The relay: the ledger is the outbox, and what the broker lost, or never heard, it is told again.

It also is the reaper: an execution whose lease has expired goes back to the queue for its next
attempt. Several relays do no harm: each row is handled by the first that gets hold of it, and what
is dispatched twice is claimed once.
"""

import logging
from contextlib import suppress
from threading import Event
from uuid import UUID

from sqlalchemy import Connection, text

from market_spine import backends, database, guard, leases, ledger, presence
from market_spine.errors import StoreError, SupersededError
from market_spine.stores.postgresql import process_id

POLL_SECONDS = 0.5
# After this long without a claim a message may be lost. Doubled by the time that the execution has
# waited already: a queue that is merely long is not made longer by the relay.
PATIENCE_SECONDS, LONGEST_SECONDS = 10.0, 600.0
BATCH = 500

# The candidates come from the index alone; only those are looked at, and then locked, in the table.
DUE = text(
    """
WITH due AS MATERIALIZED (
    SELECT id FROM executions
    WHERE status = 'queued'
      AND (dispatched_at IS NULL OR dispatched_at < clock_timestamp() - greatest(
              make_interval(secs => :patience),
              least(make_interval(secs => :longest),
                    dispatched_at - coalesce(not_before, created_at))))
      AND (not_before IS NULL OR not_before <= clock_timestamp())
    ORDER BY dispatched_at NULLS FIRST
    LIMIT :batch
), mine AS MATERIALIZED (
    SELECT executions.id FROM executions JOIN due USING (id)
    WHERE status = 'queued'
      AND (dispatched_at IS NULL
           OR dispatched_at < clock_timestamp() - make_interval(secs => :patience))
    FOR UPDATE OF executions SKIP LOCKED
)
UPDATE executions SET dispatched_at = clock_timestamp()
FROM mine WHERE executions.id = mine.id
RETURNING executions.id, executions.lane
"""
).bindparams(patience=PATIENCE_SECONDS, longest=LONGEST_SECONDS)
UNTOLD = text(
    """
SELECT count(*) FROM executions
WHERE id = ANY (:told) AND status = 'queued' AND dispatched_at IS NULL
"""
)
EXPIRED = text(
    """
SELECT id FROM executions
WHERE status = 'running' AND lease_expires_at < clock_timestamp()
ORDER BY lease_expires_at
LIMIT :batch
"""
).bindparams(batch=BATCH)
IS_EXPIRED = text(
    "SELECT FROM executions "
    "WHERE id = :id AND status = 'running' AND lease_expires_at < clock_timestamp()"
)
# A worker that was stopped in the middle of a transaction keeps its locks: its row's, its parent's.
END_SESSIONS = text(
    """
SELECT pg_terminate_backend(pid)
FROM executions JOIN pg_stat_activity ON application_name = 'market_spine ' || worker_id
WHERE status = 'running' AND lease_expires_at < clock_timestamp()
  AND datname = current_database() AND pid <> pg_backend_pid()
"""
)

log = logging.getLogger(__name__)


def serve(stopping: Event) -> None:
    """Hand on and take back until `stopping` is set.

    Raises:
        RequestError: the store is not one with many users.
    """
    presence.require_postgres("a relay")
    myself = process_id()
    waits = False
    answers = True  # the broker; one that is away is asked about one row at a time
    while True:
        try:
            with database.transaction() as connection:
                presence.tell(connection, "relay", myself)
            taken_back = take_back_expired() + take_back_unleased()
            guard.grant_what_is_free()
            told, found = dispatch_due(BATCH if answers else 1)
            answers = told > 0 or not found
            handed_on, waits = taken_back + told, False
        except StoreError as error:
            if not waits:
                log.warning("the relay waits for the store: %s", error)
            waits, handed_on = True, 0
        if stopping.wait(POLL_SECONDS if handed_on < BATCH else 0):
            break
    presence.leave(myself)


def dispatch_due(most: int = BATCH) -> tuple[int, int]:
    """Tell the broker of what it should have been told.

    Returns:
        How many executions it was told of, and how many there were to tell of, `most` at a time.
    """
    with database.transaction() as connection:
        leases.release_locks_when_stopped(connection)
        due = connection.execute(DUE, {"batch": most}).all()
    if not due:
        return 0, 0
    for execution_id, lane in due:
        backends.chosen().enqueue(execution_id, lane)
    with database.snapshot() as connection:  # the mark is taken back where the broker is away
        told = [execution_id for execution_id, _ in due]
        untold = int(connection.execute(UNTOLD, {"told": told}).scalar_one())
    return len(due) - untold, len(due)


def take_back_expired() -> int:
    """Return to the queue what is running under a lease that has expired; returns how many."""
    with database.snapshot() as connection:
        expired = connection.execute(EXPIRED).scalars().all()
    if expired:
        with database.transaction() as connection:  # of all, for one may wait for another's locks
            connection.execute(END_SESSIONS)
    for execution_id in expired:
        with suppress(SupersededError), database.transaction() as connection:
            _take_back(connection, execution_id)
    return len(expired)


def take_back_unleased() -> int:
    """Return to the queue what another backend left running, under no lease; returns how many.

    Such a backend holds the run lock for as long as it lives.
    """
    with database.snapshot() as connection:
        left = ledger.running(connection)
    if not left:
        return 0
    with database.store().run_lock(wait=False) as free:
        for execution in left if free else ():
            log.warning("%s %s: its process was lost", execution.pipeline, execution.id)
            reason = "its process died while it ran; nothing of its output was kept"
            with suppress(SupersededError), database.transaction() as connection:
                ledger.requeue(connection, execution, reason, leases.delay_after(execution.attempt))
    return len(left) if free else 0


def _take_back(connection: Connection, execution_id: UUID) -> None:
    execution = ledger.locked(connection, execution_id)
    if connection.execute(IS_EXPIRED, {"id": execution_id}).first() is None:
        return
    log.warning("%s %s: its worker was lost", execution.pipeline, execution.id)
    reason = f"its worker {execution.worker_id} was lost; nothing of its output was kept"
    ledger.requeue(connection, execution, reason, leases.delay_after(execution.attempt))
