"""Leases: what a worker runs is its own for as long as it says so, by the store's clock.

A thread of each worker's process extends its leases, tells how far each run has come, and that the
process lives. A run whose lease could not be extended stops at its next checkpoint, and since all
that it writes is fenced by the lease, nothing of it is kept; what it ran is left to the next
attempt. Backends that are guarded by the run lock instead claim without a lease that expires.
"""

import logging
import time
from collections.abc import Callable
from functools import partial, wraps
from threading import Event, Lock, Thread
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import orjson
from sqlalchemy import Connection, text

from market_spine import database, presence, progress
from market_spine.errors import SpineError
from market_spine.settings import settings
from market_spine.stores.postgresql import process_id

if TYPE_CHECKING:
    from market_spine.ledger import Execution

RENEWALS = 4  # in the time of a lease, so that one that is late or lost does no harm
FIRST_DELAY_SECONDS, LONGEST_DELAY_SECONDS = 2.0, 300.0  # before an attempt is repeated

EXTEND = text(
    """
UPDATE executions
SET lease_expires_at = clock_timestamp() + make_interval(secs => :seconds),
    progress = CAST(held.progress AS json)
FROM unnest(CAST(:ids AS uuid[]), CAST(:tokens AS uuid[]), CAST(:progress AS text[]))
     AS held (id, token, progress)
WHERE executions.id = held.id AND lease_token = held.token
  AND lease_expires_at > clock_timestamp()
RETURNING executions.id
"""
)

log = logging.getLogger(__name__)

Work = Callable[["Execution"], list["Execution"]]


class LeaseLostError(SpineError):
    """A run has stopped because its lease could not be extended."""

    may_pass = True


class Holder:
    """A worker's process: the leases that it holds, and the thread that extends them."""

    def __init__(self, seconds: float) -> None:
        self.id = process_id()
        self.seconds = seconds
        self._held: dict[UUID, tuple[UUID, float]] = {}  # the token, and until when, by our clock
        self._progress: dict[UUID, str] = {}  # of those that have said something, as JSON
        self._guard = Lock()
        self._ended = Event()
        self._thread = Thread(target=self._go_on, daemon=True)
        self._thread.start()

    def take(self, execution: "Execution") -> None:
        """Extend this lease from now on."""
        if execution.lease_token is not None:
            with self._guard:
                self._held[execution.id] = execution.lease_token, time.monotonic() + self.seconds

    def let_go(self, execution: "Execution") -> None:
        """Extend it no longer."""
        with self._guard:
            self._held.pop(execution.id, None)
            self._progress.pop(execution.id, None)

    def note(self, execution: "Execution", label: str, done: int, total: int | None) -> None:
        """Say how far it has come when its lease is extended next; see `progress.report`."""
        stage = label.removeprefix(f"{execution.pipeline}: ")
        said = orjson.dumps({"stage": stage, "done": done, "total": total}).decode()
        self._progress[execution.id] = said

    def has_lost(self, execution: "Execution") -> bool:
        """Whether it was not extended in time, for whatever reason; no store is asked."""
        _, until = self._held.get(execution.id, (None, float("inf")))
        return time.monotonic() > until

    def end(self) -> None:
        """Hold nothing any more."""
        self._ended.set()
        self._thread.join()

    def _go_on(self) -> None:
        while True:
            self._renew()
            if self._ended.wait(min(self.seconds, presence.ALIVE_SECONDS) / RENEWALS):
                break
        presence.leave(self.id)

    def _renew(self) -> None:
        with self._guard:
            held = dict(self._held)
        asked = time.monotonic()
        try:
            with database.transaction() as connection:
                presence.tell(connection, "worker", self.id)
                extended = self._extend(connection, held)
        except Exception as error:  # whatever it was, it may pass, and this thread must go on
            log.warning("leases could not be extended: %s", error)
            extended = set()
        with self._guard:
            for execution_id in extended & self._held.keys():  # the others have ended meanwhile
                token, _ = self._held[execution_id]
                if token == held[execution_id][0]:
                    self._held[execution_id] = token, asked + self.seconds

    def _extend(self, connection: Connection, held: dict[UUID, tuple[UUID, float]]) -> set[UUID]:
        if not held:
            return set()
        values = {
            "seconds": self.seconds,
            "ids": [*held],
            "tokens": [token for token, _ in held.values()],
            "progress": [self._progress.get(execution_id) for execution_id in held],
        }
        return set(connection.execute(EXTEND, values).scalars())


_holder: Holder | None = None


def hold() -> None:
    """Claim with a lease, in this process, from now on."""
    global _holder
    _holder = Holder(settings().spine_lease_seconds)


def let_go() -> None:
    """Claim with a lease no longer."""
    global _holder
    if _holder:
        _holder.end()
        _holder = None


def lease_granted() -> dict[str, Any]:
    """What a claim of this process writes into the row."""
    granted: dict[str, Any] = {"lease_token": uuid4()}
    if _holder:
        granted |= {"leased_for": _holder.seconds, "worker_id": _holder.id}
    return granted


def leased(work: Work) -> Work:
    """Extend an execution's lease for as long as its work takes."""

    @wraps(work)
    def held(execution: "Execution") -> list["Execution"]:
        if not _holder:
            return work(execution)
        _holder.take(execution)
        try:
            with progress.listening(partial(_holder.note, execution)):
                return work(execution)
        except SpineError:
            require_lease(execution)  # if that is gone it is the reason
            raise
        finally:
            _holder.let_go(execution)

    return held


def release_locks_when_stopped(connection: Connection) -> None:
    """Let the store end this transaction if its process stops in it, for as long as a lease.

    To be called where locks are taken that others wait for, and the commit is near.
    """
    if connection.dialect.name == "postgresql":
        milliseconds = round(settings().spine_lease_seconds * 1000)
        connection.exec_driver_sql(
            f"SET LOCAL idle_in_transaction_session_timeout = {milliseconds}"
        )


def require_lease(execution: "Execution") -> None:
    """Go on only under a lease that holds, as far as this process knows.

    Raises:
        LeaseLostError: it could not be extended.
    """
    if _holder and _holder.has_lost(execution):
        raise LeaseLostError(
            "its worker, or the store, was away for longer than its lease "
            "(SPINE_LEASE_SECONDS); nothing of its output was kept"
        )


def delay_after(attempt: int) -> float:
    """Seconds from an attempt that came to nothing to the next one, each time twice as many."""
    return float(min(FIRST_DELAY_SECONDS * 2 ** (attempt - 1), LONGEST_DELAY_SECONDS))
