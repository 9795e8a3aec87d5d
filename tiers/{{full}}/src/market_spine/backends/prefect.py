"""The Prefect backend: each execution is a run of a flow, which Prefect's server has and shows.

A lane is a deployment of that flow, made by the first worker of the lane. A run is given an id,
over the server's HTTP interface, so that whoever submits needs no library.
"""

from collections.abc import Sequence
from uuid import UUID

import httpx

from market_spine import engines
from market_spine.backends.celery import drain, is_served, resume, serve

__all__ = ["drain", "is_served", "resume", "serve"]  # these are the same for every broker

RANK = -1  # an extra, which is chosen by its name alone
SCHEMES = ("postgresql",)
DEFERS = True


def enqueue(execution_id: UUID, lane: str) -> None:
    """Ask for a run; if the server is away, or has no such lane, leave it to the relay."""

    def tell() -> None:
        with httpx.Client(base_url=engines.address(), timeout=engines.ENGINE_SECONDS) as server:
            tags = [str(execution_id)]
            waiting = {"tags": {"all_": tags}, "state": {"type": {"any_": ["SCHEDULED"]}}}
            found = server.post("/flow_runs/filter", json={"flow_runs": waiting, "limit": 1})
            if found.raise_for_status().json():
                return  # a run costs a process, and the relay may ask for a second one
            lanes = server.get(f"/deployments/name/{engines.TASK}/{lane}").raise_for_status()
            run = {"parameters": {"execution_id": str(execution_id)}, "tags": tags}
            path = f"/deployments/{lanes.json()['id']}/create_flow_run"
            server.post(path, json=run).raise_for_status()

    engines.hand_over(execution_id, lane, tell)


def work(processes: int, lanes: Sequence[str] | None) -> None:
    """Be a worker until a signal ends it."""
    engines.serve("prefect", processes, lanes)
