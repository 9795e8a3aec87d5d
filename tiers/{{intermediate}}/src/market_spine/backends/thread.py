"""The thread backend: one process of a database carries out, in threads, what any process submits.

Whoever serves tries to take the worker's role (`bell.py`); the others wait for it to become free.
The worker is woken when something is submitted, and looks every few seconds besides. If it loses
the store, it takes the role again when that is back, and goes on with what it has in hand; the
others let it come first.
"""

import logging
import time
from collections.abc import Callable
from contextlib import suppress
from contextvars import copy_context
from socket import socketpair
from threading import Condition, Thread
from uuid import UUID

from sqlalchemy import Connection

from market_spine import bell, database, interruptions, ledger
from market_spine.backends.inline import fail_the_dead
from market_spine.errors import StoreError
from market_spine.settings import settings
from market_spine.stores.postgresql import CONNECT_SECONDS

RANK = 10
SCHEMES = ("postgresql",)  # the others have no bell
DEFERS = True

POLL_SECONDS = 5.0  # what was submitted without being heard of waits for so long at the most
CUT_OFF_SECONDS = 5.0  # for a run that is cut off to come to its next checkpoint
# A free role whose work still runs is left for so long to the process that may have lost it only
# with its connection: it asks for it again as soon as it can connect.
PATIENCE_SECONDS = CONNECT_SECONDS + 2 * interruptions.RETRY_SECONDS

log = logging.getLogger(__name__)
_worker: "Worker | None" = None


def enqueue(_execution_id: UUID, _lane: str) -> None:
    """Wake the worker, whichever process it lives in."""
    if _worker and _worker.has_role:
        _worker.wake()
    else:
        with suppress(StoreError):  # it is committed, and will be found
            bell.ring()


def resume() -> None:
    """Fail what a process has left running that had the role and died."""
    with database.snapshot() as connection:
        if not ledger.running(connection) or bell.is_role_held(connection):
            return
    log.warning("waiting %g s for the process of what is running to come back", PATIENCE_SECONDS)
    time.sleep(PATIENCE_SECONDS)
    with database.store().run_lock(wait=False) as free:
        if free:
            fail_the_dead()


def serve() -> None:
    """Be the worker in this process, as soon as no other process is."""
    global _worker
    database.engine()  # says what is wrong with the store before a thread would
    _worker = _worker or Worker(settings().spine_worker_threads)


def drain(seconds: float | None) -> None:
    """Begin nothing more, let what runs finish for so long, then cut it off."""
    global _worker
    if _worker:
        _worker.drain(seconds)
        _worker = None


def is_served(connection: Connection) -> bool:
    """Whether some process is the worker."""
    return bell.is_role_held(connection)


class Worker:
    """A thread that holds the role and looks for work, and a thread for each run."""

    def __init__(self, threads: int) -> None:
        self.has_role = False
        self._threads = threads
        self._in_hand: dict[UUID, str] = {}  # what runs here, with its lane
        self._changed = Condition()  # guards what is in hand
        self._draining = False
        self._some_were_lost = False  # a run could not write how it ended
        self._free_since: float | None = None  # when the role was free, and its work still running
        self._wakes, self._waker = socketpair()  # what `wake` sends, the chief waits for
        self._wakes.setblocking(False)
        self._waker.setblocking(False)
        self._chief = self._start(self._serve)

    def wake(self) -> None:
        """Look at once for what is queued."""
        with suppress(OSError):  # it is full of wakes already, or nobody listens any more
            self._waker.send(b"!")

    def drain(self, seconds: float | None) -> None:
        """See the function of this name."""
        with self._changed:
            self._draining = True
        self.wake()
        if seconds is None and self._in_hand:
            log.warning("finishing what was begun for others (%d executions)", len(self._in_hand))
        if not self._idle_within(seconds):
            with self._changed:
                in_hand = [*self._in_hand]
            for execution_id in in_hand:
                log.warning("execution %s takes too long: cut off", execution_id)
                interruptions.cut_off(execution_id)
            self._idle_within(CUT_OFF_SECONDS)
        self._chief.join(CUT_OFF_SECONDS)
        if not self._chief.is_alive():
            self._waker.close()
            self._wakes.close()

    def _idle_within(self, seconds: float | None) -> bool:
        with self._changed:
            return self._changed.wait_for(lambda: not self._in_hand, seconds)

    def _start(self, function: Callable[..., None], *args: object) -> Thread:
        # In the context of whoever serves, who may listen to the progress. A daemon: a run that
        # hangs must not keep the process alive, for the next process settles what it leaves.
        run = copy_context().run
        thread = Thread(target=run, args=(function, *args), daemon=True)
        thread.start()
        return thread

    # --- the chief -----------------------------------------------------------------------------

    def _serve(self) -> None:
        waits = False
        while not self._is_done():
            try:
                with bell.Session() as session:
                    waits = False
                    try:
                        self._work_with(session)
                    finally:
                        self.has_role = False
            except StoreError as error:
                if not waits:
                    log.warning("the worker waits for the store: %s", error)
                waits = True
                time.sleep(interruptions.RETRY_SECONDS)
                self._start_the_server_again()
            except Exception:
                log.exception("the worker begins again")
                time.sleep(interruptions.RETRY_SECONDS)

    def _start_the_server_again(self) -> None:
        if settings().database_url is None:  # it is this repo's own, and may have been killed
            with suppress(StoreError):
                database.store().default_url()

    def _work_with(self, session: bell.Session) -> None:
        while not self._is_done():
            if not self.has_role and self._may_ask(session) and session.take_role():
                self._some_were_lost = True  # if anything runs, its process has died
                self.has_role = True
            if self.has_role and self._some_were_lost:
                self._some_were_lost = False
                fail_the_dead(self._alive())  # which are listed before the ledger is looked at
            if self.has_role:
                self._begin_what_is_queued(session.connection)
            soon = self._free_since is not None
            session.wait(self._wakes, interruptions.RETRY_SECONDS if soon else POLL_SECONDS)
            with suppress(BlockingIOError):
                self._wakes.recv(4096)

    def _may_ask(self, session: bell.Session) -> bool:
        """Whether nobody else comes first who still carries out what is running."""
        alive = self._alive()
        with database.explained():
            others = [one for one in ledger.running(session.connection) if one.id not in alive]
            if not others or bell.is_role_held(session.connection):
                self._free_since = None
                return True
        now = time.monotonic()
        self._free_since = self._free_since or now
        return now - self._free_since >= PATIENCE_SECONDS

    def _alive(self) -> frozenset[UUID]:
        with self._changed:
            return frozenset(self._in_hand)

    def _is_done(self) -> bool:
        return self._draining and not self._in_hand

    def _begin_what_is_queued(self, connection: Connection) -> None:
        while len(self._in_hand) < self._threads and not self._draining:
            with database.explained():
                turn = ledger.next_in_turn(connection, self._in_hand)
            if turn is None:
                return
            execution_id, lane = turn
            with self._changed:
                if self._draining:
                    return
                self._in_hand[execution_id] = lane
            self._start(self._run, execution_id)

    # --- a run ---------------------------------------------------------------------------------

    def _run(self, execution_id: UUID) -> None:
        from market_spine.runner import run_pipeline

        was_lost = False
        try:
            run_pipeline(execution_id)
        except Exception as error:
            log.warning("execution %s was lost: %s", execution_id, error)
            was_lost = True
            # It may still be queued, and would be begun again at once.
            time.sleep(interruptions.RETRY_SECONDS)
        finally:
            interruptions.forget(execution_id)
            with self._changed:
                del self._in_hand[execution_id]
                # Only now: while it is in hand, it is not looked for among the dead.
                self._some_were_lost |= was_lost
                self._changed.notify_all()
            self.wake()
