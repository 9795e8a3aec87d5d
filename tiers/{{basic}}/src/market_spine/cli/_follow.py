"""Following an execution to its end, and saying how it ended."""

import sys
import time

from market_spine import database, ledger
from market_spine.cli._output import print_json
from market_spine.ledger import Execution

POLL_SECONDS = 0.2


def follow(execution: Execution) -> Execution:
    """Wait until an execution has ended."""
    while execution.status not in ledger.TERMINAL:
        time.sleep(POLL_SECONDS)
        with database.snapshot() as connection:
            execution = ledger.get(connection, execution.id)
    return execution


def report(execution: Execution, *, as_json: bool) -> None:
    """Print how an execution stands; exit with 1 if it has ended without success."""
    if as_json:
        print_json(execution)
    else:
        told = ", ".join(f"{name}={value}" for name, value in (execution.result or {}).items())
        print(f"{execution.pipeline} {execution.status} ({execution.id}) {told}".rstrip())
    if execution.status in ("failed", "cancelled"):
        if execution.error:
            print(f"error: {execution.error}", file=sys.stderr)
        hint = f"see: spine executions show {execution.id}"
        print(hint, file=sys.stderr)
        sys.exit(1)
