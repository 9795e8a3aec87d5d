"""What ends a command that runs until it is told to."""

import signal
from threading import Event


def stopped_by_signal() -> Event:
    """What is set by Ctrl-C, and by SIGTERM, from now on."""
    stopping = Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    return stopping
