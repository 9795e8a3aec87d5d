"""Mixed traffic while workers are killed and the broker is restarted: none fails or is lost.

Here for a few seconds at a low rate. `make load` first finds the highest rate at which 99 of 100
reads take less than LIMIT_MS, then keeps it up for three minutes, and prints what it has measured.
"""

import os
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from threading import Thread

import psutil
import pytest
from sqlalchemy import select

from market_spine import database, dispatcher
from market_spine.schema import executions
from tests.fleet import Fleet, fleet_in
from tests.load.traffic import READS, Traffic
from tests.observability.test_metrics import free_port
from tests.support import REPO

SAMPLE = str(REPO / "data/otc_sample.csv")
DAYS = {"start_date": "2025-11-24", "end_date": "2025-12-05"}
SECONDS = float(os.environ.get("LOAD_SECONDS") or 12)
FINDS_RATE = "LOAD_SECONDS" in os.environ
RATE = 30.0  # requests a second, where none is looked for
RATES = [25.0 * 1.3**step for step in range(16)]
TRIAL_SECONDS = 10.0
LIMIT_MS = 100.0
MEMBERS = {"workers": 2, "relays": 1, "beats": 1, "apis": 1}
SCHEDULES = '[often]\npipeline = "ends"\ninterval = 1\n'
FAILS = "raise ZeroDivisionError('by zero')"
# A process that grows by more than this, between two thirds of its life, holds on to something.
GROWTH, GROWTH_MB = 1.1, 4.0


@dataclass
class Memory:
    """What each process holds, in MB: the role it has and its samples, by its number."""

    samples: dict[int, tuple[str, list[float]]] = field(default_factory=dict)

    def look(self, fleet: Fleet) -> None:
        for role in ("api", "worker", "relay", "beat"):
            for member in fleet.alive(role):
                found = psutil.Process(member.process.pid)
                self._add(role, found)
                for child in found.children() if role == "worker" else ():
                    self._add("worker's child", child)

    def _add(self, role: str, process: psutil.Process) -> None:
        try:
            held = process.memory_info().rss / 1e6
        except psutil.Error:  # it was killed just now
            return
        self.samples.setdefault(process.pid, (role, []))[1].append(held)

    def thirds(self) -> Iterator[tuple[str, float, float]]:
        """The role of each process, and what it held in the second and the last third."""
        for role, held in self.samples.values():
            if len(held) >= 9:
                third = len(held) // 3
                yield role, median(held[third:-third]), median(held[-third:])


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    with fleet_in(
        tmp_path,
        SPINE_API_SOURCES=str(REPO / "data"),
        SPINE_API_RATE="1000000",
        SPINE_DRAIN_SECONDS="20",
        SPINE_METRICS_PORT=free_port(),
    ) as found:
        found.spine.pipeline("fails", FAILS)
        found.spine.pipeline("ends", "return {}")
        (tmp_path / "schedules.toml").write_text(SCHEDULES)
        found.mended(**MEMBERS)
        dispatcher.submit("otc_backfill_range", {"path": SAMPLE, **DAYS})
        found.until(found.is_at_rest)
        yield found


@pytest.fixture
def key(fleet: Fleet) -> str:
    """A key for all that is asked."""
    scopes = [word for scope in ("read", "submit", "operate") for word in ("--scope", scope)]
    return fleet.spine.ok("keys", "make", "load", *scopes).out.strip()


def traffic(fleet: Fleet, key: str, rate: float, seconds: float) -> Traffic:
    (api,) = fleet.alive("api")
    fleet.until(lambda: api.address)
    return Traffic(str(api.address), key, rate, seconds, SAMPLE)


def highest_rate(fleet: Fleet, key: str) -> float:
    """The highest of RATES that reads bear, each tried for a while."""
    found = RATES[0]
    for rate in RATES:
        tried = traffic(fleet, key, rate, TRIAL_SECONDS)
        tried.run()
        print(f"{rate:6.0f}/s: p99 of reads {tried.p99(*READS):.1f} ms", flush=True)
        fleet.until(fleet.is_at_rest)
        if tried.p99(*READS) >= LIMIT_MS or tried.wrong:
            break
        found = rate
    return found


def with_faults(fleet: Fleet, key: str, rate: float) -> tuple[Traffic, Memory]:
    """Traffic with two workers killed and the broker restarted inside it."""
    sent, memory = traffic(fleet, key, rate, SECONDS), Memory()
    fleet.later(SECONDS * 0.25, lambda: fleet.alive("worker")[0].kill_all())
    fleet.later(SECONDS * 0.5, lambda: fleet.alive("worker")[-1].kill_all())
    fleet.later(SECONDS * 0.7, fleet.broker.stop)
    fleet.later(SECONDS * 0.7 + 1, fleet.broker.start)
    running = Thread(target=sent.run, daemon=True)
    running.start()
    while running.is_alive():
        fleet.mended(**MEMBERS)
        memory.look(fleet)
        time.sleep(0.5)
    fleet.calm()
    return sent, memory


def test_traffic_with_faults_inside_it_loses_nothing(fleet: Fleet, key: str) -> None:
    rate = highest_rate(fleet, key) if FINDS_RATE else RATE
    sent, memory = with_faults(fleet, key, rate)
    while FINDS_RATE and sent.p99(*READS) >= LIMIT_MS:  # the faults cost something, too
        print(f"{rate:6.0f}/s with faults: p99 of reads {sent.p99(*READS):.1f} ms", flush=True)
        rate /= 1.3
        fleet.until(fleet.is_at_rest)
        sent, memory = with_faults(fleet, key, rate)
    tell(sent, memory)
    assert sent.wrong == []
    assert sum(pipeline == "ends" for pipeline in sent.accepted.values()) > 0

    fleet.until(lambda: fleet.mended(**MEMBERS) and fleet.is_at_rest())
    row = executions.c
    with database.snapshot() as connection:  # all of them, of which a list shows the newest
        found = connection.execute(select(row.id, row.pipeline, row.status)).all()
    shown = {str(one): (pipeline, status) for one, pipeline, status in found}
    ends = {"ends": "succeeded", "fails": "failed", "otc_backfill_day": "succeeded"}
    assert {one: shown.get(one) for one in sent.accepted} == {
        one: (pipeline, ends[pipeline]) for one, pipeline in sent.accepted.items()
    }
    fleet.spine.check_ledger()
    fleet.until(lambda: fleet.mended(**MEMBERS) and fleet.spine("doctor").code == 0)
    if FINDS_RATE:
        grown = [one for one in memory.thirds() if one[2] > one[1] * GROWTH + GROWTH_MB]
        assert grown == []


def tell(sent: Traffic, memory: Memory) -> None:
    print(f"\n{sent.rate:.0f} requests a second for {sent.seconds:.0f} s: {len(sent.answers)}")
    for kind in sorted({answer.kind for answer in sent.answers}):
        mine = [answer for answer in sent.answers if answer.kind == kind]
        half = median(answer.seconds for answer in mine) * 1e3
        codes = dict(sorted(Counter(answer.status for answer in mine).items()))
        print(f"{kind:8} median {half:7.1f} ms, p99 {sent.p99(kind):7.1f} ms, {codes}")
    print(f"reads    p99 {sent.p99(*READS):.1f} ms")
    for role, before, after in memory.thirds():
        print(f"{role:14} {before:6.1f} MB, then {after:6.1f} MB")
