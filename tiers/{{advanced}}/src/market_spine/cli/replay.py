"""spine replay: whether silver and gold are what bronze gives."""

import sys
from typing import Annotated

import typer

from market_spine.cli._output import AsJson, print_fields, print_json, print_rows, progress_shown
from market_spine.cli.otc import _instant

COUNTS = {name: name for name in ("table", "same", "differ", "missing", "additional")}
DIFFERENCES = {name: name for name in ("table", "key", "kind", "column", "stored", "replayed")}


def register(app: typer.Typer) -> None:
    """Add the command of this module."""
    app.command("replay")(replay)


def replay(
    as_of: Annotated[
        str | None, typer.Option(help="Only the trades known then, as 2025-12-01T18:00:00Z.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Rebuild silver and gold beside the stored ones; exit with 0 if nothing differs."""
    from market_spine import progress
    from market_spine.services.otc import replay as replays

    with progress_shown():
        done = replays.replay(_instant(as_of) if as_of is not None else None, progress.report)
    if as_json:
        print_json(done)
    else:
        print_fields({name: value for name, value in vars(done).items() if name != "tables"})
        print()
        print_rows([vars(one) for one in done.tables], COUNTS, as_json=False, empty="")
        differences = [
            {"table": one.table, **vars(difference)}
            for one in done.tables
            for difference in one.differences
        ]
        if differences:
            print()
            print_rows(differences, DIFFERENCES, as_json=False, empty="")
    sys.exit(0 if done.is_equal else 1)
