"""Admission: what a full lane refuses, what it never refuses, and what that costs."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from uuid import UUID

import pytest
from sqlalchemy import text

from market_spine import admission, database, dispatcher, ledger, relay, runner
from market_spine.errors import LaneFullError
from market_spine.schema import executions
from tests.house import until
from tests.postgres import Other
from tests.support import Spine

SUBMITTERS = 8
# Submits until it is refused, beside others that do so.
FLOOD = """
import sys
from market_spine import dispatcher
from market_spine.errors import LaneFullError
sys.stdin.readline()
while True:
    try:
        dispatcher.submit("otc_normalize", {})
    except LaneFullError:
        break
"""
MANY = b"""
INSERT INTO executions (id, root_id, pipeline, params, lane, trigger_source, status, attempt,
                        max_attempts, version, cancel_requested, created_at)
SELECT id, id, 'otc_normalize', '{}', 'default', 'cli', 'queued', 1, 3, 1, false, now()
FROM (SELECT gen_random_uuid() AS id FROM generate_series(1, 5000)) AS made
"""
SCHEDULES = """
[full]
pipeline = "otc_normalize"
interval = 31622400
[other]
pipeline = "otc_normalize"
interval = 1
lane = "other"
"""


@pytest.fixture(scope="module")
def store() -> str:
    """In SQLite nothing is refused."""
    return "postgresql"


@pytest.fixture(autouse=True)
def _idle(spine: Spine, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is submitted waits for a worker, and there is none; little may wait."""
    monkeypatch.setenv("SPINE_BACKEND", "thread")
    monkeypatch.setenv("SPINE_QUEUE_LIMIT", "3 backfill=1")
    monkeypatch.setenv("SPINE_QUEUE_SECONDS", "600")
    spine.restart()


def fill(pipeline: str = "otc_normalize", count: int = 3) -> list[UUID]:
    return [dispatcher.submit(pipeline, {}).id for _ in range(count)]


def queued(other: Other, lane: str = "default") -> int:
    counted = b"SELECT count(*) FROM executions WHERE status = 'queued' AND lane = %s"
    (found,) = other.execute(counted, [lane]).fetchone() or (0,)
    assert isinstance(found, int)
    return found


def has_room(pipeline: str = "otc_normalize") -> bool:
    try:
        dispatcher.submit(pipeline, {})
    except LaneFullError:
        return False
    return True


def test_a_full_lane_refuses_until_there_is_room(spine: Spine) -> None:
    first, *_ = fill()
    refused = spine("run", "otc_normalize", "--no-wait")
    refused.fails(2, "lane 'default'", "of 3", "SPINE_QUEUE_LIMIT")
    assert spine.count(executions) == 3
    dispatcher.cancel(first)
    until(has_room)
    assert spine.count(executions) == 4


def test_a_full_lane_says_nothing_of_another(other: Other) -> None:
    fill()
    dispatcher.submit("otc_normalize", {}, "other")
    days = {"start_date": "2025-11-24", "end_date": "2025-11-25"}
    dispatcher.submit("otc_backfill_range", days)
    later = {"start_date": "2025-12-01", "end_date": "2025-12-02"}
    with pytest.raises(LaneFullError, match="lane 'backfill' is too full"):
        dispatcher.submit("otc_backfill_range", later)
    assert [queued(other, lane) for lane in ("default", "other", "backfill")] == [3, 1, 1]


def test_a_key_that_is_known_is_answered_by_a_full_lane() -> None:
    first = dispatcher.submit("otc_normalize", {}, idempotency_key="k")
    fill(count=2)
    assert dispatcher.submit("otc_normalize", {}, idempotency_key="k").id == first.id
    with pytest.raises(LaneFullError):
        dispatcher.submit("otc_normalize", {}, idempotency_key="other")


def test_a_lane_whose_oldest_waits_for_too_long_is_full(spine: Spine, other: Other) -> None:
    fill(count=1)
    other.execute("UPDATE executions SET created_at = now() - interval '601 seconds'")
    spine.restart()
    spine("run", "otc_normalize", "--no-wait").fails(2, "'default'", "600 s", "SPINE_QUEUE_SECONDS")
    # It waits for its next attempt, or for what another one has claimed: it is not for a worker.
    other.execute("UPDATE executions SET not_before = now() + interval '1 hour'")
    spine.restart()
    assert has_room()
    other.execute("UPDATE executions SET not_before = now() - interval '601 seconds'")
    spine.restart()
    assert not has_room()


def test_children_are_never_refused(other: Other) -> None:
    days = {"start_date": "2025-11-24", "end_date": "2025-12-05"}
    parent = dispatcher.submit("otc_backfill_range", days)
    runner.run_pipeline(parent.id)
    assert queued(other, "backfill") == 9


def test_what_goes_back_to_its_queue_is_never_refused(other: Other) -> None:
    (first,) = fill(count=1)
    with database.transaction() as connection:
        ledger.claim(connection, first)
    until(has_room)
    fill(count=2)
    assert not has_room()
    expire = b"UPDATE executions SET lease_expires_at = now() WHERE status = 'running'"
    other.execute(expire)
    assert relay.take_back_expired() == 1
    assert queued(other) == 4


def test_a_retry_is_refused_as_well_and_its_letter_stays_open(spine: Spine) -> None:
    failed = dispatcher.submit("otc_ingest", {"path": "nowhere.csv"})
    runner.run_pipeline(failed.id)
    (letter,) = spine.letters()
    fill()
    spine("dead-letters", "retry", letter["id"]).fails(2, "lane 'default'")
    assert spine.letters() == [letter]


def test_processes_that_submit_at_once_keep_to_the_limit(
    other: Other, monkeypatch: pytest.MonkeyPatch
) -> None:
    """But for a hundredth of it for each of them, and for what each is just submitting."""
    monkeypatch.setenv("SPINE_QUEUE_LIMIT", "400")
    command = [sys.executable, "-c", FLOOD]
    floods = [subprocess.Popen(command, stdin=subprocess.PIPE) for _ in range(SUBMITTERS)]
    for flood in floods:
        assert flood.stdin is not None
        flood.stdin.write(b"\n")
        flood.stdin.close()
    assert [flood.wait(60) for flood in floods] == [0] * SUBMITTERS
    assert 400 <= queued(other) <= 400 + SUBMITTERS * (4 + 1)


@contextmanager
def beat(spine: Spine) -> Iterator[subprocess.Popen[str]]:
    (spine.folder / "schedules.toml").write_text(SCHEDULES)
    with (spine.folder / "beat.log").open("w") as log:
        started = spine.start("beat", stderr=log)
    try:
        yield started
        started.terminate()
        started.wait(30)
        assert started.returncode == 0
    finally:
        started.send_signal(signal.SIGKILL)
        started.communicate()


def test_beat_loses_no_tick_to_a_full_lane_and_stops_no_other(spine: Spine, other: Other) -> None:
    """The next tick of the one that is refused is a year away."""
    waiting = fill()
    with beat(spine):
        until(lambda: "schedule 'full': lane 'default' is too full" in log_of(spine))
        until(lambda: queued(other, "other") >= 2)
        assert queued(other) == 3
        for execution_id in waiting:
            dispatcher.cancel(execution_id)
        until(lambda: queued(other) >= 1)


def log_of(spine: Spine) -> str:
    return (spine.folder / "beat.log").read_text()


def test_the_ledger_is_asked_through_an_index_alone(other: Other) -> None:
    other.execute(MANY)
    other.execute("VACUUM ANALYZE executions")
    explain = text(f"EXPLAIN (ANALYZE) {admission.WAITING.text}")
    asked = {"lane": "default", "most": 400, "seconds": 600}
    with database.snapshot() as connection:
        plan = "\n".join(connection.execute(explain, asked).scalars())
    assert plan.count("Index Only Scan using ix_executions_queued") == 2, plan
    assert "Seq Scan" not in plan
