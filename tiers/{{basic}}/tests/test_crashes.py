"""Crashes: whatever is killed or interrupted at whatever statement, the next run ends the same.

A process is killed as it sends its n-th statement to the database, for many n, and real processes
at real moments besides. Then the next command fails what was cut off and drains what was queued;
doing the rest again gives the gold, silver and open letters of a run that nobody disturbed.
"""

import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, event

from market_spine import database
from tests.support import Spine, ended, spine_in
from tests.tape import csv_text, trade

AT = "2025-12-08T12:00:00Z"
INGEST = {"path": "tape.csv", "captured_at": AT}
STAGES: dict[str, dict[str, str]] = {
    "otc_ingest": INGEST,
    "otc_normalize": {},
    "otc_compute_daily_metrics": {},
    "otc_backfill_range": {**INGEST, "start_date": "2025-11-24", "end_date": "2025-11-25"},
}
ROUNDS = {
    "otc_ingest": 3,
    "otc_normalize": 4,
    "otc_compute_daily_metrics": 2,
    "otc_backfill_range": 7,
}


@pytest.fixture(scope="module")
def store() -> str:
    """A folder with its store is copied here, which is a file."""
    return "sqlite"


def tape() -> str:
    """Two days with all that makes a merge hard: duplicates, conflicts, corrections, faults."""
    rows = []
    for day in ("2025-11-24", "2025-11-25"):
        plain = [
            trade(f"{day}-{n}", trade_ts=f"{day}T15:00:00Z", price=str(n + 1)) for n in range(9)
        ]
        again, conflicting, corrected, cancelled, bad = plain[:5]
        rows += [
            *plain,
            again,
            {**conflicting, "price": "7"},
            {**corrected, "event": "correction", "symbol": "BOLT"},
            {**cancelled, "event": "cancel"},
            {**bad, "price": "x"},
        ]
    return csv_text(*rows)


@dataclass
class Prepared:
    """A folder whose store is ready for a stage, and how many statements the stage sends."""

    folder: Path
    statements: int = 0

    def moments(self, count: int) -> list[int]:
        """Some of the statements, those at both ends among them."""
        last = self.statements
        inner = random.Random(last).sample(range(2, last - 1), min(count, last - 3))
        return sorted({1, last - 1, last, *inner})


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Prepared]:
    found: dict[str, Prepared] = {}
    for stage, params in STAGES.items():
        folder = tmp_path_factory.mktemp(stage)
        (folder / "tape.csv").write_text(tape())
        with spine_in(folder) as spine:
            if stage in ("otc_normalize", "otc_compute_daily_metrics"):
                spine.run("otc_ingest", **INGEST)
            if stage == "otc_compute_daily_metrics":
                spine.run("otc_normalize")
            spine.ok("executions", "list")
        found[stage] = Prepared(folder)
        with copied(folder, tmp_path_factory.mktemp("counted")) as spine:
            counted = statements(spine, lambda: None)
            spine.run(stage, **params)
            found[stage].statements = counted()
    return found


@pytest.fixture(scope="module")
def undisturbed(prepared: dict[str, Prepared], tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What must stand in the end."""
    folder = tmp_path_factory.mktemp("undisturbed")
    with copied(prepared["otc_ingest"].folder, folder) as spine:
        spine.run("otc_ingest", **INGEST)
        spine.settle()
        state = spine.state()
    with copied(prepared["otc_backfill_range"].folder, folder) as spine:
        spine.run("otc_backfill_range", **STAGES["otc_backfill_range"])
        assert spine.state() == state
    return state


@contextmanager
def copied(source: Path, folder: Path) -> Iterator[Spine]:
    shutil.rmtree(folder)
    shutil.copytree(source, folder)
    with spine_in(folder) as spine:
        yield spine


def statements(
    spine: Spine, action: Callable[[], object], at: int | None = None
) -> Callable[[], int]:
    """Do something as the n-th statement is sent; what is returned stops that and counts them."""
    sent = 0

    def count(*_: object) -> None:
        nonlocal sent
        sent += 1
        if sent == at:
            action()

    kinds = ("before_cursor_execute", "commit")
    for kind in kinds:
        event.listen(Engine, kind, count)

    def stop() -> int:
        for kind in kinds:
            event.remove(Engine, kind, count)
        return sent

    spine.restart()
    return stop


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def interrupt() -> None:
    raise KeyboardInterrupt


def run_and_die(spine: Spine, stage: str, at: int) -> None:
    """Run a stage in a process that is killed at its n-th statement."""
    spine.restart()
    child = os.fork()
    if not child:
        statements(spine, die, at)
        try:
            spine.submit(stage, **STAGES[stage])
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == -signal.SIGKILL


def recover(spine: Spine, stage: str, params: dict[str, str], *, again: bool = False) -> None:
    """What a person does: look, do again what failed, go on where nothing failed."""
    spine.restart()
    found = spine.executions()
    assert {row["status"] for row in found} <= {"succeeded", "failed", "cancelled"}
    letters = [row for row in spine.letters() if row["kind"] == "execution"]
    parents = {row["parent_id"] for row in found}
    dead = [row["id"] for row in found if row["status"] == "failed" and row["id"] not in parents]
    assert [row["execution_id"] for row in letters] == dead, "a letter for what died, no other"
    assert len(dead) <= 1
    for letter in letters:
        spine.ok("dead-letters", "retry", letter["id"])
    done = [row for row in found if row["pipeline"] == stage and row["status"] == "succeeded"]
    if again or (not letters and not done):
        spine.run(stage, **params)
    if stage != "otc_backfill_range":
        spine.settle()
    spine.check_ledger()


def check_integrity(spine: Spine) -> None:
    with closing(sqlite3.connect(spine.store)) as store:
        assert store.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert store.execute("PRAGMA foreign_key_check").fetchall() == []


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs processes that fork")
@pytest.mark.parametrize("stage", STAGES)
def test_a_kill_at_any_statement_is_mended_by_the_next_run(
    stage: str, prepared: dict[str, Prepared], undisturbed: Any, tmp_path: Path
) -> None:
    for at in prepared[stage].moments(ROUNDS[stage]):
        with copied(prepared[stage].folder, tmp_path) as spine:
            run_and_die(spine, stage, at)
            recover(spine, stage, STAGES[stage])
            assert spine.state() == undisturbed, at
            check_integrity(spine)


@pytest.mark.parametrize("stage", STAGES)
def test_an_interrupt_at_any_statement_is_mended_by_the_next_run(
    stage: str, prepared: dict[str, Prepared], undisturbed: Any, tmp_path: Path
) -> None:
    for at in prepared[stage].moments(ROUNDS[stage] // 2):
        with copied(prepared[stage].folder, tmp_path) as spine:
            stop = statements(spine, interrupt, at)
            code = spine.submit(stage, **STAGES[stage]).code
            stop()
            assert code == 130, at
            recover(spine, stage, STAGES[stage], again=True)
            assert spine.state() == undisturbed, at
            check_integrity(spine)


# --- real processes at real moments ------------------------------------------------------------

LARGE = {
    "connector": "synthetic",
    "path": "7/2000",
    "captured_at": AT,
    "start_date": "2025-11-24",
    "end_date": "2025-11-26",
}


@pytest.fixture(scope="module")
def captured(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """A folder whose store holds a large capture, and what must stand in the end."""
    folder = tmp_path_factory.mktemp("captured")
    with spine_in(folder) as spine:
        spine.run("otc_ingest", **LARGE)
    with copied(folder, tmp_path_factory.mktemp("large")) as spine:
        spine.settle()
        return folder, spine.state()


def wait_until_running(spine: Spine, process: "subprocess.Popen[str]") -> None:
    deadline = time.monotonic() + 30
    running = "SELECT 1 FROM executions WHERE status IN ('running', 'waiting')"
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with closing(sqlite3.connect(f"{spine.store.as_uri()}?mode=ro", uri=True)) as store:
                if store.execute(running).fetchone():
                    return
        except sqlite3.OperationalError:
            pass  # the store, or its tables, are being made
        time.sleep(0.005)


def test_an_interrupt_while_a_connection_is_given_back_is_not_logged(
    spine: Spine, caplog: pytest.LogCaptureFixture
) -> None:
    spine.ok("executions")
    engine = database.engine()

    def interrupt(*_of_the_reset: object) -> None:
        event.remove(engine, "reset", interrupt)
        raise KeyboardInterrupt

    event.listen(engine, "reset", interrupt)
    with pytest.raises(KeyboardInterrupt), database.snapshot():
        pass
    assert caplog.records == []


@pytest.mark.skipif(sys.platform == "win32", reason="there are no such signals")
@pytest.mark.parametrize(
    ("stage", "params", "how"),
    [
        ("otc_ingest", LARGE, "SIGINT"),
        ("otc_normalize", {}, "SIGKILL"),
        ("otc_backfill_range", LARGE, "SIGKILL"),
        ("otc_backfill_range", LARGE, "SIGINT"),
    ],
)
def test_a_process_that_is_stopped_is_mended_by_the_next(
    stage: str,
    params: dict[str, str],
    how: str,
    captured: tuple[Path, Any],
    tmp_path: Path,
    spine: Spine,
) -> None:
    folder, expected = captured
    if stage == "otc_normalize":
        shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    given = [text for name, value in params.items() for text in ("-p", f"{name}={value}")]
    process = spine.start("run", stage, *given)
    wait_until_running(spine, process)
    time.sleep(random.Random(stage + how).random() * 0.15)
    process.send_signal(signal.Signals[how])
    stopped = ended(process)
    assert stopped.code in ({"SIGKILL": -9, "SIGINT": 130}[how], 0)
    assert "Traceback" not in stopped.err
    recover(spine, stage, params, again=how == "SIGINT")
    assert spine.state() == expected
    check_integrity(spine)
