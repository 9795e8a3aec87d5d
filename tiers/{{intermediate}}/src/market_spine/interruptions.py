"""What may interrupt a run: an outage of the store, and the end of the process that does the work.

Nothing of a run that lost the store was kept, and its claim still stands, so that doing it again is
doing it once: it is begun `max_attempts` times at the most, then it fails like any other run. A run
that its process has no more time for fails at its next checkpoint.
"""

import logging
import time
from collections.abc import Callable
from functools import wraps
from uuid import UUID

from market_spine import database, ledger
from market_spine.errors import SpineError, StoreUnavailableError
from market_spine.ledger import Execution

RETRY_SECONDS = 1.0  # between two attempts to reach a store that is gone

log = logging.getLogger(__name__)

Work = Callable[[Execution], list[Execution]]
LOST = (
    "the store was lost in the middle; the log says how"  # and where it is, which callers need not
)

_cut_off: set[UUID] = set()  # runs of this process that there is no more time for


def cut_off(execution_id: UUID) -> None:
    """Let a run of this process fail at its next checkpoint."""
    _cut_off.add(execution_id)


def forget(execution_id: UUID) -> None:
    """The run has ended, cut off or not."""
    _cut_off.discard(execution_id)


def require_time(execution: Execution) -> None:
    """Go on only if the process that carries the execution out has time for it.

    Raises:
        SpineError: it was told to end.
    """
    if execution.id in _cut_off:
        raise SpineError(
            "it was not done when its process had to end (SPINE_DRAIN_SECONDS); nothing of its "
            "output was kept, and a retry does it again"
        )


def outlasting_outages(work: Work) -> Work:
    """Let a run survive that the store is gone for a while."""

    @wraps(work)
    def patient(execution: Execution) -> list[Execution]:
        for _ in range(1, execution.max_attempts):
            try:
                return work(execution)
            except StoreUnavailableError as error:
                log.warning("%s %s will be run again: %s", execution.pipeline, execution.id, error)
                _wait_to_begin_again(execution)
        try:
            return work(execution)
        except StoreUnavailableError as error:
            log.warning("%s %s is given up: %s", execution.pipeline, execution.id, error)
            raise SpineError(f"{LOST}, {execution.max_attempts} times") from error

    return patient


def _wait_to_begin_again(execution: Execution) -> None:
    """Note the interruption as soon as the store is back.

    Raises:
        SupersededError: the execution has ended, perhaps by the commit whose answer was lost.
        SpineError: there is no more time for it.
    """
    while True:
        require_time(execution)
        try:
            with database.transaction() as connection:
                ledger.record(connection, execution, "interrupted", {"reason": LOST})
        except StoreUnavailableError:
            time.sleep(RETRY_SECONDS)
        else:
            return
