"""The counters and histograms, by Prometheus' client, which decides with its import who adds up.

With PROMETHEUS_MULTIPROC_DIR, each process keeps its figures in a file there.
"""

import os
from collections.abc import Iterable

from prometheus_client import (
    REGISTRY,
    CollectorRegistry,
    Counter,
    Histogram,
    Metric,
    ProcessCollector,
)
from prometheus_client.multiprocess import MultiProcessCollector

RUN_SECONDS = (0.01, 0.05, 0.1, 0.5, 1, 5, 10, 30, 60, 300, 900, 3600)
REQUEST_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10)


class Instruments:
    """What the processes count; each has a value where it happens, and none elsewhere."""

    def __init__(self) -> None:
        self.requests = Counter(
            "spine_http_requests_total",
            "Requests that were answered.",
            ("method", "route", "status"),
        )
        self.request_seconds = Histogram(
            "spine_http_request_seconds",
            "Time until the answer to a request began.",
            ("method", "route"),
            buckets=REQUEST_SECONDS,
        )
        self.runs = Counter(
            "spine_runs_total",
            "Attempts at executions that are over, by how they ended.",
            ("pipeline", "lane", "outcome"),
        )
        self.run_seconds = Histogram(
            "spine_run_seconds",
            "Time that an attempt took.",
            ("pipeline", "lane"),
            buckets=RUN_SECONDS,
        )
        self.rows = Counter(
            "spine_rows_total",
            "What the stages of committed runs say that they counted.",
            ("pipeline", "stage", "kind"),
        )
        self.dispatched = Counter(
            "spine_relay_dispatched_total", "Executions that the relay told the broker of."
        )
        self.taken_back = Counter(
            "spine_relay_taken_back_total", "Executions that were taken back from lost workers."
        )
        self.ticks = Counter(
            "spine_schedule_ticks_total", "Ticks that beat has submitted.", ("schedule",)
        )


class Together(MultiProcessCollector):
    """Adds up the figures of all processes."""

    def collect(self) -> Iterable[Metric]:
        """Add up, and once more if a file of no use has gone meanwhile."""
        try:
            found: Iterable[Metric] = super().collect()  # type: ignore[no-untyped-call]
        except FileNotFoundError:
            found = super().collect()  # type: ignore[no-untyped-call]
        return found


def registry() -> CollectorRegistry:
    """What is told: the figures of this process, or of all that it has forked."""
    if "PROMETHEUS_MULTIPROC_DIR" not in os.environ:
        return REGISTRY
    together = CollectorRegistry()
    Together(together)  # type: ignore[no-untyped-call]
    ProcessCollector(registry=together)
    return together
