"""Carrying out here what a command waits for, where no other process does it.

As in the tier without a worker, whoever runs something runs what else is queued, too; what it has
begun for others is not dropped when its own work is done.
"""

import logging
import math
import signal
import sys
import time
from collections.abc import Callable
from functools import wraps

from market_spine import backends, database, dispatcher, interruptions, ledger
from market_spine.errors import StoreUnavailableError
from market_spine.ledger import Execution
from market_spine.settings import settings

PATIENCE_SECONDS = 60  # for a store that is gone while something is followed
APART_SECONDS = 20  # between two failures, which are two outages then

log = logging.getLogger(__name__)

Follow = Callable[[Execution], Execution]


def carrying(follow: Follow) -> Follow:
    """Serve for as long as an execution is followed.

    Ctrl-C cancels it, whoever carries it out. SIGTERM ends this process alone: what it runs may
    finish for SPINE_DRAIN_SECONDS, and the rest is left to others.
    """

    @wraps(follow)
    def carried(execution: Execution) -> Execution:
        if execution.status in ledger.TERMINAL:
            return execution
        backend = backends.chosen()
        before = signal.signal(signal.SIGTERM, _exit)
        try:
            backend.serve()
            execution = _patiently(follow, execution)
            backend.drain(None)
        except KeyboardInterrupt:
            dispatcher.cancel(execution.root_id)
            raise
        except SystemExit:
            backend.drain(settings().spine_drain_seconds)
            with database.snapshot() as connection:
                execution = ledger.get(connection, execution.id)
            if execution.status not in ledger.TERMINAL:
                print(
                    f"terminated: {execution.pipeline} is {execution.status} ({execution.id}), "
                    f"left to whichever process does the work\n"
                    f"see: spine executions show {execution.id}",
                    file=sys.stderr,
                )
                raise
        finally:
            backend.drain(settings().spine_drain_seconds)
            signal.signal(signal.SIGTERM, before)
        return execution

    return carried


def _exit(*_: object) -> None:
    signal.signal(signal.SIGTERM, lambda *_: None)  # another one does not shorten the drain
    sys.exit(128 + signal.SIGTERM)


def _patiently(follow: Follow, execution: Execution) -> Execution:
    began = failed = -math.inf
    while True:
        try:
            return follow(execution)
        except StoreUnavailableError as error:
            now = time.monotonic()
            if now - failed > APART_SECONDS:
                log.warning("%s: waiting for it", error)
                began = now
            failed = now
            if now - began > PATIENCE_SECONDS:
                raise
            time.sleep(interruptions.RETRY_SECONDS)
