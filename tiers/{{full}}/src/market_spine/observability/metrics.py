"""What a process counts for Prometheus, and the port at which it tells it.

A process that nobody asks counts nothing, and does not load Prometheus' client.
"""

import atexit
import fcntl
import itertools
import logging
import os
import shutil
from pathlib import Path
from tempfile import mkdtemp
from typing import TYPE_CHECKING, Any

from market_spine.settings import settings

if TYPE_CHECKING:
    from collections.abc import Sequence

    from market_spine.ledger import Execution
    from market_spine.observability.instruments import Instruments

log = logging.getLogger(__name__)
_instruments: "Instruments | None" = None


def begin() -> "Instruments":
    """Count from now on; returns what is counted."""
    global _instruments
    if _instruments is None:
        from market_spine.observability.instruments import Instruments

        _instruments = Instruments()
    return _instruments


def begin_for_children() -> None:
    """Count from now on in the processes that this one will fork, together."""
    if not settings().spine_metrics_port:
        return
    folder = mkdtemp(prefix="spine-metrics-")  # with a file of figures for each process
    atexit.register(_remove, folder, os.getpid())
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = folder
    begin()


def begin_for_one_run() -> None:
    """Count from now on in a process that works for one whose children count together.

    There will be thousands of them, so that each goes on with the file of one that has ended.
    """
    if not settings().spine_metrics_port:
        return
    if folder := os.environ.get("PROMETHEUS_MULTIPROC_DIR"):
        from prometheus_client import values

        for file in Path(folder).glob(f"*_{os.getpid()}.db"):
            file.unlink()  # of the engine's own library, for which nobody asks
        locks = (Path(folder) / f"{number}.lock" for number in itertools.count())
        name = f"run-{next(filter(_is_taken, locks)).stem}"
        values.ValueClass = values.MultiProcessValue(lambda: name)  # type: ignore[no-untyped-call]
    begin()


def _is_taken(path: Path) -> bool:
    """Take a lock until this process ends; False: another one has it."""
    lock = os.open(path, os.O_CREAT | os.O_RDWR)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        return False
    return True


def _remove(folder: str, owner: int) -> None:
    if os.getpid() == owner:
        shutil.rmtree(folder, ignore_errors=True)


def serve() -> None:
    """Tell at SPINE_METRICS_PORT what is counted here, until the process ends."""
    port = settings().spine_metrics_port
    if not port:
        return
    begin()
    from prometheus_client import start_http_server

    from market_spine.observability.instruments import registry

    try:
        start_http_server(port, registry=registry())
    except OSError as error:
        log.warning("no metrics: cannot listen on port %s (SPINE_METRICS_PORT): %s", port, error)


def count_run(
    execution: "Execution",
    outcome: str,
    seconds: float,
    stages: "Sequence[tuple[str, dict[str, Any]]]",
) -> None:
    """Count an attempt that is over, and the rows of its stages."""
    if _instruments is None:
        return
    _instruments.runs.labels(execution.pipeline, execution.lane, outcome).inc()
    _instruments.run_seconds.labels(execution.pipeline, execution.lane).observe(seconds)
    for stage, counts in stages:
        for kind, count in counts.items():
            if isinstance(count, int):
                _instruments.rows.labels(execution.pipeline, stage, kind).inc(count)


def count_relayed(told: int, taken_back: int) -> None:
    """Count what a relay told the broker of, and what it took back."""
    if _instruments is not None:
        _instruments.dispatched.inc(told)
        _instruments.taken_back.inc(taken_back)


def count_tick(schedule: str) -> None:
    """Count a tick that beat has submitted."""
    if _instruments is not None:
        _instruments.ticks.labels(schedule).inc()
