"""spine dead-letters: what could not be processed, and doing it again."""

from typing import Annotated
from uuid import UUID

import typer

from market_spine.cli._output import (
    AsJson,
    print_fields,
    print_json,
    print_rows,
    progress_shown,
)
from market_spine.cli.executions import Limit

COLUMNS = {
    "id": "dead letter",
    "kind": "kind",
    "field": "field",
    "reason": "reason",
    "created_at": "since (UTC)",
    "retried_as": "retried as",
}


def register(app: typer.Typer) -> None:
    """Add the group of this module."""
    group = typer.Typer(help="What could not be processed, and doing it again.")
    group.callback(invoke_without_command=True)(default)
    group.command("list")(list_dead_letters)
    group.command("show")(show)
    group.command("retry")(retry)
    app.add_typer(group, name="dead-letters")


def default(context: typer.Context, as_json: AsJson = False) -> None:
    """What could not be processed, and doing it again; without a command: the list."""
    if context.invoked_subcommand is None:
        list_dead_letters(as_json=as_json)


def list_dead_letters(
    kind: Annotated[str | None, typer.Option(help="Only `execution` or `record`.")] = None,
    closed: Annotated[bool, typer.Option("--closed", help="The closed ones too.")] = False,
    limit: Limit = 50,
    as_json: AsJson = False,
) -> None:
    """List open dead letters, newest first."""
    from market_spine import backends, database, ledger
    from market_spine.errors import RequestError

    if kind not in (None, "execution", "record"):
        raise RequestError(f"--kind {kind}: there are execution and record")
    with progress_shown():
        backends.chosen().resume()
    with database.snapshot() as connection:
        found = ledger.list_dead_letters(connection, kind=kind, include_closed=closed, limit=limit)
    rows = [vars(letter) for letter in found]
    print_rows(rows, COLUMNS, as_json=as_json, empty="There are no dead letters.")


def show(letter_id: UUID, as_json: AsJson = False) -> None:
    """Show a dead letter with its payload."""
    from market_spine import database, ledger

    with database.snapshot() as connection:
        letter = ledger.get_dead_letter(connection, letter_id)
    if as_json:
        print_json(letter)
        return
    print_fields({name: value for name, value in vars(letter).items() if value is not None})


def retry(letter_id: UUID, as_json: AsJson = False) -> None:
    """Do it again as a new execution; a second retry of the same letter is the same execution."""
    from market_spine import dispatcher
    from market_spine.cli._follow import follow, report

    with progress_shown():
        execution = follow(dispatcher.retry(letter_id))
    report(execution, as_json=as_json)
