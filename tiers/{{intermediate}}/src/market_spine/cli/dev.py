"""spine dev: all of it in one terminal."""

from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Add the command of this module."""
    app.command("dev")(dev)


def dev(
    port: Annotated[
        int | None,
        typer.Option(min=0, max=65_535, help="0: a free one. Unset: SPINE_API_PORT."),
    ] = None,
) -> None:
    """Run the API with its worker and, without a DATABASE_URL, a Postgres, until Ctrl-C."""
    from market_spine.cli.api import api
    from market_spine.cli.db import upgrade

    upgrade()
    api(host="127.0.0.1", port=port)
