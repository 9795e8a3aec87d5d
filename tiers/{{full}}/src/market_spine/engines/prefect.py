"""Workers of Prefect: each serves the deployments of its lanes, and a run has its own process."""

import asyncio
import os
import signal
import time
from collections.abc import Sequence
from threading import Event

from market_spine import engines
from market_spine.cli._signals import stopped_by_signal
from market_spine.settings import settings

# All must be said before Prefect is imported; without an address it would be a server by itself.
os.environ["PREFECT_API_URL"] = engines.address()
os.environ.setdefault("DO_NOT_TRACK", "1")
# What is said before a run's process has our log; the server shows how each run ended.
os.environ.setdefault("PREFECT_LOGGING_LEVEL", "WARNING")

from prefect import flow
from prefect.runner import Runner
from prefect.types.entrypoint import EntrypointType

POLL_SECONDS = 1.0


@flow(name=engines.TASK, validate_parameters=False, persist_result=False)
def run_pipeline(execution_id: str) -> None:
    """Carry out an execution, unless somebody has."""
    engines.carry_out_alone(execution_id)


def serve(processes: int, lanes: Sequence[str]) -> None:
    """Carry out executions of the lanes, so many at once, until a signal ends it."""
    asyncio.run(_serve(processes, lanes, stopped_by_signal()))


async def _serve(processes: int, lanes: Sequence[str], stopping: Event) -> None:
    runner = Runner(limit=processes, query_seconds=POLL_SECONDS, pause_on_shutdown=False)
    for lane in lanes:
        made = run_pipeline.ato_deployment(lane, entrypoint_type=EntrypointType.MODULE_PATH)
        await runner.aadd_deployment(await made)
    # By itself it would end what runs at once, so it is not told of the signal.
    told = signal.getsignal(signal.SIGTERM)
    serving = asyncio.create_task(runner.start())
    await asyncio.sleep(0)
    signal.signal(signal.SIGTERM, told)
    while not stopping.is_set():
        if serving.done():
            serving.result()
            return
        await asyncio.sleep(POLL_SECONDS)
    runner._scheduled_run_poller.stopping = True
    deadline = time.monotonic() + settings().spine_drain_seconds
    while runner._flow_run_process_map and time.monotonic() < deadline:
        await asyncio.sleep(0.1)
    if runner._flow_run_process_map:
        engines.cut_off()
    await runner.astop()
    await asyncio.wait({serving})
