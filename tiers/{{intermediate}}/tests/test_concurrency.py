"""Many at once on Postgres: whatever they do, it is as if one had come after the other."""

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, event

from market_spine import database, dispatcher, ledger, runner
from market_spine.errors import ConflictError, SupersededError
from market_spine.ledger import Execution
from market_spine.schema import executions, otc_stale_days
from tests.support import Spine, spine_in
from tests.tape import Row, trade
from tests.test_ledger import claim, create, done, finish, kinds, now, split


@pytest.fixture(scope="module")
def store() -> str:
    """SQLite has one writer at a time."""
    return "postgresql"


def at_once(*calls: Callable[[], Any]) -> list[Any]:
    """Do all of it at the same moment; whatever one of them raises is raised."""
    barrier = threading.Barrier(len(calls))

    def call(one: Callable[[], Any]) -> Any:
        barrier.wait(20)
        return one()

    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(call, calls, timeout=60))


# --- the ledger --------------------------------------------------------------------------------


def test_one_key_is_one_execution(spine: Spine) -> None:
    def submit(pipeline: str) -> object:
        try:
            return dispatcher.submit(pipeline, {}, idempotency_key="k").id
        except ConflictError as error:
            return error

    spine.pipeline("one", "return {}")
    spine.pipeline("other", "return {}")
    found = at_once(*[partial(submit, "one" if n % 3 else "other") for n in range(30)])
    ids = [one for one in found if not isinstance(one, ConflictError)]
    assert len({*ids}) == spine.count(executions) == 1
    assert len(ids) in (10, 20)
    assert all(str(ids[0]) in str(one) for one in found if isinstance(one, ConflictError))


def test_a_letter_is_retried_once(spine: Spine) -> None:
    spine.submit("otc_ingest", path="late.csv")
    spine.tape(trade(), name="late.csv")
    (letter,) = done(lambda c: ledger.list_dead_letters(c, limit=10))
    found = at_once(*[lambda: dispatcher.retry(letter.id).id for _ in range(20)])
    assert len({*found}) == 1
    assert spine.count(executions) == 2
    spine.check_ledger()


def test_a_claim_is_won_by_one(spine: Spine) -> None:
    for _ in range(5):
        execution = create()
        claimed = at_once(*[partial(claim, execution) for _ in range(10)])
        assert sum(one is not None for one in claimed) == 1
        assert kinds(execution) == ["submitted", "started"]
    spine.check_ledger()


def test_children_that_end_together_end_their_parent(spine: Spine) -> None:
    for _ in range(10):
        parent = create()
        children = split(parent, 8)
        for child in children:
            claim(child)
        at_once(*[partial(finish, child, "succeeded") for child in children])
        assert now(parent).status == "succeeded"
    spine.check_ledger()


def ends_unless_ended(execution: Execution) -> None:
    """End an execution as a run does: its stages' events, then the end, in one transaction."""

    def end(connection: Connection) -> None:
        begun = ledger.get(connection, execution.id)
        ledger.record(connection, begun, "computed", {})
        ledger.finish(connection, begun, "succeeded")

    with suppress(SupersededError):
        done(end)


def test_a_cancel_meets_children_that_begin_and_end(spine: Spine) -> None:
    """Nobody waits for a lock of somebody who waits for his, and no child is left behind."""
    for _ in range(15):
        root = create()
        (parent,) = split(root, 1)
        children = split(parent, 6)
        for child in children[:3]:
            claim(child)
        at_once(
            *[partial(ends_unless_ended, child) for child in children[:3]],
            *[partial(claim, child) for child in children[3:]],
            *[partial(dispatcher.cancel, one.id) for one in (root, parent, children[0])],
        )
        for child in children:
            if now(child).status == "running":
                assert now(child).cancel_requested
                finish(child, "cancelled")
        assert {now(one).status for one in (root, parent)} == {"cancelled"}
    spine.check_ledger()


def test_a_cancel_holds_the_row_from_its_look_to_its_move(spine: Spine) -> None:
    """What was queued when it looked has not begun when it moves it."""
    execution = create()
    looked, goes_on = threading.Event(), threading.Event()
    with paused("UPDATE executions", looked, goes_on), ThreadPoolExecutor(2) as pool:
        cancelling = pool.submit(dispatcher.cancel, execution.id)
        assert looked.wait(20)
        claiming = pool.submit(claim, execution)
        assert not wait([claiming], 0.3).done, "it waits for the cancel"
        goes_on.set()
        assert cancelling.result(20).status == "cancelled"
        assert claiming.result(20) is None
    spine.check_ledger()


@contextmanager
def paused(statement: str, reached: threading.Event, goes_on: threading.Event) -> Iterator[None]:
    """Stop whoever is the first to send such a statement, before it does."""

    def stop(*sent: object) -> None:
        if statement in str(sent[2]) and not reached.is_set():
            reached.set()
            assert goes_on.wait(20)

    event.listen(Engine, "before_cursor_execute", stop)
    try:
        yield
    finally:
        goes_on.set()
        event.remove(Engine, "before_cursor_execute", stop)


def test_a_long_run_keeps_nobody_from_cancelling_it(spine: Spine) -> None:
    """Its letters refer to its row, which is no reason to wait for its end."""
    spine.pipeline(
        "long",
        "letter = ledger.Rejection(capture_id=context.execution.id, raw_id=1, record_hash='h',",
        "    payload='', field='f', reason='r')",
        "context.reject([letter])",
        "from market_spine import deadline, dispatcher",
        "unlimited = deadline.query_seconds.set(5)",
        "dispatcher.cancel(context.execution.id)",
        "deadline.query_seconds.reset(unlimited)",
        "context.checkpoint('half', 1, 2)",
        "return {}",
    )
    assert spine.submit("long").json["status"] == "cancelled"


# --- silver and gold ---------------------------------------------------------------------------


def captures() -> list[Sequence[Row]]:
    """Captures that tell of the same trades of the same days, each in its own way."""
    found: list[Sequence[Row]] = []
    for capture in range(4):
        rows: list[Row] = []
        for n in range(60):
            day = f"2025-11-{24 + (n + capture) % 3}"
            plain = trade(f"T{n}", trade_ts=f"{day}T15:00:00Z", price=str(n + 1), size="100")
            kind = (n + capture) % 4
            if kind == 1:
                plain = {**plain, "event": "correction", "price": str(n + 10 * capture + 2)}
            elif kind == 2:
                plain = {**plain, "event": "cancel"}
            elif kind == 3:
                plain = {**plain, "price": "x" if n % 2 else str(n + capture)}
            rows.append(plain)
        found.append(rows)
    return found


def settled(spine: Spine, *, together: bool) -> tuple[object, ...]:
    """Normalize every capture and compute the days several times; returns what stands then."""
    ids = [
        spine.capture(*rows, at=f"2025-12-0{number + 1}T12:00:00Z")
        for number, rows in enumerate(captures())
    ]
    with database.transaction() as connection:
        found = [
            dispatcher.submit_in(connection, pipeline, params)
            for capture_id in ids
            for pipeline, params in [
                ("otc_normalize", {"capture_id": capture_id}),
                ("otc_compute_daily_metrics", {}),
            ]
        ]
    runs = [partial(runner.run_pipeline, one.id) for one in found]
    if together:
        at_once(*runs)
    else:
        for run in runs:
            run()
    assert {now(one).status for one in found} == {"succeeded"}
    spine.run("otc_compute_daily_metrics")
    spine.check_ledger()
    return spine.state()


def test_merges_at_the_same_time_are_as_merges_in_turn(tmp_path: Path, store: str) -> None:
    with spine_in(tmp_path / "in turn", store) as spine:
        expected = settled(spine, together=False)
    for number in range(3):
        with spine_in(tmp_path / str(number), store) as spine:
            assert settled(spine, together=True) == expected


def test_a_day_that_changes_while_it_is_computed_stays_stale(spine: Spine) -> None:
    """A merge that has not committed marks the day, and computing must not take that away."""
    spine.take(trade("T1", price="10"))
    capture_id = spine.capture(trade("T2", price="12"), at="2025-12-09T12:00:00Z")
    with database.transaction() as connection:
        merge, compute = (
            dispatcher.submit_in(connection, "otc_normalize", {"capture_id": capture_id}),
            dispatcher.submit_in(connection, "otc_compute_daily_metrics", {"symbol": "ACME"}),
        )
    merged, goes_on = threading.Event(), threading.Event()

    with paused("UPDATE otc_captures", merged, goes_on), ThreadPoolExecutor(2) as pool:
        merging = pool.submit(runner.run_pipeline, merge.id)
        assert merged.wait(20)
        computing = pool.submit(runner.run_pipeline, compute.id)
        assert not wait([computing], 0.3).done, "it waits for the merge"
        goes_on.set()
        merging.result(20)
        computing.result(20)
    assert spine.day()["high_price"] == "12.000000"
    assert spine.rows(otc_stale_days) == []
