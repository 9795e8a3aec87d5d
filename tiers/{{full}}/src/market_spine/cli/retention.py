"""spine retention: what is old enough leaves the store for the archive, and comes back."""

import sys
from typing import Annotated

import typer

from market_spine.cli._output import AsJson, print_rows, progress_shown


def register(app: typer.Typer) -> None:
    """Add the group of this module."""
    group = typer.Typer(help="Count what may leave the store; with --apply, archive it.")
    group.callback(invoke_without_command=True)(retain)
    group.command("restore")(restore)
    app.add_typer(group, name="retention")


def retain(
    context: typer.Context,
    apply: Annotated[bool, typer.Option("--apply", help="Do it, and not only count.")] = False,
    as_json: AsJson = False,
) -> None:
    """Count what the policies let go; with --apply, archive it and remove it from the store."""
    if context.invoked_subcommand is not None:
        return
    from market_spine import retention

    with progress_shown():
        done = retention.run(apply=apply)
    rows = "removed" if apply else "would go"
    columns = {"table": "table", "days": "kept for days", "rows": rows, "held": "held"}
    print_rows([one._asdict() for one in done], columns, as_json=as_json, empty="")


def restore(
    pattern: Annotated[
        str, typer.Argument(help="Names of batches, such as 'bronze-2025*'.", metavar="BATCHES")
    ] = "*",
    as_json: AsJson = False,
) -> None:
    """Bring batches of the archive back into the store; what it has stays as it is."""
    from market_spine import archive, database, presence
    from market_spine.errors import RequestError

    presence.require_postgres("retention")
    rows, refused = [], []
    for batch in archive.batches(pattern):
        try:
            with database.transaction() as connection:
                restored = archive.restore(connection, batch)
        except RequestError as error:
            refused.append(error)
            continue
        rows += [{"batch": batch.name, "table": table, "new": n} for table, n in restored.items()]
    columns = {"batch": "batch", "table": "table", "new": "new rows"}
    print_rows(rows, columns, as_json=as_json, empty="Nothing was restored.")
    for reason in refused:
        print(f"error: {reason}", file=sys.stderr)
    if refused:
        sys.exit(RequestError.exit_code)
