"""spine beat, spine schedules: submit what is due, and see what is due when."""

import typer

from market_spine.cli._output import AsJson, print_rows
from market_spine.cli._signals import stopped_by_signal

COLUMNS = {
    "schedule": "schedule",
    "pipeline": "pipeline",
    "when": "when",
    "next_tick": "next tick (UTC)",
    "last_tick": "last tick (UTC)",
    "execution_id": "its execution",
    "status": "status",
}


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command("beat")(beat)
    app.command("schedules")(list_schedules)


def beat() -> None:
    """Submit what the schedules say, each tick once, however many beats there are."""
    from market_spine import schedule

    schedule.serve(stopped_by_signal())


def list_schedules(as_json: AsJson = False) -> None:
    """List the schedules: what is submitted when, and what the latest tick has become."""
    from datetime import UTC, datetime

    from market_spine import database, schedule
    from market_spine.settings import settings

    now = datetime.now(UTC)
    rows = []
    with database.snapshot() as connection:
        for one in schedule.load():
            tick, execution_id, status = schedule.submitted_last(connection, one) or [None] * 3
            rows.append(
                {
                    "schedule": one.name,
                    "pipeline": one.pipeline,
                    "params": one.params,
                    "lane": one.lane,
                    "when": one.when,
                    "next_tick": one.ticks.following(now),
                    "last_tick": tick,
                    "execution_id": execution_id,
                    "status": status,
                }
            )
    empty = f"There are no schedules in {settings().spine_schedules}."
    print_rows(rows, COLUMNS, as_json=as_json, empty=empty)
