"""What `spine dev` runs where the work is done by processes of its own."""

import sys
from contextlib import suppress

from market_spine import broker, companions, database, embedded
from market_spine.cli._signals import stopped_by_signal
from market_spine.errors import StoreError
from market_spine.settings import settings

POLL_SECONDS = 0.2


def dev_together(port: int | None) -> None:
    """Run the API, a worker, the relay and beat until a signal ends them, or one of them ends.

    Args:
        port: of the API; None: as it is set.
    """
    database.engine()  # held for all of them, as is the broker, where they are this repo's own
    broker.url()
    stopping = stopped_by_signal()
    api = ["api", "--host", "127.0.0.1", *([] if port is None else ["--port", str(port)])]
    commands = {"api": api, "worker": ["worker"], "relay": ["relay"], "beat": ["beat"]}
    with companions.running(commands) as processes:
        while not stopping.wait(POLL_SECONDS):
            _start_the_servers_again()
            for name, process in processes.items():
                if process.poll() is not None:
                    sys.exit(f"{name} has ended ({process.returncode}), and so do the others")


def _start_the_servers_again() -> None:
    if settings().database_url and settings().redis_url:
        return
    with suppress(StoreError):  # they are this repo's own, and one may have been killed
        embedded.hold()
