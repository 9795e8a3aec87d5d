"""The worker: one process of a database, its threads, its drain, and the store that it may lose."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from socket import socketpair
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import Connection, Engine, event, make_url

from market_spine import backends, bell, database, dispatcher, interruptions, ledger
from market_spine.backends import thread
from market_spine.cli import _carry
from market_spine.errors import StoreError
from market_spine.ledger import Execution
from market_spine.schema import execution_events, otc_stale_days
from tests import postgres
from tests.support import Spine, ended, spine_in
from tests.test_demo import DAYS, RANGE, expected, with_sample
from tests.test_runner import WRITE

LARGE = ["connector=synthetic", "path=7/3000", "start_date=2025-06-02", "end_date=2025-06-30"]


class Gates:
    """What the pipelines of a test wait for; they find it by this module's name."""

    def __init__(self) -> None:
        self.begun = threading.Semaphore(0)
        self.open = threading.Event()


gates = Gates()


@pytest.fixture(scope="module")
def store() -> str:
    """The worker's role is a lock of Postgres."""
    return "postgresql"


@pytest.fixture
def worker(spine: Spine, monkeypatch: pytest.MonkeyPatch) -> Iterator[Spine]:
    """The command line with the thread backend, and pipelines that write, wait or look."""
    global gates
    gates = Gates()
    monkeypatch.setenv("SPINE_BACKEND", "thread")
    monkeypatch.setattr(thread, "PATIENCE_SECONDS", 0.3)
    monkeypatch.setattr(interruptions, "RETRY_SECONDS", 0.1)
    spine.restart()
    spine.pipeline("writes", *WRITE, "return {}")
    spine.pipeline(
        "waits",
        *WRITE,
        f"import {__name__} as test",
        "test.gates.begun.release()",
        "while not test.gates.open.wait(0.02):",
        "    context.checkpoint('waiting', 0)",
        "return {}",
    )
    yield spine
    gates.open.set()
    backends.chosen().drain(10)


def until(true: Callable[[], object], within: float = 20) -> None:
    deadline = time.monotonic() + within
    while not true():
        assert time.monotonic() < deadline, "it does not become true"
        time.sleep(0.02)


def now(execution: Execution) -> Execution:
    with database.snapshot() as connection:
        return ledger.get(connection, execution.id)


def under_way() -> Execution:
    """An execution that this process has begun, and that ends when the gates are opened."""
    execution = dispatcher.submit("waits", {})
    backends.chosen().serve()
    assert gates.begun.acquire(timeout=20)
    return execution


def is_over(execution: Execution) -> bool:
    return now(execution).status in ledger.TERMINAL


def kinds(execution: Execution) -> list[str]:
    with database.snapshot() as connection:
        return [event.kind for event in ledger.events_of(connection, execution.id)]


# --- carrying out ------------------------------------------------------------------------------


def test_a_backfill_by_threads_equals_the_oracle(
    worker: Spine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPINE_WORKER_THREADS", "4")
    with_sample(worker.folder)
    parent = worker.run("otc_backfill_range", **RANGE)
    assert worker.gold() == expected()
    children = worker.json("executions", "show", parent["id"])["children"]
    assert [child["params"]["day"] for child in children] == DAYS
    starts = [row for row in worker.rows(execution_events) if row["kind"] == "started"]
    assert len({row["execution_id"] for row in starts}) == len(starts) == 1 + len(DAYS)
    worker.check_ledger()
    before = worker.state()
    worker.run("otc_backfill_range", **RANGE)
    assert worker.state() == before


def test_as_many_run_at_once_as_there_are_threads(
    worker: Spine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPINE_WORKER_THREADS", "3")
    worker.restart()
    found = [dispatcher.submit("waits", {"n": n}) for n in range(5)]
    backends.chosen().serve()
    for _ in range(3):
        assert gates.begun.acquire(timeout=20)
    assert not gates.begun.acquire(timeout=0.2)
    assert sorted(now(one).status for one in found) == ["queued"] * 2 + ["running"] * 3
    gates.open.set()
    until(lambda: all(is_over(one) for one in found))
    assert len(worker.rows(otc_stale_days)) == 5
    worker.check_ledger()


@pytest.mark.usefixtures("worker")
def test_a_lane_does_not_keep_another_waiting() -> None:
    lanes = ["long", "long", "long", "short"]
    found = [dispatcher.submit("waits", {"n": n}, lane) for n, lane in enumerate(lanes)]
    backends.chosen().serve()
    assert gates.begun.acquire(timeout=20)
    assert gates.begun.acquire(timeout=20)
    assert [now(one).status for one in found] == ["running", "queued", "queued", "running"]


def test_what_another_process_submits_rings_the_bell(
    worker: Spine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(thread, "POLL_SECONDS", 3600)
    backends.chosen().serve()
    submitted = worker.process("run", "otc_normalize", "--no-wait", "--json")
    assert (submitted.code, submitted.err, submitted.json["status"]) == (0, "", "queued")
    until(lambda: [row["status"] for row in worker.executions()] == ["succeeded"])


@pytest.mark.usefixtures("worker")
def test_what_nobody_rang_for_is_found_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(thread, "POLL_SECONDS", 0.1)
    backends.chosen().serve()
    with database.transaction() as connection:
        execution = dispatcher.submit_in(connection, "writes", {})
    until(lambda: is_over(execution))


def test_looking_begins_nothing_and_fails_the_dead(
    worker: Spine, caplog: pytest.LogCaptureFixture
) -> None:
    queued, dead = (dispatcher.submit("writes", {"n": n}) for n in range(2))
    with database.transaction() as connection:
        ledger.claim(connection, dead.id)
    found = {row["id"]: row["status"] for row in worker.executions()}
    assert found == {str(queued.id): "queued", str(dead.id): "failed"}
    assert "waiting 0.3 s" in caplog.text, "whoever looks is told why it takes so long"
    (letter,) = worker.json("dead-letters", "list")
    assert letter["execution_id"] == str(dead.id)
    assert "died" in letter["reason"]
    worker.check_ledger()


@pytest.mark.usefixtures("worker")
def test_a_bell_is_heard_that_rings_while_something_is_asked() -> None:
    quiet, other = socketpair()
    with quiet, other, bell.Session() as session:
        ringing = threading.Timer(0.2, bell.ring)
        ringing.start()
        session.connection.exec_driver_sql("SELECT pg_sleep(1)")
        ringing.join()
        waiting = threading.Thread(target=session.wait, args=[quiet, 3600], daemon=True)
        waiting.start()
        waiting.join(20)
        assert not waiting.is_alive()


@pytest.mark.usefixtures("worker")
def test_a_claim_that_the_store_refuses_is_tried_again_but_not_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(interruptions, "RETRY_SECONDS", 0.5)
    tries = []
    refused = threading.Event()

    def full(_connection: Connection, _cursor: object, statement: str, *_: object) -> None:
        if "UPDATE executions" in statement and not refused.is_set():
            tries.append(statement)
            raise StoreError("the disk is full")

    event.listen(Engine, "before_cursor_execute", full)
    try:
        execution = dispatcher.submit("writes", {})
        backends.chosen().serve()
        until(lambda: len(tries) > 1)
        time.sleep(1)
        assert len(tries) < 6
        refused.set()
        until(lambda: is_over(execution))
    finally:
        event.remove(Engine, "before_cursor_execute", full)
    assert now(execution).status == "succeeded"


# --- one worker --------------------------------------------------------------------------------


def test_a_second_process_waits_for_the_role_and_settles_what_the_first_left(
    worker: Spine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(thread, "POLL_SECONDS", 0.1)
    given = [text for param in LARGE for text in ("-p", param)]
    first = worker.start("run", "otc_backfill_range", *given)
    until(is_under_way)
    backends.chosen().serve()
    for _ in range(3):
        with database.snapshot() as connection:
            assert backends.chosen().is_served(connection)
        assert thread._worker is not None
        assert not thread._worker.has_role
        time.sleep(0.1)
    first.kill()
    ended(first)
    until(lambda: not [row for row in worker.executions() if row["status"] in ledger.LIVE], 60)
    found = worker.executions()
    failed = [row["id"] for row in found if row["status"] == "failed" and row["parent_id"]]
    assert 1 <= len(failed) <= 2, "those that were running, and no other"
    assert [letter["execution_id"] for letter in worker.letters()] == failed
    assert found[0]["status"] == "failed"
    assert {row["status"] for row in found[1:] if row["id"] not in failed} == {"succeeded"}
    worker.check_ledger()
    for letter in worker.letters():
        worker.ok("dead-letters", "retry", letter["id"])


def found_of(pipeline: str) -> list[Execution]:
    """The executions of a pipeline, without settling anything."""
    with database.snapshot() as connection:
        return ledger.list_executions(connection, pipeline=pipeline, limit=1000)


def is_under_way() -> bool:
    """Whether a day of a backfill is running."""
    return any(found.status == "running" for found in found_of("otc_backfill_day"))


def test_nobody_serves_before_and_after(worker: Spine) -> None:
    def served() -> bool:
        with database.snapshot() as connection:
            return backends.chosen().is_served(connection)

    assert not served()
    backends.chosen().serve()
    until(served)
    backends.chosen().drain(0)
    until(lambda: not served())
    assert worker.executions() == []


# --- the drain ---------------------------------------------------------------------------------


@pytest.mark.usefixtures("worker")
def test_a_drain_lets_finish_what_runs_and_begins_nothing() -> None:
    found = [dispatcher.submit("waits", {"n": n}) for n in range(3)]
    backends.chosen().serve()
    assert gates.begun.acquire(timeout=20)
    assert gates.begun.acquire(timeout=20)
    threading.Timer(0.2, gates.open.set).start()
    backends.chosen().drain(20)
    assert [now(one).status for one in found] == ["succeeded", "succeeded", "queued"]


def test_a_drain_begins_nothing_that_is_just_being_looked_for(
    worker: Spine, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks, looked = threading.Event(), threading.Event()
    look = ledger.next_in_turn

    def slowly(connection: Connection, in_hand: dict[UUID, str]) -> tuple[UUID, str] | None:
        found = look(connection, in_hand)
        if found:
            looks.set()
            looked.wait(20)
        return found

    monkeypatch.setattr(ledger, "next_in_turn", slowly)
    execution = dispatcher.submit("writes", {})
    backends.chosen().serve()
    assert looks.wait(20)
    draining = threading.Thread(target=backends.chosen().drain, args=[None])
    draining.start()
    until(lambda: thread._worker is None or thread._worker._draining)
    looked.set()
    draining.join(20)
    assert now(execution).status == "queued"
    assert worker.letters() == []


def test_a_drain_cuts_off_what_takes_too_long(worker: Spine) -> None:
    execution = under_way()
    backends.chosen().drain(0.1)
    assert now(execution).status == "failed"
    (letter,) = worker.letters()
    assert letter["execution_id"] == str(execution.id)
    assert "SPINE_DRAIN_SECONDS" in letter["reason"]
    assert worker.rows(otc_stale_days) == []
    worker.check_ledger()
    gates.open.set()
    worker.ok("dead-letters", "retry", letter["id"])
    assert len(worker.rows(otc_stale_days)) == 1


@contextmanager
def meanwhile(work: Callable[[], None]) -> Iterator[None]:
    """Do something else in a thread, and see that it was done."""
    with ThreadPoolExecutor(1) as pool:
        working = pool.submit(work)
        yield
        working.result(20)


def terminate() -> None:
    """As the machine does, to whatever process carries out the work: here, this one."""
    os.kill(os.getpid(), signal.SIGTERM)


def until_it_drains() -> None:
    until(lambda: thread._worker and thread._worker._draining)


def test_what_a_command_has_begun_for_others_is_done_before_it_ends(worker: Spine) -> None:
    of_others = dispatcher.submit("waits", {})

    def go_on() -> None:
        assert gates.begun.acquire(timeout=20)
        until_it_drains()
        assert [is_over(one) for one in found_of("writes")] == [True]
        dispatcher.submit("writes", {"n": 2})
        gates.open.set()

    with meanwhile(go_on):
        worker.run("writes", n=1)
    later, _ = found_of("writes")
    assert (now(of_others).status, later.status) == ("succeeded", "queued")
    assert worker.letters() == []


def test_a_command_that_is_terminated_finishes_what_runs_and_leaves_the_rest(
    worker: Spine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPINE_WORKER_THREADS", "1")
    worker.restart()
    of_others = dispatcher.submit("waits", {})

    def end() -> None:
        assert gates.begun.acquire(timeout=20)
        terminate()
        until_it_drains()
        terminate()
        gates.open.set()

    with meanwhile(end):
        stopped = worker.submit("writes", n=1)
    (left,) = found_of("writes")
    assert (now(of_others).status, left.status) == ("succeeded", "queued")
    assert (stopped.code, stopped.out) == (143, "")
    assert f"writes is queued ({left.id})" in stopped.err
    assert f"see: spine executions show {left.id}" in stopped.err
    assert worker.letters() == []
    backends.chosen().serve()
    until(lambda: is_over(left))
    assert now(left).status == "succeeded"
    worker.check_ledger()


def test_a_command_that_is_terminated_cuts_off_what_takes_too_long(
    worker: Spine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPINE_DRAIN_SECONDS", "0.1")
    worker.restart()

    def end() -> None:
        assert gates.begun.acquire(timeout=20)
        terminate()

    with meanwhile(end):
        stopped = worker.submit("waits")
    assert (stopped.code, stopped.json["status"]) == (1, "failed")
    (letter,) = worker.letters()
    assert letter["execution_id"] == stopped.json["id"]
    assert "SPINE_DRAIN_SECONDS" in letter["reason"]


def test_a_command_that_is_terminated_has_no_more_time_for_others(
    worker: Spine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPINE_DRAIN_SECONDS", "0.1")
    worker.restart()
    of_others = dispatcher.submit("waits", {})

    def end() -> None:
        until_it_drains()
        terminate()

    with meanwhile(end):
        worker.run("writes", n=1)
    (letter,) = worker.letters()
    assert letter["execution_id"] == str(of_others.id)


def test_a_backfill_whose_command_is_terminated_is_finished_by_the_next(worker: Spine) -> None:
    given = [text for param in LARGE for text in ("-p", param)]
    process = worker.start("run", "otc_backfill_range", *given)
    until(is_under_way)
    process.terminate()
    stopped = ended(process)
    (parent,) = found_of("otc_backfill_range")
    assert (stopped.code, parent.status) == (143, "waiting")
    assert f"otc_backfill_range is waiting ({parent.id})" in stopped.err
    assert {day.status for day in found_of("otc_backfill_day")} == {"succeeded", "queued"}
    backends.chosen().serve()
    until(lambda: is_over(parent), 60)
    assert now(parent).status == "succeeded"
    assert worker.letters() == []
    worker.check_ledger()


def test_an_interrupt_cancels_what_is_followed(worker: Spine) -> None:
    given = [text for param in LARGE for text in ("-p", param)]
    process = worker.start("run", "otc_backfill_range", *given)
    until(is_under_way)
    process.send_signal(signal.SIGINT)
    stopped = ended(process)
    assert (stopped.code, stopped.err) == (130, "")
    parent, *children = worker.executions()
    assert parent["status"] == "cancelled"
    assert {child["status"] for child in children} <= {"succeeded", "cancelled"}
    assert worker.letters() == []
    worker.check_ledger()


# --- losing the store --------------------------------------------------------------------------


@contextmanager
def nobody_may_connect(spine: Spine) -> Iterator[None]:
    """An outage: every connection is lost, and none can be made."""
    name = make_url(postgres.database_of(spine.folder)).database
    others = "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = %s"
    with postgres.connect(postgres.server()) as connection:
        connection.execute(f"ALTER DATABASE {name} WITH ALLOW_CONNECTIONS false".encode())
        connection.execute(others, [name])
        try:
            yield
        finally:
            connection.execute(f"ALTER DATABASE {name} WITH ALLOW_CONNECTIONS true".encode())


def test_a_run_that_loses_the_store_is_run_again(worker: Spine) -> None:
    worker.pipeline(
        "parent", "context.spawn('waits', {})", "context.spawn('writes', {'n': 1})", "return {}"
    )
    parent = dispatcher.submit("parent", {})
    backends.chosen().serve()
    assert gates.begun.acquire(timeout=20)
    with nobody_may_connect(worker):
        gates.open.set()
        time.sleep(1)
    until(lambda: is_over(parent))
    assert now(parent).status == "succeeded"
    assert sorted(row["symbol"] for row in worker.rows(otc_stale_days)) == ["S0", "S1"]
    histories = [kinds(found) for found in found_of("waits")]
    assert histories == [["submitted", "started", "interrupted", "succeeded"]]
    assert worker.letters() == []
    worker.check_ledger()


def test_a_run_that_loses_the_store_each_time_fails(worker: Spine) -> None:
    execution = dispatcher.submit("waits", {})
    backends.chosen().serve()
    for _ in range(execution.max_attempts):
        assert gates.begun.acquire(timeout=20)
        with nobody_may_connect(worker):
            pass
    until(lambda: is_over(execution))
    assert now(execution).status == "failed"
    assert kinds(execution).count("interrupted") == execution.max_attempts - 1
    assert "postgres" not in str(now(execution).error), "where the store is, is nobody's business"
    (letter,) = worker.letters()
    assert letter["execution_id"] == str(execution.id)
    worker.check_ledger()


def test_a_commit_whose_answer_is_lost_is_not_done_again(worker: Spine) -> None:
    execution = under_way()
    lost = threading.Event()

    def commit_and_lose(connection: Connection) -> None:
        if threading.current_thread() is threading.main_thread() or lost.is_set():
            return
        lost.set()
        driver: Any = connection.connection.dbapi_connection
        driver.commit()
        driver.close()

    event.listen(Engine, "commit", commit_and_lose)
    try:
        gates.open.set()
        until(lost.is_set)
    finally:
        until(lambda: is_over(execution))
        event.remove(Engine, "commit", commit_and_lose)
    backends.chosen().drain(10)
    assert now(execution).status == "succeeded"
    assert len(worker.rows(otc_stale_days)) == 1
    assert kinds(execution) == ["submitted", "started", "succeeded"]
    worker.check_ledger()


def test_whoever_waits_for_the_role_lets_the_one_that_lost_it_come_first(
    worker: Spine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process that does the work is slower to come back than the one that waits."""
    execution = under_way()
    other = worker.start("run", "otc_normalize")
    until(lambda: somebody_waits_for_the_role(worker))
    monkeypatch.setattr(interruptions, "RETRY_SECONDS", 2.5)
    with nobody_may_connect(worker):
        until(lambda: thread._worker and not thread._worker.has_role)
    until(lambda: thread._worker and thread._worker.has_role)
    gates.open.set()
    assert ended(other).code == 0
    until(lambda: is_over(execution))
    assert now(execution).status == "succeeded"
    assert worker.letters() == []
    worker.check_ledger()


def test_looking_leaves_alone_what_lost_the_store_and_comes_back(
    worker: Spine, monkeypatch: pytest.MonkeyPatch
) -> None:
    execution = under_way()
    monkeypatch.setattr(interruptions, "RETRY_SECONDS", 1.0)
    monkeypatch.setattr(thread, "PATIENCE_SECONDS", 4.0)
    with nobody_may_connect(worker):
        until(lambda: thread._worker and not thread._worker.has_role)
    assert [row["status"] for row in worker.json("executions", "list")] == ["running"]
    gates.open.set()
    until(lambda: is_over(execution))
    assert now(execution).status == "succeeded"


def somebody_waits_for_the_role(spine: Spine) -> bool:
    """Whether a process has asked for the role and not got it."""
    asked = "SELECT FROM pg_stat_activity WHERE datname = %s AND query LIKE %s"
    name = make_url(postgres.database_of(spine.folder)).database
    with postgres.connect(postgres.server()) as connection:
        return connection.execute(asked, [name, "%pg_try_advisory_lock%"]).fetchone() is not None


def test_following_outlasts_a_second_outage(worker: Spine, monkeypatch: pytest.MonkeyPatch) -> None:
    """However long ago the first one began."""
    monkeypatch.setattr(_carry, "PATIENCE_SECONDS", 2)
    monkeypatch.setattr(_carry, "APART_SECONDS", 1)

    def disturb() -> None:
        assert gates.begun.acquire(timeout=20)
        for _ in range(2):
            with nobody_may_connect(worker):
                time.sleep(0.3)
            time.sleep(2)
        gates.open.set()

    disturber = threading.Thread(target=disturb)
    disturber.start()
    ran = worker.submit("waits")
    disturber.join()
    assert (ran.code, ran.json["status"]) == (0, "succeeded")


def test_following_outlasts_an_outage(worker: Spine) -> None:
    def disturb() -> None:
        assert gates.begun.acquire(timeout=20)
        with nobody_may_connect(worker):
            time.sleep(0.5)
        gates.open.set()

    disturber = threading.Thread(target=disturb)
    disturber.start()
    ran = worker.submit("waits")
    disturber.join()
    assert (ran.code, ran.json["status"]) == (0, "succeeded")


# --- which stores it serves --------------------------------------------------------------------


def test_a_store_that_it_cannot_serve_has_the_inline_backend(tmp_path: Path) -> None:
    with spine_in(tmp_path, "sqlite") as spine, pytest.MonkeyPatch.context() as patch:
        patch.delenv("SPINE_BACKEND")
        spine.restart()
        assert spine.run("otc_normalize")["status"] == "succeeded"
        spine("api", "--port", "0").fails(2, "Postgres", "DATABASE_URL")
        patch.setenv("SPINE_BACKEND", "thread")
        spine.restart()
        spine.submit("otc_normalize").fails(2, "SPINE_BACKEND", "'thread'", "inline")
