"""spine ready: whether a process of a role lives on this host, for whoever watches containers."""

import sys
from enum import StrEnum
from typing import Annotated

import typer


class Role(StrEnum):
    """What a process is for."""

    worker = "worker"
    relay = "relay"
    beat = "beat"


def register(app: typer.Typer) -> None:
    """Add the command of this module."""
    app.command("ready")(ready)


def ready(role: Annotated[Role, typer.Argument(help="Of the process.")]) -> None:
    """Exit with 0 if a process of this role has been heard of lately on this host, else with 1."""
    from market_spine import database, presence
    from market_spine.stores.postgresql import process_id

    presence.require_postgres("spine ready")
    host = process_id().split(":")[0]
    with database.snapshot() as connection:
        alive = presence.alive(connection, role.value)
    here = [process for process in alive if process.id.split(":")[0] == host]
    print(f"{len(here)} of role {role.value} on {host}")
    sys.exit(0 if here else 1)
