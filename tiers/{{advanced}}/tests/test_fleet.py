"""Work that is carried out by processes: told by the broker, repaired by the relay, done once."""

import os
import signal
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from uuid import UUID

import psutil
import pytest
from sqlalchemy import delete

from market_spine import database, dispatcher, ledger
from market_spine.errors import ResourceInUseError
from market_spine.guard import UNTIL_FREE, OnConflict
from market_spine.ledger import Execution
from market_spine.schema import dead_letters, resource_claims
from tests.fleet import Fleet, fleet_in
from tests.support import REPO

SAMPLE = REPO / "data/otc_sample.csv"
WRITES = ("context.checkpoint('writing', 1, 1)", "return {}")
SLOW = (
    "import time",
    "from pathlib import Path",
    "while not Path('go').exists():",
    "    context.checkpoint('waiting', 0)",
    "    time.sleep(0.02)",
    "return {}",
)


# The first process to end an execution of a pipeline stops before it commits that.
STOPS_BEFORE_ITS_COMMIT = """
import os, signal
from pathlib import Path
from market_spine import ledger
finish = ledger.finish
def stop(connection, execution, *args, **more):
    finish(connection, execution, *args, **more)
    if execution.pipeline == "PIPELINE" and not Path("stopped").exists():
        Path("stopped").touch()
        os.kill(os.getpid(), signal.SIGSTOP)
ledger.finish = stop
"""


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    with fleet_in(tmp_path) as found:
        found.spine.pipeline("writes", *WRITES)
        found.spine.pipeline("slow", *SLOW)
        yield found


def go(fleet: Fleet) -> None:
    (fleet.folder / "go").touch()


def test_what_is_submitted_is_carried_out(fleet: Fleet) -> None:
    fleet.worker()
    fleet.relay()
    found = [dispatcher.submit("writes", {}) for _ in range(20)]
    fleet.until(fleet.is_at_rest)
    assert fleet.statuses() == {"succeeded": 20}
    assert fleet.kinds(found[0].id) == ["submitted", "started", "succeeded"]
    assert fleet.get(found[0].id).worker_id is not None
    fleet.spine.check_ledger()


def test_a_broker_that_was_down_has_lost_nothing(fleet: Fleet) -> None:
    fleet.broker.stop()
    execution = dispatcher.submit("writes", {})
    assert execution.status == "queued"
    assert fleet.get(execution.id).dispatched_at is None, "the mark was taken back"
    fleet.broker.start()
    fleet.worker()
    fleet.relay()
    fleet.until(fleet.is_at_rest)
    assert fleet.statuses() == {"succeeded": 1}


def test_a_broker_that_was_emptied_is_told_again(fleet: Fleet) -> None:
    execution = dispatcher.submit("writes", {})
    assert fleet.get(execution.id).dispatched_at is not None
    fleet.broker.flush()
    fleet.worker()
    fleet.relay()
    fleet.until(fleet.is_at_rest)
    assert fleet.statuses() == {"succeeded": 1}


def test_a_run_tells_how_far_it_has_come(fleet: Fleet) -> None:
    fleet.spine.pipeline(
        "far", "context.checkpoint('reading', 3, 4)", *SLOW[:3], SLOW[-2], SLOW[-1]
    )
    fleet.worker(1)
    execution = dispatcher.submit("far", {})
    fleet.until(lambda: fleet.get(execution.id).progress is not None)
    shown = fleet.spine.json("executions", "show", execution.id)
    assert shown["progress"] == {"stage": "reading", "done": 3, "total": 4}
    go(fleet)
    fleet.until(fleet.is_at_rest)
    assert fleet.get(execution.id).progress is None
    fleet.spine.check_ledger()


def test_a_killed_child_loses_its_lease_and_the_work_is_done_again(fleet: Fleet) -> None:
    worker = fleet.worker(1)
    fleet.relay()
    execution = dispatcher.submit("slow", {})
    fleet.until(lambda: fleet.get(execution.id).status == "running")
    pid = int(str(fleet.get(execution.id).worker_id).split(":")[1])
    assert pid in {child.pid for child in fleet.children(worker)}
    os.kill(pid, signal.SIGKILL)
    go(fleet)
    fleet.until(fleet.is_at_rest)
    ended = fleet.get(execution.id)
    assert (ended.status, ended.attempt) == ("succeeded", 2)
    kinds = fleet.kinds(execution.id)
    assert kinds == ["submitted", "started", "requeued", "started", "succeeded"]
    fleet.spine.check_ledger()


def test_a_paused_worker_cannot_commit_behind_its_lease(fleet: Fleet) -> None:
    fleet.worker(1)
    fleet.relay()
    execution = dispatcher.submit("slow", {})
    fleet.until(lambda: fleet.get(execution.id).status == "running")
    zombie = psutil.Process(int(str(fleet.get(execution.id).worker_id).split(":")[1]))
    zombie.suspend()
    fleet.until(lambda: fleet.get(execution.id).attempt == 2)
    fleet.worker(1)
    go(fleet)
    fleet.until(fleet.is_at_rest)
    zombie.resume()
    other = dispatcher.submit("writes", {})
    fleet.until(lambda: fleet.get(other.id).status == "succeeded")
    fleet.until(lambda: "was ended by somebody else" in fleet.said)
    assert fleet.get(execution.id).attempt == 2
    fleet.spine.check_ledger()


def test_a_worker_that_stopped_before_its_commit_holds_nobody_up(fleet: Fleet) -> None:
    """It has the locks of its row and of its parent's, and what it had written is undone."""
    fleet.spine.pipeline("parent", "context.spawn('writes', {})", "return {}")
    fleet.worker(1, trap=STOPS_BEFORE_ITS_COMMIT.replace("PIPELINE", "writes"))
    execution = dispatcher.submit("parent", {})
    fleet.until(lambda: (fleet.folder / "stopped").exists())
    fleet.worker(1)
    fleet.relay()
    fleet.until(fleet.is_at_rest)
    assert fleet.statuses() == {"succeeded": 2}
    assert fleet.get(execution.id).attempt == 1
    fleet.spine.check_ledger()


def test_a_child_that_stopped_with_its_parent_s_lock_does_not_hold_up_what_is_lost(
    fleet: Fleet,
) -> None:
    """The lease of its sibling, which needs that lock to be taken back, expires first."""
    waits = ("from pathlib import Path", "import time", "while not Path('late').exists():")
    fleet.spine.pipeline("late", *waits, "    time.sleep(0.02)", "return {}")
    fleet.spine.pipeline("pair", "context.spawn('slow', {})", "context.spawn('late', {})")
    fleet.worker(2, trap=STOPS_BEFORE_ITS_COMMIT.replace("PIPELINE", "late"))
    dispatcher.submit("pair", {})
    fleet.until(lambda: fleet.statuses() == {"waiting": 1, "running": 2})
    slow = fleet.one("SELECT worker_id FROM executions WHERE pipeline = 'slow'")
    psutil.Process(int(slow.split(":")[1])).suspend()
    is_first = "SELECT pipeline FROM executions ORDER BY lease_expires_at LIMIT 1"
    fleet.until(lambda: fleet.one(is_first) == "slow")
    (fleet.folder / "late").touch()
    fleet.until(lambda: (fleet.folder / "stopped").exists())
    go(fleet)
    fleet.worker(1)
    fleet.relay()
    fleet.until(fleet.is_at_rest)
    assert fleet.statuses() == {"succeeded": 3}
    fleet.spine.check_ledger()


def test_a_worker_that_was_away_for_longer_than_its_lease_gives_the_work_back(fleet: Fleet) -> None:
    fleet.worker(1)  # and no relay that would take it back
    execution = dispatcher.submit("slow", {})
    fleet.until(lambda: fleet.get(execution.id).status == "running")
    child = psutil.Process(int(str(fleet.get(execution.id).worker_id).split(":")[1]))
    child.suspend()
    is_over = "SELECT lease_expires_at < clock_timestamp() FROM executions WHERE id = :id"
    fleet.until(lambda: fleet.one(is_over, id=execution.id))
    child.resume()
    fleet.until(lambda: fleet.get(execution.id).status != "running")
    assert (fleet.get(execution.id).status, fleet.get(execution.id).attempt) == ("queued", 2)
    go(fleet)
    fleet.relay()
    fleet.until(fleet.is_at_rest)
    assert fleet.statuses() == {"succeeded": 1}
    fleet.spine.check_ledger()


def test_what_another_backend_left_running_is_taken_back_when_its_process_is_gone(
    fleet: Fleet,
) -> None:
    execution = dispatcher.submit("writes", {})
    with database.store().run_lock(wait=False) as free, database.transaction() as connection:
        assert free
        claimed = ledger.claim(connection, execution.id)
        assert claimed
        assert claimed.lease_expires_at is None, "this process is no worker"
        connection.commit()
        fleet.relay()
        fleet.worker()
        fleet.broker.flush()
        other = dispatcher.submit("writes", {})
        fleet.broker.flush()
        fleet.until(lambda: fleet.get(other.id).status == "succeeded")  # so the relay is at work
        assert fleet.get(execution.id).status == "running", "whoever runs it lives"
    fleet.until(fleet.is_at_rest)
    assert fleet.kinds(execution.id) == ["submitted", "started", "requeued", "started", "succeeded"]
    fleet.spine.check_ledger()


def test_an_attempt_that_fails_is_made_again_and_the_last_leaves_a_letter(fleet: Fleet) -> None:
    fleet.spine.pipeline("fails", "raise ZeroDivisionError('by zero')")
    fleet.worker(1)
    fleet.relay()
    execution = dispatcher.submit("fails", {})
    fleet.until(fleet.is_at_rest)
    ended = fleet.get(execution.id)
    assert (ended.status, ended.attempt) == ("failed", ended.max_attempts)
    assert ended.error == "ZeroDivisionError: by zero"
    assert fleet.kinds(execution.id).count("requeued") == ended.max_attempts - 1
    assert [row["execution_id"] for row in fleet.spine.rows(dead_letters)] == [str(execution.id)]
    fleet.spine.check_ledger()


def test_a_worker_that_is_told_to_end_finishes_what_it_runs(fleet: Fleet) -> None:
    worker = fleet.worker(1)
    execution = dispatcher.submit("slow", {})
    fleet.until(lambda: fleet.get(execution.id).status == "running")
    worker.send_signal(signal.SIGTERM)
    fleet.until(lambda: "Soft Shutdown" in fleet.said)
    go(fleet)
    worker.wait(60)
    assert fleet.get(execution.id).status == "succeeded"
    assert fleet.get(execution.id).attempt == 1


# --- the guard -----------------------------------------------------------------------------------


def backfill(first: int, last: int, on_conflict: OnConflict = "reject", **more: str) -> Execution:
    days = {"start_date": date(2025, 11, first), "end_date": date(2025, 11, last)}
    params = {"path": str(SAMPLE), **days, **more}
    return dispatcher.submit("otc_backfill_range", params, on_conflict=on_conflict)


def test_two_backfills_that_overlap_are_never_live_together(fleet: Fleet) -> None:
    first = backfill(24, 26)
    with pytest.raises(ResourceInUseError, match=str(first.id)):
        backfill(26, 28, symbols="ALDRF")
    backfill(27, 28)
    waiting = backfill(25, 28, "queue")
    assert fleet.get(waiting.id).not_before == UNTIL_FREE
    fleet.worker()
    fleet.relay()
    fleet.until(fleet.is_at_rest)
    assert set(fleet.statuses()) == {"succeeded"}
    assert fleet.spine.rows(resource_claims) == []
    others_end = "SELECT max(finished_at) FROM executions WHERE root_id <> :id"
    begun = fleet.get(waiting.id).started_at
    assert begun is not None
    assert begun > fleet.one(others_end, id=waiting.id)


def test_a_worker_that_stopped_while_it_gave_away_what_others_wait_for_holds_nobody_up(
    fleet: Fleet,
) -> None:
    fleet.worker(1, trap=STOPS_BEFORE_ITS_COMMIT.replace("PIPELINE", "otc_backfill_range"))
    backfill(24, 24)
    waiting = backfill(24, 24, "queue")
    fleet.until(lambda: (fleet.folder / "stopped").exists())
    fleet.relay()
    fleet.worker(1)
    fleet.until(fleet.is_at_rest)
    assert fleet.get(waiting.id).status == "succeeded"
    assert set(fleet.statuses()) == {"succeeded"}
    assert fleet.spine.rows(resource_claims) == []
    fleet.spine.check_ledger()


def test_whoever_was_passed_over_gets_what_is_free_from_the_relay(fleet: Fleet) -> None:
    first = backfill(24, 24)
    waiting = backfill(24, 24, "queue")
    with database.transaction() as connection:
        mine = resource_claims.c.root_id == first.id
        connection.execute(delete(resource_claims).where(mine))
    fleet.worker()
    fleet.relay()
    fleet.until(fleet.is_at_rest)
    assert fleet.get(waiting.id).status == "succeeded"


def test_who_types_it_may_wait_too(fleet: Fleet) -> None:
    first = backfill(24, 26)
    days = [f"-p{name}=2025-11-25" for name in ("start_date", "end_date")]
    typed = ("run", "otc_backfill_range", *days, f"-ppath={SAMPLE}", "--no-wait")
    fleet.spine(*typed).fails(2, str(first.id), "--queue")
    waiting = fleet.spine.json(*typed, "--queue")
    assert fleet.get(UUID(waiting["id"])).not_before == UNTIL_FREE
    fleet.worker()
    fleet.relay()
    fleet.until(fleet.is_at_rest)
    assert set(fleet.statuses()) == {"succeeded"}
