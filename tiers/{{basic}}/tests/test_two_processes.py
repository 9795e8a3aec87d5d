"""Another process at the same time: the run lock, and a store that two processes use."""

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import date

from market_spine import database, dispatcher
from market_spine.schema import otc_captures
from market_spine.services.otc import queries
from tests.support import Ended, Spine, ended
from tests.tape import trade


def test_a_run_waits_for_the_process_that_is_running_executions(spine: Spine) -> None:
    spine.tape(trade())
    with database.store().run_lock(wait=True):
        waiting = spine.start("run", "otc_ingest", "-p", "path=tape.csv")
        assert waiting.stderr is not None
        said = waiting.stderr.readline()
        assert "waiting for another process" in said
        assert waiting.poll() is None
        assert [row["status"] for row in spine.json("executions", "list")] == ["queued"]
        assert spine.count(otc_captures) == 0
    done = ended(waiting)
    assert (done.code, done.err) == (0, "")
    assert "succeeded" in done.out


def test_looking_does_not_wait(spine: Spine) -> None:
    """What is queued stays queued, and what runs is not taken for dead, while the lock is held."""
    with database.transaction() as connection:
        execution = dispatcher.submit_in(connection, "otc_normalize", {})
    with database.store().run_lock(wait=True):
        looked = spine.process("executions", "show", execution.id, "--json")
        assert (looked.code, looked.err, looked.json["status"]) == (0, "", "queued")
        assert spine.json("dead-letters") == []
        assert [row["status"] for row in spine.json("executions")] == ["queued"]
    assert [row["status"] for row in spine.json("executions")] == ["succeeded"]


def test_processes_that_start_together_make_one_store(spine: Spine) -> None:
    spine.tape(trade())
    spine.restart()
    with ThreadPoolExecutor(2) as pool:
        ran: list[Ended] = [
            *pool.map(
                lambda n: spine.process("run", "otc_ingest", "-p", f"path={n}"), ["tape.csv"] * 2
            )
        ]
    assert [one.code for one in ran] == [0, 0], ran
    assert [one.out.split()[1] for one in ran] == ["succeeded"] * 2
    assert spine.count(otc_captures) == 2
    spine.settle()
    assert spine.day()["trade_count"] == 1
    spine.check_ledger()


def test_a_reader_sees_the_store_before_or_after_but_not_between(spine: Spine) -> None:
    spine.take(trade())
    day = date(2025, 11, 24)
    seen: list[list[str]] = []
    done = threading.Event()

    def look() -> None:
        while not done.is_set():
            with database.snapshot() as connection:
                rows = queries.trades(connection, "ACME", day, day, limit=10)
            seen.append([f"{row['trade_id']} {row['price']:f}" for row in rows])

    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        spine.take(
            trade(event="correction", price="11"),
            trade("T2", source_seq="2"),
            at="2025-12-09T12:00:00Z",
        )
    finally:
        done.set()
        watcher.join()
    before, after = ["T1 10.000000"], ["T1 11.000000", "T2 10.000000"]
    assert all(rows in (before, after) for rows in seen), seen
