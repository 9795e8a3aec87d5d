"""spine relay: hand executions on to the broker, and take back what has lost its worker."""

import signal
from threading import Event

import typer


def register(app: typer.Typer) -> None:
    """Add the command of this module."""
    app.command("relay")(relay)


def relay() -> None:
    """Tell the broker what it was not told or lost, and requeue what has lost its worker."""
    from market_spine import relay

    stopping = Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    relay.serve(stopping)
