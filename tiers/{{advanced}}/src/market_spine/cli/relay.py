"""spine relay: hand executions on to the broker, and take back what has lost its worker."""

import typer

from market_spine.cli._signals import stopped_by_signal


def register(app: typer.Typer) -> None:
    """Add the command of this module."""
    app.command("relay")(relay)


def relay() -> None:
    """Tell the broker what it was not told or lost, and requeue what has lost its worker."""
    from market_spine import relay

    relay.serve(stopped_by_signal())
