"""What every backend owes to whoever submits: each carries an id, and the ledger does the rest."""

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

import httpx
import pytest

from market_spine import backends, dispatcher
from market_spine.schema import dead_letters, otc_metrics_daily
from tests.backends.conformance.carriers import (
    CELERY,
    DAGSTER,
    DBOS,
    INLINE,
    PREFECT,
    TEMPORAL,
    THREAD,
    Carried,
    Carrier,
    carried_in,
    free_port,
)
from tests.fleet import PATIENCE
from tests.observability.lines import lines_of
from tests.support import REPO

at_an_address = pytest.mark.skipif(
    "TEMPORAL_ADDRESS" not in os.environ, reason="TEMPORAL_ADDRESS names no server"
)
# Those with a broker first, so that they have the same places in both lists.
BROKERS = [CELERY, DBOS, PREFECT, DAGSTER, pytest.param(TEMPORAL, marks=at_an_address)]
every_broker = pytest.mark.parametrize("carried", BROKERS, ids=str, indirect=True)
every_backend = pytest.mark.parametrize(
    "carried", [*BROKERS, INLINE, THREAD], ids=str, indirect=True
)
SAMPLE = REPO / "data/otc_sample.csv"
MARKED = 7_316_942_058  # a param that is found wherever it has been written

NOTES = (
    "from pathlib import Path",
    "with Path('begun').open('a') as notes:",
    "    notes.write(f'{context.execution.id}\\n')",
)
WAITS = (
    "import time",
    *NOTES,
    "while not Path('go').exists():",
    "    context.checkpoint('waiting', 0)",
    "    time.sleep(0.02)",
)

TALKS = ("import logging", "logging.getLogger('somebody').warning('hello')")


@pytest.fixture(scope="module")
def carried(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Carried]:
    carrier: Carrier = request.param
    with carried_in(tmp_path_factory.mktemp(carrier.name), carrier) as found:
        found.fleet.spine.pipeline("notes", *NOTES, "return {}")
        found.fleet.spine.pipeline("waits", *WAITS, "return {}")
        found.fleet.spine.pipeline("fails", "raise SourceError('there is none')")
        found.fleet.spine.pipeline("leaves", "raise KeyboardInterrupt")
        found.fleet.spine.pipeline("talks", *TALKS, "return {}")
        yield found


def begun(carried: Carried, execution_id: UUID) -> int:
    """How often a run has noted that it has begun."""
    notes = carried.fleet.folder / "begun"
    return notes.read_text().count(str(execution_id)) if notes.exists() else 0


@every_backend
def test_the_id_alone_is_carried(carried: Carried) -> None:
    execution = dispatcher.submit("notes", {"n": MARKED})
    held = carried.server.held()
    carried.work()
    carried.fleet.until(carried.fleet.is_at_rest)
    held += carried.server.held()
    assert carried.fleet.get(execution.id).status == "succeeded"
    assert begun(carried, execution.id) == 1
    assert str(MARKED) not in held
    if carried.carrier.keeps:
        assert str(execution.id) in held


@every_backend
def test_what_is_delivered_again_is_done_once(carried: Carried) -> None:
    carried.work()
    execution = dispatcher.submit("notes", {})
    for _ in range(2):
        backends.chosen().enqueue(execution.id, execution.lane)
    carried.fleet.until(carried.fleet.is_at_rest)
    backends.chosen().enqueue(execution.id, execution.lane)
    other = dispatcher.submit("notes", {})
    carried.fleet.until(lambda: carried.fleet.get(other.id).status == "succeeded")
    assert begun(carried, execution.id) == 1
    assert carried.fleet.kinds(execution.id) == ["submitted", "started", "succeeded"]


@every_backend
def test_children_and_failures_are_the_ledgers(carried: Carried) -> None:
    carried.work()
    day = {"start_date": "2025-11-24", "end_date": "2025-11-24", "path": str(SAMPLE)}
    backfill = dispatcher.submit("otc_backfill_range", day)
    failing = dispatcher.submit("fails", {})
    carried.fleet.until(carried.fleet.is_at_rest)
    assert carried.fleet.get(backfill.id).status == "succeeded"
    days = {row["date"] for row in carried.fleet.spine.rows(otc_metrics_daily)}
    assert days == {"2025-11-24"}
    assert carried.fleet.get(failing.id).error == "there is none"
    letters = [row["kind"] for row in carried.fleet.spine.rows(dead_letters)]
    assert letters.count("execution") == 1
    carried.fleet.spine.check_ledger()


@every_broker
def test_a_broker_that_is_away_delays_and_loses_nothing(carried: Carried) -> None:
    carried.work()
    carried.server.stop()
    execution = dispatcher.submit("notes", {})
    found = carried.fleet.get(execution.id)
    assert (found.status, found.dispatched_at) == ("queued", None), "the mark was taken back"
    carried.server.start()
    carried.fleet.until(carried.fleet.is_at_rest)
    assert carried.fleet.get(execution.id).status == "succeeded"
    assert begun(carried, execution.id) == 1


@every_backend
def test_what_its_killed_process_ran_is_taken_back(carried: Carried) -> None:
    carried.work()
    go = carried.fleet.folder / "go"
    if carried.carrier.role:
        execution_id = dispatcher.submit("waits", {}).id
        carried.fleet.until(lambda: begun(carried, execution_id))
        carried.rest(signal.SIGKILL)
    else:
        process = carried.fleet.start("run", "waits")
        carried.fleet.until(carried.fleet.live)
        ((execution_id, _),) = carried.fleet.live()
        carried.fleet.until(lambda: begun(carried, execution_id))
        process.kill()
    go.touch()
    carried.work()
    carried.fleet.until(lambda: "requeued" in carried.fleet.kinds(execution_id))
    carried.fleet.until(lambda: carried.resumed() and carried.fleet.is_at_rest())
    go.unlink()
    kinds = ["submitted", "started", "requeued", "started", "succeeded"]
    assert carried.fleet.kinds(execution_id) == kinds
    assert begun(carried, execution_id) == 2
    carried.fleet.spine.check_ledger()


@every_broker
def test_a_worker_keeps_to_its_lanes_and_finishes_what_it_runs(carried: Carried) -> None:
    carried.rest()
    carried.work("--lane", "backfill")
    execution = dispatcher.submit("waits", {}, "backfill")
    left = dispatcher.submit("notes", {})
    carried.fleet.until(lambda: begun(carried, execution.id))
    beside = dispatcher.submit("notes", {}, "backfill")
    carried.fleet.until(lambda: carried.fleet.get(beside.id).status == "succeeded")
    (member,) = carried.fleet.alive("worker")
    member.process.terminate()
    time.sleep(0.5)
    late = dispatcher.submit("notes", {}, "backfill")
    (carried.fleet.folder / "go").touch()
    assert member.process.wait(PATIENCE) == 0
    assert carried.fleet.kinds(execution.id) == ["submitted", "started", "succeeded"]
    for other in (left, late):
        assert dispatcher.cancel(other.id).status == "cancelled", "it had not begun"


@pytest.mark.parametrize("carried", [DBOS], ids=str, indirect=True)  # it runs them in threads
def test_a_run_that_was_broken_off_keeps_no_worker(carried: Carried) -> None:
    carried.work()
    execution = dispatcher.submit("leaves", {})
    carried.fleet.until(carried.fleet.is_at_rest)
    assert carried.fleet.get(execution.id).status == "cancelled"
    (member,) = carried.fleet.alive("worker")
    member.process.terminate()
    assert member.process.wait(PATIENCE) == 0


@every_broker
def test_its_worker_tells_what_its_processes_ran(
    carried: Carried, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many there were, each with a file of figures, there are few such files."""
    carried.rest()
    port = free_port()
    monkeypatch.setitem(carried.fleet.settings, "SPINE_METRICS_PORT", str(port))
    monkeypatch.setitem(carried.fleet.settings, "TMPDIR", str(tmp_path))
    carried.work()

    def counted() -> float:
        told = httpx.get(f"http://127.0.0.1:{port}/metrics", trust_env=False).text
        counts = [line for line in told.splitlines() if line.startswith("spine_runs_total{")]
        return sum(float(line.split()[-1]) for line in counts if '"notes"' in line)

    for runs in (1, 2, 3, 4):
        dispatcher.submit("notes", {})
        carried.fleet.until(carried.fleet.is_at_rest)
        carried.fleet.until(lambda runs=runs: counted() == runs)  # type: ignore[misc]
    files = [file.name for file in tmp_path.glob("spine-metrics-*/*.db")]
    assert len(files) <= 6, files
    carried.rest()


@every_broker
def test_each_line_of_a_run_says_what_it_is_about(carried: Carried) -> None:
    carried.work()
    before = len(carried.fleet.said)
    execution = dispatcher.submit("talks", {})
    carried.fleet.until(lambda: f"{execution.id} ended" in carried.fleet.said)
    lines = lines_of(carried.fleet.said[before:])
    mine = [line for line in lines if line["event"].split()[-1] in ("started", "hello", "ended")]
    assert [line["event"].split()[-1] for line in mine] == ["started", "hello", "ended"]
    for line in mine:
        assert line["execution_id"] == str(execution.id)
        assert (line["pipeline"], line["lane"]) == ("talks", "default")
        assert line["trace_id"] == str(execution.traceparent)[3:35]
