"""What the backends have in common whose messages a server of another make carries: an engine.

The library of an engine is in an environment of its own, because it is particular about what else
is installed. It is needed where work is carried out, and each module here, which defines that work
in the engine's terms, imports its own. Whoever submits does without.
"""

import logging
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import copy_context
from importlib import import_module
from threading import Timer
from types import FrameType
from uuid import UUID

from sqlalchemy import update

from market_spine import database, leases, ledger, observability
from market_spine.errors import RequestError, StoreError
from market_spine.observability import logs, metrics, runs
from market_spine.schema import executions
from market_spine.settings import settings

TASK = "run_pipeline"  # what the work is called in each engine
ENGINE_SECONDS = 2.0  # for an engine to be reached, or to answer
SPARED_SECONDS = 5.0  # for which one that failed a lane is left alone, so that nobody waits

log = logging.getLogger(__name__)
_failed_at: dict[str, float] = {}  # by lane: one may lack what others have, such as a worker


def address() -> str:
    """Where the engine's server is.

    Raises:
        RequestError: SPINE_BACKEND_URL does not say.
    """
    url = settings().spine_backend_url
    if not url:
        raise RequestError(f"SPINE_BACKEND_URL must say where {settings().spine_backend} is")
    return url.rstrip("/")


def hand_over(execution_id: UUID, lane: str, tell: Callable[[], object]) -> None:
    """Tell an engine of an execution; if that fails, however it does, leave it to the relay."""
    if time.monotonic() - _failed_at.get(lane, float("-inf")) > SPARED_SECONDS:
        try:
            tell()
        except Exception as error:  # each has its own
            first, *_ = str(error).splitlines() or [type(error).__name__]
            with database.snapshot() as connection:
                execution = ledger.get(connection, execution_id)
            with observability.about(execution):
                log.warning("%s cannot be told: %s", settings().spine_backend, first)
            _failed_at[lane] = time.monotonic()
        else:
            return
    with database.transaction() as connection:
        connection.execute(
            update(executions)
            .where(executions.c.id == execution_id, executions.c.status == "queued")
            .values(dispatched_at=None)
        )


def serve(name: str, processes: int, lanes: Sequence[str] | None) -> None:
    """Be a worker of an engine until a signal ends it.

    Args:
        name: the engine's.
        processes: how many executions at once.
        lanes: only these; None: every one.

    Raises:
        RequestError: its library is not installed here.
    """
    from market_spine import worker

    metrics.begin_for_children()  # before the engine's library, which may load Prometheus' client
    try:
        engine = import_module(f"{__name__}.{name}")
    except ModuleNotFoundError as error:
        todo = f"type `make backends`, then .venv/backends/{name}/bin/spine worker"
        raise RequestError(f"SPINE_BACKEND: {error} is installed here; {todo}") from error
    with holding_leases():
        metrics.serve()
        engine.serve(processes, lanes or worker.lanes())


@contextmanager
def holding_leases() -> Iterator[None]:
    """Claim with leases, and be known as a worker, while the block runs."""
    leases.hold()
    try:
        yield
    finally:
        leases.let_go()


@runs.apart
def carry_out(execution_id: str) -> None:
    """Carry out an execution in this process, unless somebody has."""
    from market_spine import runner

    runs.carried(execution_id)
    try:
        runner.run_pipeline(UUID(execution_id))
    except StoreError as error:  # before the claim, or behind the end: the relay sees to it
        log.warning("execution %s: %s", execution_id, error)


def carry_out_alone(execution_id: str) -> None:
    """Carry out an execution in a process of its own, which may finish it after SIGTERM."""
    logs.take_over()
    metrics.begin_for_one_run()
    earlier = signal.signal(signal.SIGTERM, _end_in_time)
    try:
        with holding_leases():
            carry_out(execution_id)
    finally:
        signal.signal(signal.SIGTERM, earlier)


def _end_in_time(_number: int, _frame: FrameType | None) -> None:
    # What it says is about what was interrupted.
    timer = Timer(settings().spine_drain_seconds, copy_context().run, (cut_off,))
    timer.daemon = True
    timer.start()


def cut_off() -> None:
    """End this process with what it runs, whose lease expires, so that it is attempted again."""
    log.warning("not all was done within SPINE_DRAIN_SECONDS: cut off")
    os._exit(1)
