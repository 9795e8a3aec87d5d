"""Whatever is killed, stopped, emptied or repeated: the same result once, and a ledger in order."""

import random
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from itertools import combinations
from pathlib import Path

import pytest

from market_spine import dispatcher
from market_spine.errors import ResourceInUseError
from market_spine.guard import OnConflict
from market_spine.schema import dead_letters, executions, resource_claims
from tests.chaos import faults
from tests.fleet import Fleet, fleet_in
from tests.support import REPO, Spine, spine_in

DAYS = {"start_date": "2025-11-24", "end_date": "2025-12-03"}
BACKFILL = {"path": str(REPO / "data/otc_sample.csv"), **DAYS}
MOST_KILLS = 2  # in a round: an execution that is lost as often as it may be begun has failed
KILLS = (faults.kill_child, faults.kill_worker, faults.kill_worker_alone, faults.pause_child)
FAILS = "raise ZeroDivisionError('by zero')"


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[object, ...]:
    """What the backfill makes where nothing happens."""
    with spine_in(tmp_path_factory.mktemp("undisturbed"), "postgresql") as spine:
        spine.run("otc_backfill_range", **BACKFILL)
        return result(spine)


def result(spine: Spine) -> tuple[object, ...]:
    """Silver and gold, and the rejected records, without ids and clock columns."""
    known = ("known_from", "known_to")  # when a capture was made
    versions = [
        {name: value for name, value in row.items() if name not in known}
        for row in spine.versions()
    ]
    return sorted(map(str, versions)), spine.gold(), spine.rejected()


def check(fleet: Fleet, expected: tuple[object, ...]) -> None:
    """Nothing is missing, nothing is there twice, and every row is what its events amount to."""
    spine = fleet.spine
    spine.check_ledger()
    assert result(spine) == expected
    assert spine.rows(resource_claims) == []
    failed = [row["id"] for row in spine.executions() if row["status"] == "failed"]
    letters = [
        row["execution_id"] for row in spine.rows(dead_letters) if row["kind"] == "execution"
    ]
    assert sorted(letters) == sorted(failed)
    fleet.until(lambda: fleet.mended(1, 1) and spine("doctor").code == 0)
    assert all(
        row["pipeline"] == "fails" for row in spine.executions() if row["status"] == "failed"
    )


def begin(fleet: Fleet) -> None:
    fleet.spine.pipeline("fails", FAILS)
    dispatcher.submit("otc_backfill_range", BACKFILL)
    dispatcher.submit("fails", {})


def test_random_faults_change_nothing(
    number: int, seed: int, undisturbed: tuple[object, ...], tmp_path: Path
) -> None:
    chance = random.Random(f"{seed} {number}")
    kills = 0
    with fleet_in(tmp_path) as fleet:
        fleet.mended(workers=2, relays=2)
        begin(fleet)
        for _ in range(chance.randint(2, 6)):
            time.sleep(chance.uniform(0, 2))
            fleet.mended(workers=2, relays=2)
            fault = chance.choice(faults.FAULTS)
            if fault in KILLS:
                kills += 1
                if kills > MOST_KILLS:
                    continue
            fault(fleet, chance)
        fleet.until(lambda: fleet.mended(2, 2) and fleet.is_at_rest())
        check(fleet, undisturbed)


POINTS = [("worker", *point) for point in faults.RUNNER_POINTS] + [
    ("relay", *point) for point in faults.RELAY_POINTS
]


def test_a_signal_at_a_named_point_changes_nothing(
    number: int, seed: int, undisturbed: tuple[object, ...], tmp_path: Path
) -> None:
    chance = random.Random(f"{seed} {number // len(POINTS)}")
    role, point, side = chance.sample(POINTS, len(POINTS))[number % len(POINTS)]
    trap = faults.trap(point, side, chance.choice(faults.SIGNALS))
    with fleet_in(tmp_path) as fleet:
        fleet.worker(trap=trap if role == "worker" else "")
        fleet.relay(trap=trap if role == "relay" else "")
        begin(fleet)
        if role == "relay":  # let it have something to do
            fleet.broker.flush()
            fleet.until(lambda: "running" in fleet.statuses() or fleet.is_at_rest())
            faults.kill_child(fleet, chance)
        fleet.until(lambda: fleet.mended(1, 1) and fleet.is_at_rest())
        check(fleet, undisturbed)


def test_of_a_hundred_backfills_at_once_those_that_overlap_are_never_live_together(
    tmp_path: Path,
) -> None:
    chance = random.Random(0)
    asked = [
        (chance.randint(1, 25), chance.randint(0, 5), chance.choice("ABC*")) for _ in range(100)
    ]

    def submit(first: int, length: int, symbol: str) -> bool:
        only = {} if symbol == "*" else {"symbols": symbol}
        days = {"start_date": date(2025, 9, first), "end_date": date(2025, 9, first + length)}
        params = {**BACKFILL, **days, **only}
        how: OnConflict = "queue" if first % 2 else "reject"
        try:
            dispatcher.submit("otc_backfill_range", params, on_conflict=how)
        except ResourceInUseError:
            return False
        return True

    with fleet_in(tmp_path) as fleet, ThreadPoolExecutor(8) as pool:
        fleet.mended(workers=2, relays=2)
        accepted = list(pool.map(lambda one: submit(*one), asked))
        assert 50 <= sum(accepted) < 100
        fleet.until(fleet.is_at_rest)
        assert set(fleet.statuses()) == {"succeeded"}
        assert fleet.spine.rows(resource_claims) == []
        assert overlapping(fleet) == []


def overlapping(fleet: Fleet) -> list[tuple[object, ...]]:
    """The backfills that claimed the same and were at work at the same time."""
    roots = [row for row in fleet.spine.rows(executions) if row["parent_id"] is None]
    return [
        (one["id"], other["id"])
        for one, other in combinations(roots, 2)
        if claim_the_same(one["params"], other["params"])
        and one["started_at"] < other["finished_at"]
        and other["started_at"] < one["finished_at"]
    ]


def claim_the_same(one: dict[str, str], other: dict[str, str]) -> bool:
    """Whether two backfills want a symbol's day in common."""
    symbols = [one["symbols"], other["symbols"]]
    return (
        (None in symbols or symbols[0] == symbols[1])
        and one["start_date"] <= other["end_date"]
        and other["start_date"] <= one["end_date"]
    )
