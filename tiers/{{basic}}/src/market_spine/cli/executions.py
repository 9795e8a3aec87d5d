"""spine executions: what was submitted, and what became of it."""

from typing import TYPE_CHECKING, Annotated
from uuid import UUID

import typer

from market_spine.cli._output import (
    AsJson,
    print_fields,
    print_json,
    print_rows,
    progress_shown,
    text_of,
)

if TYPE_CHECKING:
    from market_spine.ledger import Execution

Limit = Annotated[int, typer.Option(min=1, max=10_000, help="How many at the most.")]
COLUMNS = {
    "id": "execution",
    "pipeline": "pipeline",
    "status": "status",
    "created_at": "submitted (UTC)",
    "seconds": "seconds",
    "result": "result",
}


def register(app: typer.Typer) -> None:
    """Add the group of this module."""
    group = typer.Typer(help="What was submitted, and what became of it.")
    group.callback(invoke_without_command=True)(default)
    group.command("list")(list_executions)
    group.command("show")(show)
    app.add_typer(group, name="executions")


def default(context: typer.Context, as_json: AsJson = False) -> None:
    """What was submitted, and what became of it; without a command: the list."""
    if context.invoked_subcommand is None:
        list_executions(as_json=as_json)


def list_executions(
    status: Annotated[str | None, typer.Option(help="Only those in this state.")] = None,
    pipeline: Annotated[str | None, typer.Option(help="Only those of this pipeline.")] = None,
    limit: Limit = 20,
    as_json: AsJson = False,
) -> None:
    """List executions, newest first."""
    from market_spine import backends, database, ledger
    from market_spine.errors import RequestError

    states = (*ledger.LIVE, *ledger.TERMINAL)
    if status is not None and status not in states:
        raise RequestError(f"--status {status}: there are {', '.join(states)}")
    with progress_shown():
        backends.chosen().resume()
    with database.snapshot() as connection:
        found = ledger.list_executions(connection, status=status, pipeline=pipeline, limit=limit)
    rows = [{**vars(execution), "seconds": _seconds(execution)} for execution in found]
    print_rows(rows, COLUMNS, as_json=as_json, empty="There are no executions.")


def show(execution_id: UUID, as_json: AsJson = False) -> None:
    """Show an execution with its events as a timeline, and its children."""
    from market_spine import backends, database, ledger

    with progress_shown():
        backends.chosen().resume()
    with database.snapshot() as connection:
        execution = ledger.get(connection, execution_id)
        events = ledger.events_of(connection, execution_id)
        children = ledger.list_executions(connection, parent_id=execution_id, limit=1000)[::-1]
    if as_json:
        print_json({**vars(execution), "events": events, "children": children})
        return
    print_fields({name: value for name, value in vars(execution).items() if value is not None})
    print("\ntimeline")
    start = execution.created_at
    for event in events:
        traceback = event.data.get("traceback")
        data = {name: value for name, value in event.data.items() if name != "traceback"}
        after = (event.at - start).total_seconds()
        print(f"  {event.seq:>3}  +{after:>9.3f}s  {event.kind:<16} {text_of(data)}")
        if traceback:
            print("".join(f"      {line}\n" for line in traceback.splitlines()))
    if children:
        print("\nchildren")
        rows = [{**vars(child), "seconds": _seconds(child)} for child in children]
        print_rows(rows, COLUMNS, as_json=False, empty="")


def _seconds(execution: "Execution") -> float | None:
    if execution.started_at is None or execution.finished_at is None:
        return None
    return round((execution.finished_at - execution.started_at).total_seconds(), 3)
