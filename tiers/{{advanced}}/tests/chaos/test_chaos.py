"""Whatever is killed, stopped, emptied or repeated: the same result once, and a ledger in order."""

import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import date
from functools import partial
from itertools import combinations, count
from pathlib import Path
from threading import Event, Thread
from uuid import UUID

import pytest
from redis import Redis

from market_spine import dispatcher
from market_spine.errors import ResourceInUseError, StoreUnavailableError
from market_spine.guard import OnConflict
from market_spine.schema import dead_letters, executions, resource_claims
from tests.chaos import faults, traps
from tests.fleet import Fleet, fleet_in
from tests.servers import Postgres
from tests.support import REPO, Spine, spine_in

DAYS = {"start_date": "2025-11-24", "end_date": "2025-12-03"}
BACKFILL = {"path": str(REPO / "data/otc_sample.csv"), **DAYS}
FAILS = "raise ZeroDivisionError('by zero')"
ENDS = "return {}"
SLOW = (
    "import pathlib, time",
    "while not pathlib.Path('go').exists():",
    "    context.checkpoint('waiting', 0)",
    "    time.sleep(0.02)",
    "return {}",
)
SCHEDULES = """
[often]
pipeline = "ends"
interval = 1
[also-often]
pipeline = "ends"
interval = 2
"""
CALL_SECONDS = 0.3  # between two requests


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
    failed = [row for row in spine.executions() if row["status"] == "failed"]
    wrongly = [row["id"] for row in failed if row["pipeline"] != "fails"]
    assert not wrongly, [spine.ok("executions", "show", one).out for one in wrongly]
    letters = [
        row["execution_id"] for row in spine.rows(dead_letters) if row["kind"] == "execution"
    ]
    assert sorted(letters) == sorted(row["id"] for row in failed)
    fleet.until(lambda: fleet.mended(1, 1, 1) and spine("doctor").code == 0)


def check_ticks(fleet: Fleet) -> None:
    """Each tick was submitted at most once."""
    rows = fleet.spine.rows(executions)
    ticks = [row["idempotency_key"] for row in rows if row["trigger_source"] == "schedule"]
    assert {tick.split()[1] for tick in ticks} == {"often", "also-often"}
    assert len(ticks) == len({*ticks})


class Caller(Thread):
    """Somebody who submits over HTTP again and again, each time until it is answered."""

    def __init__(self, fleet: Fleet) -> None:
        super().__init__(daemon=True)
        self.answers: dict[str, UUID] = {}  # by the key
        self.fleet = fleet
        self.has_enough = Event()

    def run(self) -> None:
        for number in count():
            while (answer := self.fleet.submitted(f"call-{number}", "ends")) is None:
                self.has_enough.wait(CALL_SECONDS)
            self.answers[f"call-{number}"] = answer
            if self.has_enough.wait(CALL_SECONDS):
                break

    def check(self) -> None:
        """What was answered is there, once."""
        rows = self.fleet.spine.rows(executions)
        found = {row["idempotency_key"]: row["id"] for row in rows if row["pipeline"] == "ends"}
        assert {key: found.get(key) for key in self.answers} == {
            key: str(answer) for key, answer in self.answers.items()
        }


@contextmanager
def fleet_on(server: Postgres, folder: Path) -> Iterator[Fleet]:
    """A fleet that everything may be done to."""
    sources = str(REPO / "data")
    with fleet_in(folder, server=server, may_hang=True, SPINE_API_SOURCES=sources) as fleet:
        fleet.spine.pipeline("fails", FAILS)
        fleet.spine.pipeline("ends", ENDS)
        fleet.spine.pipeline("slow", *SLOW)
        (folder / "schedules.toml").write_text(SCHEDULES)
        yield fleet


def submit(fleet: Fleet, key: str, pipeline: str, **body: object) -> UUID:
    """Submit over HTTP until it is answered, with one API that is started again when it ends."""
    answers: list[UUID] = []

    def is_answered() -> bool:
        fleet.mended(apis=1)
        answers.extend(filter(None, [fleet.submitted(key, pipeline, **body)]))
        return bool(answers)

    fleet.until(is_answered)
    return answers[0]


def backfill(fleet: Fleet, key: str) -> UUID:
    """Ask for the backfill; it waits for an earlier one."""
    return submit(fleet, key, "otc_backfill_range", params=BACKFILL, on_conflict="queue")


def come_to_rest(fleet: Fleet, **members: int) -> None:
    """End what submits, and wait until all of it is done."""
    fleet.calm()
    fleet.until(lambda: fleet.mended(**members) and ticks_are_there(fleet))
    for beat in fleet.alive("beat"):
        beat.process.terminate()
    fleet.until(lambda: not fleet.alive("beat"))
    fleet.until(lambda: fleet.mended(**members | {"beats": 0}) and fleet.is_at_rest())


def ticks_are_there(fleet: Fleet) -> bool:
    asked = "SELECT count(DISTINCT split_part(idempotency_key, ' ', 2)) FROM executions"
    return bool(fleet.one(f"{asked} WHERE trigger_source = 'schedule'") == 2)


def test_random_faults_change_nothing(
    seed: int, undisturbed: tuple[object, ...], server: Postgres, tmp_path: Path
) -> None:
    members = {"workers": 3, "relays": 2, "beats": 2, "apis": 1}
    with fleet_on(server, tmp_path) as fleet:
        fleet.preamble = faults.FIVE_TIMES if seed % 2 else ""
        fleet.mended(**members)
        submit(fleet, "fails", "fails")
        caller = Caller(fleet)
        caller.start()
        for number, step in enumerate(faults.plan(seed)):
            backfill(fleet, f"backfill-{number}")
            fleet.mended(**members)
            faults.inflict(fleet, step)
        fleet.calm()
        caller.has_enough.set()
        fleet.until(lambda: fleet.mended(**members) and not caller.is_alive())
        come_to_rest(fleet, **members)
        check(fleet, undisturbed)
        check_ticks(fleet)
        caller.check()


def has_begun(fleet: Fleet, execution_id: UUID) -> bool:
    return fleet.get(execution_id).started_at is not None


def test_a_postgres_that_is_restarted_and_then_killed_changes_nothing(
    undisturbed: tuple[object, ...], server: Postgres, tmp_path: Path
) -> None:
    with fleet_on(server, tmp_path) as fleet:
        fleet.mended(workers=2, relays=1)
        for stop in (server.stop, server.kill):
            submit(fleet, f"fails-{stop.__name__}", "fails")
            asked = backfill(fleet, f"backfill-{stop.__name__}")
            fleet.until(partial(has_begun, fleet, asked))
            stop()
            with pytest.raises(StoreUnavailableError):
                fleet.live()
            server.start()
            fleet.until(lambda: fleet.mended(workers=2, relays=1) and fleet.is_at_rest())
        check(fleet, undisturbed)


@pytest.mark.parametrize("reset", [False, True])
def test_a_broker_that_hangs_delays_a_submit_once_and_loses_nothing(
    reset: bool, tmp_path: Path
) -> None:
    with fleet_in(tmp_path, may_hang=True) as fleet:
        proxy = fleet.broker.proxy
        assert proxy is not None
        fleet.spine.pipeline("ends", ENDS)
        proxy.hang()
        delayed = dispatcher.submit("ends", {})
        assert fleet.get(delayed.id).dispatched_at is None, "the mark was taken back"
        proxy.go_on(reset=reset)
        with Redis.from_url(fleet.broker.url) as redis:  # accepted after those before it
            assert redis.ping()
        assert proxy.accepted == 2, "whoever submits waits for one answer, and not for a second"
        fleet.mended(workers=1, relays=1)
        fleet.until(fleet.is_at_rest)
        proxy.hang()
        submitted = [dispatcher.submit("ends", {}) for _ in range(20)]
        fleet.until(lambda: "Connection to broker lost" in fleet.said)
        proxy.go_on(reset=reset)
        fleet.until(fleet.is_at_rest)
        assert fleet.statuses() == {"succeeded": 1 + len(submitted)}
        assert len(fleet.alive("worker")) == len(fleet.alive("relay")) == 1
        fleet.spine.check_ledger()


def test_a_signal_at_a_named_point_changes_nothing(
    seed: int, undisturbed: tuple[object, ...], server: Postgres, tmp_path: Path
) -> None:
    """One of each role meets it, in the same round."""
    members = {"workers": 1, "relays": 1, "beats": 1, "apis": 1}
    with fleet_on(server, tmp_path) as fleet:
        fleet.worker(trap=traps.trap("worker", seed))
        fleet.relay(trap=traps.trap("relay", seed))
        fleet.beat(trap=traps.trap("beat", seed))
        fleet.api(trap=traps.trap("api", seed))
        slow = submit(fleet, "slow", "slow")
        fleet.until(lambda: fleet.mended(**members) and fleet.get(slow).started_at)
        if fleet.get(slow).attempt == 1:  # or else the trap has made the relay take it back
            faults.kill_process(str(fleet.get(slow).worker_id))
        (fleet.folder / "go").touch()
        submit(fleet, "fails", "fails")
        backfill(fleet, "backfill")
        trapped = [fleet.folder / f"trapped-{role}" for role in traps.POINTS]
        fleet.until(lambda: fleet.mended(**members) and all(path.exists() for path in trapped))
        come_to_rest(fleet, **members)
        check(fleet, undisturbed)
        check_ticks(fleet)


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
        refused = [one for one, was in zip(asked, accepted, strict=True) if not was]
        assert refused
        assert all(first % 2 == 0 for first, *_ in refused)  # those that queue never are
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
