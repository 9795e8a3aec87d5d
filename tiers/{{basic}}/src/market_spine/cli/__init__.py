"""The command line: one module a command or a group of them, found by scanning this folder.

Exit codes: 0 done; 1 the work failed; 2 what was asked for is wrong; 3 the store cannot be used;
130 interrupted; 143 terminated. Modules import what they need inside their commands, so that the
help is quick.
"""

import logging
import sys
from importlib import import_module
from pkgutil import iter_modules

import typer


def build_app() -> typer.Typer:
    """The command line with every module's commands."""
    app = typer.Typer(
        help="Market computations, from raw trades to daily metrics.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
    )
    for module in iter_modules(__path__):
        if not module.name.startswith("_"):
            import_module(f"{__name__}.{module.name}").register(app)
    return app


def main() -> None:
    """Run the command line; whatever a person can do something about ends in one line."""
    logging.basicConfig(format="%(message)s", level=logging.WARNING, stream=sys.stderr)
    try:
        build_app()()
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        from pydantic import ValidationError

        from market_spine.errors import SpineError

        if isinstance(error, SpineError):
            print(f"error: {error}", file=sys.stderr)
            sys.exit(error.exit_code)
        if isinstance(error, ValidationError):
            fault = error.errors()[0]
            where = ".".join(str(part) for part in fault["loc"]).upper()
            reason = fault["msg"].removeprefix("Value error, ")
            print(f"error: setting {where}: {reason}", file=sys.stderr)
            sys.exit(2)
        raise
