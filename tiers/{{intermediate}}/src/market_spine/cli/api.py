"""spine api: serve the HTTP API."""

from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Add the command of this module."""
    app.command("api")(api)


def api(
    host: Annotated[
        str | None, typer.Option(help="Where to listen. Unset: SPINE_API_HOST.")
    ] = None,
    port: Annotated[
        int | None,
        typer.Option(min=0, max=65_535, help="0: a free one. Unset: SPINE_API_PORT."),
    ] = None,
) -> None:
    """Serve the HTTP API until Ctrl-C or SIGTERM."""
    from market_spine.api.server import serve
    from market_spine.settings import settings

    serve(
        settings().spine_api_host if host is None else host,
        settings().spine_api_port if port is None else port,
    )
