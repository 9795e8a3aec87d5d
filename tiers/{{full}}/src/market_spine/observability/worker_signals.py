"""What a worker of Celery does for log, metrics and traces, when Celery says that it may.

Its processes are forked: each sends its own traces, and they count together.
"""

from typing import Any

from celery.signals import (
    setup_logging,
    task_postrun,
    task_prerun,
    worker_process_init,
    worker_process_shutdown,
    worker_ready,
)
from celery.utils.log import get_multiprocessing_logger

from market_spine import observability
from market_spine.observability import metrics, runs, traces


def connect() -> None:
    """Listen from now on, in the worker and in what it will fork."""
    metrics.begin_for_children()
    setup_logging.connect(_leave_logging)
    worker_ready.connect(_serve_metrics)
    task_prerun.connect(_begin_message)
    task_postrun.connect(_end_message)
    worker_process_init.connect(_begin)
    worker_process_shutdown.connect(_end)


def _leave_logging(**_: object) -> None:
    """Where somebody answers this signal, Celery adds no lines in a format of its own."""
    of_processes = get_multiprocessing_logger()
    if of_processes:
        of_processes.propagate = True  # or it writes by itself


def _serve_metrics(**_: object) -> None:
    metrics.serve()  # not before: a process that was forked later keeps the port open


def _begin_message(args: tuple[str], **_: Any) -> None:
    runs.carried(*args)


def _end_message(**_: Any) -> None:
    observability.execution.set(None)


def _begin(**_: object) -> None:
    traces.begin()


def _end(**_: object) -> None:
    traces.end()
