"""The ledger's figures among the metrics of the API, and nowhere else: they would count twice."""

import time
from collections.abc import Iterator
from functools import cache
from threading import Lock

from prometheus_client import REGISTRY
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from market_spine import database, health
from market_spine.deadline import query_seconds
from market_spine.errors import StoreError
from market_spine.settings import settings

SCRAPE_SECONDS = 3.0  # for a query; Prometheus gives up after 10, and then hears not even that


class LedgerFigures(Collector):
    """Reads them when they are asked for."""

    def __init__(self) -> None:
        self._reads = Lock()  # whoever has it: however many ask, one session with the store is used
        self._began = float("-inf")
        self._found: list[Metric] = []

    def describe(self) -> list[Metric]:
        """Nothing, for the names are not needed before."""
        return []

    def collect(self) -> list[Metric]:
        """The figures, and whether the store has answered."""
        asked = time.monotonic()
        with self._reads:
            if self._began < asked:  # or somebody has read since, while this one waited
                self._began = time.monotonic()
                self._found = [*_read()]
            return self._found


def _read() -> Iterator[Metric]:
    query_seconds.set(min(settings().spine_query_seconds, SCRAPE_SECONDS))
    up = GaugeMetricFamily("spine_store_up", "Whether the store answers the API.", 1)
    try:
        with database.snapshot() as connection:
            found = health.health(connection)
    except StoreError:
        yield GaugeMetricFamily(up.name, up.documentation, 0)
        return
    yield up
    yield from text_string_to_metric_families(health.prometheus(found))


@cache
def register() -> None:
    """Tell them in this process."""
    REGISTRY.register(LedgerFigures())
