"""spine worker: carry out executions, in as many processes as wanted, in as many places."""

from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Add the command of this module."""
    app.command("worker")(worker)


def worker(
    processes: Annotated[
        int | None,
        typer.Option(min=1, max=256, help="Executions at once. Unset: SPINE_WORKER_PROCESSES."),
    ] = None,
    lane: Annotated[
        list[str] | None,
        typer.Option("--lane", "-l", help="Only of this lane; once for each. Unset: every lane."),
    ] = None,
) -> None:
    """Carry out what is submitted, until Ctrl-C or SIGTERM; what runs then may finish."""
    from market_spine import backends
    from market_spine.errors import RequestError
    from market_spine.settings import settings

    if not backends.has_workers():
        raise RequestError(
            "the backend in use has no workers of its own: unset SPINE_BACKEND, and name Postgres "
            "in DATABASE_URL or unset it, too"
        )
    backends.chosen().work(processes or settings().spine_worker_processes, lane)
