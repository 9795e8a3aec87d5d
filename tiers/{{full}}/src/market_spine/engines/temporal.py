"""Workers of Temporal: threads of one process, each of which carries out a workflow's one activity.

Written against Temporal's library; the tests run it where TEMPORAL_ADDRESS names a server.
"""

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from threading import Event
from typing import Any

from temporalio import activity, workflow
from temporalio.client import Client
from temporalio.common import RetryPolicy
from temporalio.worker import UnsandboxedWorkflowRunner, Worker

from market_spine import engines
from market_spine.backends.temporal import PREFIX
from market_spine.celery_app import HARD_LIMIT_SECONDS
from market_spine.cli._signals import stopped_by_signal
from market_spine.settings import settings


# It knows nothing of Temporal's cancellation, which would end it in the middle of a statement.
@activity.defn(name=engines.TASK, no_thread_cancel_exception=True)
def run_pipeline(execution_id: str) -> None:
    """Carry out an execution, unless somebody has."""
    engines.carry_out(execution_id)


@workflow.defn(name=engines.TASK)
class RunPipeline:
    """An execution; what is tried again, and when, is for the ledger to say."""

    @workflow.run
    async def run(self, execution_id: str) -> None:
        """Have it carried out once."""
        await workflow.execute_activity(
            run_pipeline,
            execution_id,
            start_to_close_timeout=timedelta(seconds=HARD_LIMIT_SECONDS),
            retry_policy=RetryPolicy(maximum_attempts=1),
        )


def serve(processes: int, lanes: Sequence[str]) -> None:
    """Carry out executions of the lanes, so many at once, until a signal ends it."""
    asyncio.run(_serve(processes, lanes, stopped_by_signal()))


async def _serve(processes: int, lanes: Sequence[str], stopping: Event) -> None:
    client = await Client.connect(engines.address())
    hands = ThreadPoolExecutor(processes)
    workers = [
        Worker(
            client,
            task_queue=PREFIX + lane,
            workflows=[RunPipeline],
            activities=[run_pipeline],
            activity_executor=hands,
            max_concurrent_activities=processes,
            workflow_runner=UnsandboxedWorkflowRunner(),  # all that it does stands above
            graceful_shutdown_timeout=timedelta(seconds=settings().spine_drain_seconds),
        )
        for lane in lanes
    ]
    serving = asyncio.gather(*(worker.run() for worker in workers))
    told = asyncio.create_task(asyncio.to_thread(stopping.wait))
    either: set[asyncio.Future[Any]] = {serving, told}
    await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
    if serving.done():
        stopping.set()  # or the thread that waits for it would keep this process
        serving.result()
    try:
        ended = asyncio.gather(*(worker.shutdown() for worker in workers))
        await asyncio.wait_for(ended, settings().spine_drain_seconds)
    except TimeoutError:
        engines.cut_off()
