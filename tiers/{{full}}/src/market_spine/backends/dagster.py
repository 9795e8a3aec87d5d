"""The Dagster backend: each execution is a run of a job, which Dagster's server queues and shows.

A lane is a job, offered by the workers of the lane, which are code servers that Dagster's workspace
names. A run is given an id, over the server's GraphQL interface, so that whoever submits needs no
library.
"""

import re
from collections.abc import Sequence
from typing import Any
from uuid import UUID

import httpx

from market_spine import engines
from market_spine.backends.celery import drain, is_served, resume, serve
from market_spine.errors import SpineError

__all__ = ["drain", "is_served", "resume", "serve"]  # these are the same for every broker

RANK = -1  # an extra, which is chosen by its name alone
SCHEMES = ("postgresql",)
DEFERS = True

ID = "execution_id"  # a tag, so that a run that waits already is found
LOGGER = "log"  # what each job calls the log of its process

# Who offers which job, and whether a run waits.
LOOK = """
query ($waiting: RunsFilter!) {
    repositoriesOrError { ... on RepositoryConnection {
        nodes { name location { name } pipelines { name } }
    } }
    runsOrError(filter: $waiting, limit: 1) { ... on Runs { results { id } } }
}
"""
LAUNCH = """
mutation ($run: ExecutionParams!) { launchRun(executionParams: $run) { __typename } }
"""
LOOK_AGAIN = "mutation { reloadWorkspace { __typename } }"


def enqueue(execution_id: UUID, lane: str) -> None:
    """Ask for a run; if the server is away, or has no such lane, leave it to the relay."""
    tag = {"key": ID, "value": str(execution_id)}

    def tell() -> None:
        with httpx.Client(timeout=engines.ENGINE_SECONDS) as server:
            seen = _ask(server, LOOK, waiting={"tags": [tag], "statuses": ["QUEUED"]})
            if seen["runsOrError"]["results"]:
                return  # a run costs a process, and the relay may ask for a second one
            selector = _selector(seen["repositoriesOrError"]["nodes"], job_of(lane))
            if selector is None:
                _ask(server, LOOK_AGAIN)  # its worker may have come since
                raise SpineError(f"no worker offers {job_of(lane)}")
            asked = {
                "selector": selector,
                "runConfigData": {
                    "ops": {engines.TASK: {"config": {ID: str(execution_id)}}},
                    "loggers": {LOGGER: {}},
                },
                "executionMetadata": {"tags": [tag]},
            }
            answer = _ask(server, LAUNCH, run=asked)["launchRun"]["__typename"]
            if answer != "LaunchRunSuccess":
                raise SpineError(answer)

    engines.hand_over(execution_id, lane, tell)


def work(processes: int, lanes: Sequence[str] | None) -> None:
    """Be a worker until a signal ends it."""
    engines.serve("dagster", processes, lanes)


def job_of(lane: str) -> str:
    """The name of a lane's job, of letters that Dagster allows."""
    return re.sub(r"\W", "_", f"{engines.TASK}_{lane}", flags=re.ASCII)


def _selector(repositories: list[dict[str, Any]], job: str) -> dict[str, str] | None:
    """Where a job is offered."""
    for repository in repositories:
        if job in [offered["name"] for offered in repository["pipelines"]]:
            return {
                "repositoryLocationName": repository["location"]["name"],
                "repositoryName": repository["name"],
                "jobName": job,
            }
    return None


def _ask(server: httpx.Client, document: str, **variables: object) -> Any:
    request = {"query": document, "variables": variables}
    answer = server.post(f"{engines.address()}/graphql", json=request).raise_for_status().json()
    if "errors" in answer:
        raise SpineError(answer["errors"][0]["message"])
    return answer["data"]
