"""Workers of Prefect: each serves the deployments of its lanes, and a run has its own process."""

import os
from collections.abc import Sequence
from typing import Any

from market_spine import engines

# Both must be said before Prefect is imported; without an address it would be a server by itself.
os.environ["PREFECT_API_URL"] = engines.address()
os.environ.setdefault("DO_NOT_TRACK", "1")

from prefect import flow
from prefect import serve as serve_deployments
from prefect.flows import EntrypointType

POLL_SECONDS = 1.0


@flow(name=engines.TASK, validate_parameters=False, persist_result=False)
def run_pipeline(execution_id: str) -> None:
    """Carry out an execution, unless somebody has."""
    engines.carry_out_alone(execution_id)


def serve(processes: int, lanes: Sequence[str]) -> None:
    """Carry out executions of the lanes, so many at once, until a signal ends it."""
    deployments: list[Any] = [
        run_pipeline.to_deployment(name=lane, entrypoint_type=EntrypointType.MODULE_PATH)
        for lane in lanes
    ]
    serve_deployments(
        *deployments,
        limit=processes,
        query_seconds=POLL_SECONDS,
        pause_on_shutdown=False,
        print_starting_message=False,
    )
