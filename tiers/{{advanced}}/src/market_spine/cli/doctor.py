"""spine doctor: what is not as it should be, and what to type."""

import sys
from typing import Annotated

import typer

from market_spine.cli._output import AsJson, print_json


def register(app: typer.Typer) -> None:
    """Add the command of this module."""
    app.command("doctor")(doctor)


def doctor(
    fix: Annotated[bool, typer.Option("--fix", help="Put right what needs no person.")] = False,
    as_json: AsJson = False,
) -> None:
    """Look at settings, store, broker, processes and the ledger; exit with 0 if all is well."""
    from market_spine.doctor import examine

    found = list(examine(fix=fix))
    if as_json:
        print_json(
            [
                {"check": one.check, "what": one.finding.what, "todo": one.finding.todo}
                | {"is_mended": one.is_mended}
                for one in found
            ]
        )
    else:
        for one in found:
            print(f"{one.check}: {one.finding.what}")
            print(f"    {'mended' if one.is_mended else one.finding.todo}")
        print("all is well" if not found else f"{len(found)} finding{'s' * (len(found) > 1)}")
    sys.exit(0 if all(one.is_mended for one in found) else 1)
