"""spine keys: who may call the API."""

from typing import Annotated

import typer

from market_spine.cli._output import AsJson, print_rows


def register(app: typer.Typer) -> None:
    """Add the group of this module."""
    group = typer.Typer(help="Who may call the API.", no_args_is_help=True)
    group.command("make")(make)
    group.command("list")(list_keys)
    group.command("revoke")(revoke)
    app.add_typer(group, name="keys")


def make(
    name: str,
    scope: Annotated[list[str], typer.Option(help="read, submit or operate; may be repeated.")],
) -> None:
    """Make a key, and print it: it is not shown again."""
    from market_spine import database
    from market_spine.security import keys

    with database.transaction() as connection:
        secret = keys.make(connection, name, scope)
    print(secret)


def list_keys(as_json: AsJson = False) -> None:
    """List the keys that have not been revoked."""
    from market_spine import database
    from market_spine.security import keys

    with database.snapshot() as connection:
        found = keys.live(connection)
    rows = [
        {"name": key.name, "scopes": ", ".join(key.scopes), "created_at": key.created_at}
        for key in found
    ]
    columns = {"name": "key", "scopes": "scopes", "created_at": "since (UTC)"}
    print_rows(rows, columns, as_json=as_json, empty="There are no keys.")


def revoke(name: str) -> None:
    """Revoke a key: within two seconds no API lets it in."""
    from market_spine import database
    from market_spine.security import keys

    with database.transaction() as connection:
        keys.revoke(connection, name)
    print(f"revoked {name}")
