"""Carrying out here what a command waits for, where no other process does it."""

from collections.abc import Callable
from functools import wraps

from market_spine import backends, dispatcher, ledger
from market_spine.ledger import Execution
from market_spine.settings import settings

Follow = Callable[[Execution], Execution]


def carrying(follow: Follow) -> Follow:
    """Serve for as long as an execution is followed; Ctrl-C cancels it, whoever carries it out."""

    @wraps(follow)
    def carried(execution: Execution) -> Execution:
        if execution.status in ledger.TERMINAL:
            return execution
        backend = backends.chosen()
        backend.serve()
        try:
            return follow(execution)
        except KeyboardInterrupt:
            dispatcher.cancel(execution.root_id)
            raise
        finally:
            backend.drain(settings().spine_drain_seconds)

    return carried
