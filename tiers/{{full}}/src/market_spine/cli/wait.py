"""spine wait: for the schema, where nothing else says that it has been brought up to date."""

import sys
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from market_spine.errors import StoreError

SECONDS = 2.0  # between two looks


def register(app: typer.Typer) -> None:
    """Add the command of this module."""
    app.command("wait")(wait)


def wait() -> None:
    """Wait until the store answers and has the tables of this version; say what it waits for."""
    from market_spine import presence
    from market_spine.cli._signals import stopped_by_signal

    presence.require_postgres("spine wait")
    stopping = stopped_by_signal()
    said = ""
    while (reason := _lacking()) is not None:
        if str(reason) != said:
            said = str(reason)
            print(f"waiting: {said}", file=sys.stderr, flush=True)
        if stopping.wait(SECONDS):
            raise reason


def _lacking() -> "StoreError | None":
    from market_spine import migrations
    from market_spine.cli.db import connected
    from market_spine.errors import StoreError

    try:
        with connected() as connection:  # and not between two looks
            migrations.require_current(connection)
    except StoreError as error:
        return error
    return None
