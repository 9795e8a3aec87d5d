"""An outage of the store in the middle of a run: wait until it is over, and do the run again.

Nothing of a run that lost the store was kept, and its claim still stands, so that doing it again is
doing it once. It is begun `max_attempts` times at the most; then it fails like any other run.
"""

import logging
import time
from collections.abc import Callable
from functools import wraps

from market_spine import database, ledger
from market_spine.errors import StoreUnavailableError
from market_spine.ledger import Execution

RETRY_SECONDS = 1.0

log = logging.getLogger(__name__)

Work = Callable[[Execution], None]


def outlasting_outages(work: Work) -> Work:
    """Let a run survive that the store is gone for a while."""

    @wraps(work)
    def patient(execution: Execution) -> None:
        for _ in range(1, execution.max_attempts):
            try:
                return work(execution)
            except StoreUnavailableError as error:
                log.warning("%s %s will be run again: %s", execution.pipeline, execution.id, error)
                _wait_to_begin_again(execution, error)
        return work(execution)

    return patient


def _wait_to_begin_again(execution: Execution, error: StoreUnavailableError) -> None:
    """Note the interruption as soon as the store is back.

    Raises:
        SupersededError: the execution has ended, perhaps by the commit whose answer was lost.
    """
    while True:
        try:
            with database.transaction() as connection:
                ledger.record(connection, execution.id, "interrupted", {"reason": str(error)})
        except StoreUnavailableError:
            time.sleep(RETRY_SECONDS)
        else:
            return
