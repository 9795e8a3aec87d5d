"""How quick a tier's API is: reads beside a store of ten times the days, and submits."""

from __future__ import annotations

import json
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from random import Random
from statistics import median, quantiles
from typing import Any
from urllib.parse import urlencode, urlsplit

from bench_pipeline import loaded
from harness import Bar, Report, Tier, bench_folder, say, tape

READS = 400  # of each kind and size
PAGE = 100  # trades
WINDOW = 10  # days of metrics
CLIENTS = 4
SECONDS = 10.0  # of submitting
LEAST_SUBMITS = {"idle": 300, "while it backfills": 100}
# With nothing to normalize it is the smallest work that there is.
SMALL_WORK = {"pipeline": "otc_normalize", "params": {}}


class Client:
    """A caller that keeps its connection."""

    def __init__(self, url: str) -> None:
        self._connection = HTTPConnection(urlsplit(url).netloc, timeout=60)

    def __call__(self, path: str, body: object = None) -> Any:
        """What is answered.

        Raises:
            SystemExit: it is no success.
        """
        method, data = ("GET", None) if body is None else ("POST", json.dumps(body))
        headers = {"Content-Type": "application/json"} if data else {}
        self._connection.request(method, path, data, headers)
        answer = self._connection.getresponse()
        said = answer.read()
        if answer.status >= 300:
            raise SystemExit(f"{method} {path}: {answer.status} {said[:500]!r}")
        return json.loads(said)


@contextmanager
def served(tier: Tier, store: str) -> Iterator[str]:
    """The API over a store; yields its URL."""
    process = subprocess.Popen(
        [tier.command, "api", "--port", "0"],
        cwd=tier.folder,
        env={**tier.environment(store), "SPINE_API_SOURCES": str(bench_folder())},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout
        url = next((word for word in process.stdout.readline().split() if "://" in word), None)
        if url is None:
            raise SystemExit("the API did not start")
        yield url
    finally:
        process.terminate()
        process.communicate()


# --- reads --------------------------------------------------------------------------------------


def reads(tier: Tier, trades: int) -> Report:
    """The slowest reads at a size and at ten times that size, asked in turn."""
    sizes = (trades, 10 * trades)
    stores = {size: loaded(tier, size) for size in sizes}
    seconds: dict[str, dict[int, list[float]]] = {
        kind: {size: [] for size in sizes} for kind in ("metrics", "trades")
    }
    random = Random(1)
    with served(tier, stores[sizes[0]]) as small, served(tier, stores[sizes[1]]) as large:
        clients = {sizes[0]: Client(small), sizes[1]: Client(large)}
        days = {size: days_by_symbol(tier, store) for size, store in stores.items()}
        say(f"{READS} reads of each kind and size")
        for number in range(READS + 20):
            for size, client in clients.items():
                for kind, path in paths(days[size], random).items():
                    began = time.perf_counter()
                    client(path)
                    if number >= 20:  # the first ones warm everything up
                        seconds[kind][size].append(time.perf_counter() - began)
    bars = []
    print(f"\n{'ms':<10}{'trades':>14}{'median':>10}{'p99':>10}")
    for kind, by_size in seconds.items():
        slowest = {size: quantiles(taken, n=100)[98] for size, taken in by_size.items()}
        for size, taken in by_size.items():
            print(f"{kind:<10}{size:14,}{median(taken) * 1000:10.2f}{slowest[size] * 1000:10.2f}")
        bars.append(
            Bar(
                name=f"p99 of {kind} in ten times the trades / in the trades",
                value=slowest[sizes[1]] / slowest[sizes[0]],
                bound=1.5,
            )
        )
    figures = {
        kind: {str(size): quantiles(taken, n=100) for size, taken in by_size.items()}
        for kind, by_size in seconds.items()
    }
    return Report(figures={"percentile_seconds": figures}, bars=bars)


def days_by_symbol(tier: Tier, store: str) -> dict[str, list[str]]:
    days: dict[str, list[str]] = {}
    for symbol, day, *_ in tier.contents(store)["gold"]:
        days.setdefault(symbol, []).append(day)
    return days


def paths(days: dict[str, list[str]], random: Random) -> dict[str, str]:
    """A request of each kind, for some days of some symbol."""
    symbol = random.choice(sorted(days))
    first = random.randrange(len(days[symbol]))
    window = {"symbol": symbol, "start": days[symbol][first]}
    last = days[symbol][min(first + WINDOW, len(days[symbol])) - 1]
    return {
        "metrics": f"/otc/metrics/daily?{urlencode({**window, 'end': last})}",
        "trades": f"/otc/trades?{urlencode({**window, 'end': last, 'limit': PAGE})}",
    }


# --- submits ------------------------------------------------------------------------------------


def submits(tier: Tier, trades: int) -> Report:
    """Submits a second, on one API process whose worker has nothing else to do, and has a lot."""
    figures: dict[str, Any] = {}
    bars = []
    for load, least in LEAST_SUBMITS.items():
        store = tier.new_store("submits")
        with served(tier, store) as url:
            if load != "idle":
                begin_backfill(Client(url), trades)
            say(f"submitting for {SECONDS:g} s, {load}")
            taken = submit_for(url, SECONDS)
        slowest = quantiles(taken, n=100)[98] * 1000
        figures[load] = {"a_second": len(taken) / SECONDS, "p99_ms": slowest}
        print(f"\nsubmits a second, {load}: {len(taken) / SECONDS:.0f} (p99 {slowest:.1f} ms)")
        bars.append(
            Bar(
                name=f"submits a second, {load}",
                value=len(taken) / SECONDS,
                bound=least,
                at_least=True,
            )
        )
    return Report(figures=figures, bars=bars)


def begin_backfill(client: Client, trades: int) -> None:
    """Submit a backfill that goes on for longer than is measured, and see it begin."""
    days = {"start_date": "2025-11-24", "end_date": "2026-11-20"}
    params = {"path": str(tape(trades)), **days}
    root = client("/executions", {"pipeline": "otc_backfill_range", "params": params})["id"]
    while not client(f"/executions?parent_id={root}&status=running")["items"]:
        time.sleep(0.1)


def submit_for(url: str, seconds: float) -> list[float]:
    """How long each submit took, of a few clients that do nothing else."""
    taken: list[float] = []
    until = time.perf_counter() + seconds

    def submit() -> None:
        client = Client(url)
        while (began := time.perf_counter()) < until:
            client("/executions", SMALL_WORK)
            taken.append(time.perf_counter() - began)

    threads = [threading.Thread(target=submit) for _ in range(CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return taken
