"""spine db: the schema of a Postgres store, and bringing another store over into it."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from market_spine.cli._output import AsJson, print_rows, progress_shown

if TYPE_CHECKING:
    from sqlalchemy import Connection


def register(app: typer.Typer) -> None:
    """Add the group of this module."""
    group = typer.Typer(help="The schema of the store.", no_args_is_help=True)
    group.callback()(lambda: None)
    group.command("upgrade")(upgrade)
    group.command("check")(check)
    group.command("revision")(revision)
    group.command("import")(import_store)
    app.add_typer(group, name="db")


def upgrade() -> None:
    """Bring the schema up to date; if any of it fails, nothing has changed."""
    from market_spine import migrations

    with connected() as connection:
        moved = migrations.upgrade(connection)
    print(f"upgraded to {', '.join(moved)}" if moved else "up to date")


def check() -> None:
    """Compare the tables of schema.py with the database; exit with 1 if they differ."""
    from market_spine import migrations

    with connected() as connection:
        migrations.require_current(connection)
        found = migrations.differences(connection)
    for line in found:
        print(line)
    if found:
        raise typer.Exit(1)
    print("schema.py and the database agree")


def revision(
    message: Annotated[str, typer.Argument(help="What it does, as: add a table of quotes.")],
) -> None:
    """Begin a migration of this repo's own, to go with a change of schema.py."""
    from market_spine import migrations

    print(f"{migrations.revision(message)}: say there what changes, then: spine db upgrade")


def import_store(
    source: Annotated[str, typer.Argument(help="As sqlite:///spine.db.", metavar="URL")],
    replace: Annotated[
        bool,
        typer.Option(
            "--replace",
            help="First remove all that this store holds, in every table: what the source does not "
            "have is lost.",
        ),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Bring a store of SQLite over, checked on both sides; if any of it fails, nothing has changed.

    Rows of this store that have the place of others are named, and nothing is brought over.
    """
    from market_spine import transfer

    # The lock outlives the commit: whoever is the worker next finds what was brought.
    with progress_shown(), _no_worker(), connected() as connection:
        brought = transfer.bring_over(connection, source, replace=replace)
    rows = [table._asdict() for table in brought]
    if not as_json:
        for row in rows:
            row["rows"] = "not in the source" if row["rows"] is None else row["rows"]
    headings = {"table": "table", "rows": "rows", "new": "new"}
    print_rows(rows, headings, as_json=as_json, empty="")


@contextmanager
def _no_worker() -> "Iterator[None]":
    """Nobody carries out executions in the store meanwhile; its schema is up to date."""
    from market_spine import database
    from market_spine.errors import ConflictError

    _require_postgres()
    with database.store().run_lock(wait=False) as free:
        if not free:
            raise ConflictError("a worker carries out executions in this store: stop it first")
        yield


@contextmanager
def connected() -> "Iterator[Connection]":
    """A transaction in the store in use, whatever its schema is."""
    from market_spine import database
    from market_spine.stores import postgresql

    _require_postgres()
    with database.explained():
        engine = postgresql.connect(database.url())
        try:
            with engine.begin() as connection:
                yield connection
        finally:
            engine.dispose()


def _require_postgres() -> None:
    from market_spine import database
    from market_spine.errors import RequestError
    from market_spine.stores import postgresql

    if database.store() is not postgresql:
        raise RequestError(f"{database.url()} is no Postgres: it makes its tables itself")
