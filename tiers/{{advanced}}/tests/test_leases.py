"""A worker that comes back after its lease was lost: whatever it does, nothing of it stands."""

from contextlib import suppress

import pytest

from market_spine import backends, context, database, dispatcher, leases, ledger, runner
from market_spine.ledger import Execution
from market_spine.schema import dead_letters
from tests.support import Spine
from tests.test_leases_model import Worker
from tests.test_ledger_model import QuietBackend

# A pipeline whose first run is away until the second one waits for a child.
LATE = (
    "from sqlalchemy import text",
    "from market_spine import database, relay, runner",
    "from market_spine.errors import CancelledError, SourceUnavailableError",
    "context.spawn('child', {})",
    "if context.execution.attempt == 2:",
    "    return {}",
    "with database.transaction() as connection:",
    "    connection.execute(text('UPDATE executions SET lease_expires_at = clock_timestamp()'))",
    "assert relay.take_back_expired() == 1",
    "with database.transaction() as connection:",
    "    connection.execute(text('UPDATE executions SET not_before = clock_timestamp()'))",
    "runner.run_pipeline(context.execution.id)",
)


@pytest.fixture(scope="module")
def store() -> str:
    """SQLite has no leases."""
    return "postgresql"


def get(execution: Execution) -> Execution:
    with database.snapshot() as connection:
        return ledger.get(connection, execution.id)


@pytest.mark.parametrize(
    "comes_back",
    [
        "return {}",
        "context.checkpoint('late', 1)",
        "raise SourceError('the tape is torn')",
        "raise SourceUnavailableError('the tape is away')",
        "raise ZeroDivisionError",
        "raise CancelledError",
        "raise KeyboardInterrupt",
    ],
)
def test_who_comes_back_too_late_changes_nothing(
    spine: Spine, monkeypatch: pytest.MonkeyPatch, comes_back: str
) -> None:
    monkeypatch.setattr(backends, "chosen", QuietBackend)
    monkeypatch.setattr(leases, "_holder", Worker("one"))
    spine.pipeline("child", "return {}")
    spine.pipeline("late", *LATE, comes_back)
    execution = dispatcher.submit("late", {})
    with suppress(KeyboardInterrupt):
        runner.run_pipeline(execution.id)
    stands = get(execution)
    assert (stands.status, stands.attempt, stands.cancel_requested) == ("waiting", 2, False)
    with database.snapshot() as connection:
        (child,) = ledger.list_executions(connection, pipeline="child", limit=10)
    runner.run_pipeline(child.id)
    assert get(execution).status == "succeeded"
    assert spine.rows(dead_letters) == []
    spine.check_ledger()


def test_a_lease_that_has_run_out_ends_the_run_without_asking_a_store_that_may_hang(
    spine: Spine, monkeypatch: pytest.MonkeyPatch
) -> None:
    holder = Worker("one")
    holder.seconds = 0.5
    monkeypatch.setattr(backends, "chosen", QuietBackend)
    monkeypatch.setattr(leases, "_holder", holder)
    spine.pipeline(
        "away",
        "import time",
        "from market_spine import context as this",
        "context.checkpoint('early', 1)",
        "time.sleep(0.6)",
        "this.ledger = None",
        "context.checkpoint('late', 2)",
        "return {}",
    )
    monkeypatch.setattr(context, "ledger", ledger)  # and put back what the run takes away
    execution = dispatcher.submit("away", {})
    runner.run_pipeline(execution.id)
    assert (get(execution).status, get(execution).attempt) == ("queued", 2)
    with database.snapshot() as connection:
        told = ledger.events_of(connection, execution.id)[-1]
    assert "SPINE_LEASE_SECONDS" in told.data["reason"]
    spine.check_ledger()
