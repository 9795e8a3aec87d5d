"""spine own: what the desk asks for."""

import humanize
import typer


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command("own")(show)


def show(number: int) -> None:
    """Show a number as the desk writes it."""
    print(humanize.intcomma(number))
