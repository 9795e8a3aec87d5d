"""Company for a command that waits for its work where no worker and no relay live.

On a machine where `spine dev` or the containers run there is nothing to do; a single command, as a
tutorial has it, brings its own and takes them along when it ends.
"""

from collections.abc import Callable
from functools import wraps
from threading import Event, Thread

from market_spine import backends, companions, database, ledger, presence
from market_spine.errors import StoreError
from market_spine.ledger import Execution

LOOK_SECONDS = 2.0  # between two looks at whether somebody lives who does the work

Follow = Callable[[Execution], Execution]


def accompanied(follow: Follow) -> Follow:
    """See to it that somebody carries out what is followed."""

    @wraps(follow)
    def with_company(execution: Execution) -> Execution:
        if execution.status in ledger.TERMINAL or not backends.has_workers():
            return follow(execution)
        ended = Event()
        company = Thread(target=_keep_company, args=(ended,))
        company.start()
        try:
            return follow(execution)
        finally:
            ended.set()
            company.join()

    return with_company


def _keep_company(ended: Event) -> None:
    while not ended.is_set():
        if _is_nobody_there():
            commands = {"worker": ["worker"], "relay": ["relay"]}
            with companions.running(commands, aloud=False):
                ended.wait()
        ended.wait(LOOK_SECONDS)


def _is_nobody_there() -> bool:
    try:
        with database.snapshot() as connection:
            return not presence.alive(connection, "worker")
    except StoreError:
        return False  # which whoever follows will say
