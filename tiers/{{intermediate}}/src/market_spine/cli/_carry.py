"""Carrying out here what a command waits for, where no other process does it.

As in the tier without a worker, whoever runs something runs what else is queued, too; what it has
begun for others is not dropped when its own work is done.
"""

import logging
import math
import time
from collections.abc import Callable
from functools import wraps

from market_spine import backends, dispatcher, interruptions, ledger
from market_spine.errors import StoreUnavailableError
from market_spine.ledger import Execution
from market_spine.settings import settings

PATIENCE_SECONDS = 60  # for a store that is gone while something is followed
APART_SECONDS = 20  # between two failures, which are two outages then

log = logging.getLogger(__name__)

Follow = Callable[[Execution], Execution]


def carrying(follow: Follow) -> Follow:
    """Serve for as long as an execution is followed; Ctrl-C cancels it, whoever carries it out."""

    @wraps(follow)
    def carried(execution: Execution) -> Execution:
        if execution.status in ledger.TERMINAL:
            return execution
        backend = backends.chosen()
        backend.serve()
        seconds: float | None = settings().spine_drain_seconds
        try:
            execution = _patiently(follow, execution)
            seconds = None
        except KeyboardInterrupt:
            dispatcher.cancel(execution.root_id)
            raise
        finally:
            backend.drain(seconds)
        return execution

    return carried


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
