"""The Temporal backend: each execution is a workflow of one activity, which its server keeps.

A lane is a task queue. A workflow is given an id, by Temporal's own library, which whoever submits
needs too.
"""

import asyncio
from collections.abc import Sequence
from uuid import UUID

from market_spine import engines
from market_spine.backends.celery import drain, is_served, resume, serve

__all__ = ["drain", "is_served", "resume", "serve"]  # these are the same for every broker

RANK = -1  # an extra, which is chosen by its name alone
SCHEMES = ("postgresql",)
DEFERS = True

PREFIX = "spine."  # of the task queues, one a lane


def enqueue(execution_id: UUID, lane: str) -> None:
    """Start a workflow; if the server cannot be reached, leave it to the relay."""

    def tell() -> None:
        asyncio.run(asyncio.wait_for(_start(execution_id, lane), engines.ENGINE_SECONDS))

    engines.hand_over(execution_id, lane, tell)


def work(processes: int, lanes: Sequence[str] | None) -> None:
    """Be a worker until a signal ends it."""
    engines.serve("temporal", processes, lanes)


async def _start(execution_id: UUID, lane: str) -> None:
    from temporalio.client import Client
    from temporalio.common import WorkflowIDConflictPolicy, WorkflowIDReusePolicy

    client = await Client.connect(engines.address())
    await client.start_workflow(
        engines.TASK,
        str(execution_id),
        id=str(execution_id),
        task_queue=PREFIX + lane,
        id_reuse_policy=WorkflowIDReusePolicy.ALLOW_DUPLICATE,
        # The ledger says that nobody runs it: its worker was lost, or it still waits.
        id_conflict_policy=WorkflowIDConflictPolicy.TERMINATE_EXISTING,
    )
