"""What becomes of what a worker runs when it is ended, as base/process-worker.yaml has it."""

import signal
import time
from pathlib import Path

from market_spine import dispatcher
from tests.fleet import fleet_in
from tests.test_fleet import SLOW, go


def test_a_run_that_is_cut_off_is_begun_anew_by_another_worker(tmp_path: Path) -> None:
    with fleet_in(tmp_path, SPINE_DRAIN_SECONDS="1") as fleet:
        fleet.spine.pipeline("slow", *SLOW)
        fleet.relay()
        ended = fleet.worker(1)
        execution = dispatcher.submit("slow", {})
        fleet.until(lambda: fleet.get(execution.id).status == "running")
        ended.send_signal(signal.SIGTERM)
        ended.wait(60)
        assert fleet.get(execution.id).finished_at is None
        fleet.worker(1)
        go(fleet)
        fleet.until(fleet.is_at_rest)
        found = fleet.get(execution.id)
        assert (found.status, found.attempt) == ("succeeded", 2)
        fleet.spine.check_ledger()


def test_a_worker_without_work_ends_at_once(tmp_path: Path) -> None:
    with fleet_in(tmp_path, SPINE_DRAIN_SECONDS="120") as fleet:
        fleet.spine.pipeline("ends", "return {}")
        worker = fleet.worker(1)
        dispatcher.submit("ends", {})
        fleet.until(fleet.is_at_rest)
        time.sleep(1)  # for Celery hears of the end of a run after the ledger does
        worker.send_signal(signal.SIGTERM)
        worker.wait(60)
