"""The ledger: legal moves and no others, history that cannot be changed, letters, paging."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar
from uuid import UUID

import pytest
from sqlalchemy import Connection, insert, text
from sqlalchemy.exc import IntegrityError
from uuid_utils.compat import uuid7

from market_spine import database, ledger
from market_spine.errors import NotFoundError, SupersededError
from market_spine.ledger import Execution, Status
from market_spine.schema import dead_letters
from tests.support import Spine

T = TypeVar("T")


def create(parent: Execution | None = None) -> Execution:
    with database.transaction() as connection:
        return ledger.create(
            connection,
            pipeline="some_work",
            params={"n": 1},
            lane="default",
            trigger_source="test",
            max_attempts=3,
            parent=parent,
        )


def done(function: Callable[[Connection], T]) -> T:
    with database.transaction() as connection:
        return function(connection)


def claim(execution: Execution) -> Execution | None:
    return done(lambda c: ledger.claim(c, execution.id))


def finish(execution: Execution, status: Status, error: str | None = None) -> None:
    done(lambda c: ledger.finish(c, ledger.get(c, execution.id), status, error=error))


def split(execution: Execution, children: int) -> list[Execution]:
    """Let a running execution wait for children."""
    claimed = claim(execution)
    assert claimed is not None
    done(lambda c: ledger.wait_for_children(c, claimed, {"children": children}))
    return [create(execution) for _ in range(children)]


def now(execution: Execution) -> Execution:
    with database.snapshot() as connection:
        return ledger.get(connection, execution.id)


def kinds(execution: Execution) -> list[str]:
    with database.snapshot() as connection:
        return [event.kind for event in ledger.events_of(connection, execution.id)]


# --- moves -------------------------------------------------------------------------------------


def test_a_life_is_told_by_its_events(spine: Spine) -> None:
    execution = create()
    claimed = claim(execution)
    assert claimed is not None
    assert (claimed.status, claimed.version) == ("running", 2)
    assert claimed.started_at is not None
    done(lambda c: ledger.record(c, now(execution), "computed", {"days": 3}))
    done(lambda c: ledger.finish(c, now(execution), "succeeded", result={"days": 3}))
    ended = now(execution)
    assert (ended.status, ended.version, ended.result) == ("succeeded", 4, {"days": 3})
    assert ended.finished_at is not None
    assert kinds(execution) == ["submitted", "started", "computed", "succeeded"]
    spine.check_ledger()


@pytest.mark.usefixtures("spine")
def test_a_claim_by_two_callers_gets_one() -> None:
    for _ in range(10):
        execution = create()
        with ThreadPoolExecutor(2) as pool:
            claimed = [*pool.map(claim, [execution, execution])]
        assert sorted(found is None for found in claimed) == [False, True]
        assert kinds(execution) == ["submitted", "started"]


@pytest.mark.parametrize("status", ["succeeded", "failed", "cancelled"])
def test_what_has_ended_moves_no_more(status: Status, spine: Spine) -> None:
    execution = create()
    claim(execution)
    finish(execution, status, error="it broke" if status == "failed" else None)
    before = now(execution)
    assert claim(execution) is None
    for move in (
        lambda c: ledger.record(c, execution, "computed", {}),
        lambda c: ledger.wait_for_children(c, execution, {}),
        lambda c: ledger.finish(c, execution, "succeeded"),
        lambda c: ledger.finish(c, execution, "failed", error="again"),
        lambda c: ledger.finish(c, execution, "cancelled"),
    ):
        with pytest.raises(SupersededError):
            done(move)
    assert done(lambda c: ledger.request_cancel(c, execution.id)) == before
    assert now(execution) == before
    spine.check_ledger()


def test_what_is_queued_may_only_start_or_be_cancelled(spine: Spine) -> None:
    execution = create()
    for move in (
        lambda c: ledger.record(c, execution, "computed", {}),
        lambda c: ledger.wait_for_children(c, execution, {}),
        lambda c: ledger.finish(c, execution, "succeeded"),
        lambda c: ledger.finish(c, execution, "failed", error="too early"),
    ):
        with pytest.raises(SupersededError):
            done(move)
    assert kinds(execution) == ["submitted"]
    assert spine.letters() == []
    finish(execution, "cancelled")
    assert kinds(execution) == ["submitted", "cancelled"]


@pytest.mark.usefixtures("spine")
def test_there_is_no_execution_of_an_unknown_id() -> None:
    unknown = uuid7()
    with pytest.raises(NotFoundError, match=str(unknown)):
        done(lambda c: ledger.get(c, unknown))
    with pytest.raises(NotFoundError, match=str(unknown)):
        done(lambda c: ledger.request_cancel(c, unknown))
    with pytest.raises(NotFoundError, match=str(unknown)):
        done(lambda c: ledger.get_dead_letter(c, unknown))
    assert done(lambda c: ledger.claim(c, unknown)) is None


# --- children ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ends", "expected"),
    [
        (["succeeded", "succeeded"], "succeeded"),
        (["succeeded", "failed"], "failed"),
        (["failed", "failed"], "failed"),
        (["cancelled", "succeeded"], "failed"),
    ],
)
def test_the_last_child_ends_its_parent(ends: list[Status], expected: str, spine: Spine) -> None:
    parent = create()
    children = split(parent, 2)
    for child, status in zip(children, ends, strict=True):
        assert now(parent).status == "waiting"
        claim(child)
        finish(child, status, error="it broke" if status == "failed" else None)
    assert now(parent).status == expected
    letters = {letter["execution_id"] for letter in spine.letters()}
    failed = {str(child.id) for child, end in zip(children, ends, strict=True) if end == "failed"}
    assert letters == failed, "a parent that failed through its children has no letter"
    if expected == "failed":
        assert "of 2 children did not succeed" in str(now(parent).error)
    spine.check_ledger()


def test_the_end_of_the_last_grandchild_ends_the_whole_tree(spine: Spine) -> None:
    root = create()
    (child,) = split(root, 1)
    grandchildren = split(child, 2)
    assert {grandchild.root_id for grandchild in grandchildren} == {root.id}
    for grandchild in grandchildren:
        assert (now(root).status, now(child).status) == ("waiting", "waiting")
        claim(grandchild)
        finish(grandchild, "succeeded")
    assert (now(root).status, now(child).status) == ("succeeded", "succeeded")
    spine.check_ledger()


# --- cancelling --------------------------------------------------------------------------------


def test_a_running_execution_is_flagged_once(spine: Spine) -> None:
    execution = create()
    claim(execution)
    for _ in range(2):
        flagged = done(lambda c: ledger.request_cancel(c, execution.id))
        assert (flagged.status, flagged.cancel_requested) == ("running", True)
    assert kinds(execution) == ["submitted", "started", "cancel_requested"]
    spine.check_ledger()


def test_a_waiting_parent_passes_a_cancel_on(spine: Spine) -> None:
    parent = create()
    running, queued, other = split(parent, 3)
    claim(running)
    done(lambda c: ledger.request_cancel(c, parent.id))
    assert [now(child).status for child in (queued, other)] == ["cancelled", "cancelled"]
    assert now(running).cancel_requested
    assert now(parent).status == "waiting"
    finish(running, "cancelled")
    assert now(parent).status == "cancelled"
    assert spine.letters() == []
    spine.check_ledger()


def test_a_waiting_parent_of_queued_children_is_cancelled_at_once(spine: Spine) -> None:
    parent = create()
    children = split(parent, 3)
    assert done(lambda c: ledger.request_cancel(c, parent.id)).status == "cancelled"
    assert {now(child).status for child in children} == {"cancelled"}
    spine.check_ledger()


# --- what the database itself guards -----------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE execution_events SET kind = 'succeeded'",
        "UPDATE execution_events SET seq = seq + 10",
        "DELETE FROM execution_events",
    ],
)
def test_history_cannot_be_changed(change: str, spine: Spine) -> None:
    execution = create()
    with pytest.raises(IntegrityError, match="append-only"):
        done(lambda c: c.execute(text(change)))
    assert kinds(execution) == ["submitted"]
    spine.check_ledger()


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ("status = 'lost'", "status_is_known"),
        ("status = 'succeeded'", "terminal_if_and_only_if_finished"),
        ("finished_at = created_at", "terminal_if_and_only_if_finished"),
        ("status = 'failed', finished_at = created_at", "failure_is_explained"),
        ("attempt = 4", "attempt_in_range"),
        ("attempt = 0", "attempt_in_range"),
    ],
)
def test_a_row_that_cannot_be_is_refused_by_name(change: str, rule: str, spine: Spine) -> None:
    create()
    with pytest.raises(IntegrityError, match=rule):
        done(lambda c: c.execute(text(f"UPDATE executions SET {change}")))
    spine.check_ledger()


def test_a_failed_execution_has_one_letter(spine: Spine) -> None:
    execution = create()
    claim(execution)
    finish(execution, "failed", error="it broke")
    (letter,) = spine.letters()
    assert letter["kind"] == "execution"
    assert (letter["execution_id"], letter["reason"]) == (str(execution.id), "it broke")
    again = {**vars(done(lambda c: ledger.get_dead_letter(c, UUID(letter["id"])))), "id": uuid7()}
    with pytest.raises(IntegrityError, match="execution_id"):
        done(lambda c: c.execute(insert(dead_letters), again))


# --- reading -----------------------------------------------------------------------------------


@pytest.mark.usefixtures("spine")
def test_executions_are_listed_newest_first_and_in_pages() -> None:
    ids = [create().id for _ in range(5)]

    def listed(**chosen: object) -> list[UUID]:
        found = done(lambda c: ledger.list_executions(c, **chosen))  # type: ignore[arg-type]
        return [execution.id for execution in found]

    assert listed(limit=10) == ids[::-1]
    assert listed(limit=2) == [ids[4], ids[3]]
    assert listed(limit=2, before=ids[3]) == [ids[2], ids[1]]
    assert listed(limit=10, status="running") == []
    assert listed(limit=10, pipeline="some_work") == ids[::-1]
    assert listed(limit=10, pipeline="other") == []


@pytest.mark.usefixtures("spine")
def test_the_oldest_queued_execution_is_the_next() -> None:
    first, second = create(), create()
    assert done(ledger.next_queued) == first
    claim(first)
    assert done(ledger.next_queued) == second
    assert [execution.id for execution in done(ledger.running)] == [first.id]
    finish(second, "cancelled")
    assert done(ledger.next_queued) is None
