"""Reading ahead in a second process: the same result, and no process that outlives its parent."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from market_spine.services.otc import normalizer, reading
from tests.support import REPO, Spine, ended, spine_in

VENDOR = """
columns = ["ms", "price", "size", "venue", "flags"]

[fields]
symbol = { value = "ACME" }
price = { column = "price", scale = 10000 }
size = "size"
venue = { column = "venue", values = { P = "ALFA" } }
conditions = { column = "flags", base = 16, flags = { 0 = "regular", 31 = "odd_lot" } }

[fields.trade_ts]
column = "ms"
unit = "ms"
zone = "America/New_York"
date = { file_name = '(\\d{8})' }
"""
VENDOR_ROWS = """34200688,491800,300,P,1
34201540,488700,20,P,80000000
34201541,488700,20,X,1
34201542,488700,20,P,4
34201543,4.8,20,P,1
34201544,1,20
"""

many = pytest.mark.skipif(sys.platform != "linux", reason="finds processes in /proc")


def settled(folder: Path, monkeypatch: pytest.MonkeyPatch, *, second_process: bool) -> object:
    """What the sample and a vendor's file come to, read in small batches."""
    folder.mkdir()
    with spine_in(folder) as spine:
        monkeypatch.setattr(reading, "MANY", 1 if second_process else 1_000_000)
        monkeypatch.setattr(normalizer, "BATCH", 700)
        (folder / "mappings" / "vendor.toml").write_text(VENDOR)
        (folder / "acme_20251124.csv").write_text(VENDOR_ROWS)
        at = "2025-12-08T12:00:00Z"
        sample = REPO / "data" / "otc_sample.csv"
        spine.run("otc_ingest", path=sample, captured_at=at)
        spine.run("otc_ingest", path="acme_20251124.csv", source="vendor", captured_at=at)
        spine.settle()
        spine.check_ledger()
        results = [execution["result"] for execution in spine.executions()[2:]]
        return spine.state(), spine.faults(), results


def test_the_result_is_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    alone = settled(tmp_path / "alone", monkeypatch, second_process=False)
    started: list[object] = []
    popen = subprocess.Popen

    def noted(*args: object, **options: object) -> object:
        started.append(args)
        return popen(*args, **options)  # type: ignore[call-overload]

    monkeypatch.setattr(subprocess, "Popen", noted)
    assert settled(tmp_path / "beside", monkeypatch, second_process=True) == alone
    assert len(started) == 2, "one for each capture"


def filled(spine: Spine) -> None:
    """A capture that is large enough for a second process."""
    days = {"start_date": "2025-11-24", "end_date": "2025-11-25"}
    spine.run("otc_ingest", connector="synthetic", path=f"7/{reading.MANY // 2}", **days)


def second_process(process: "subprocess.Popen[str]") -> int:
    """The id of the process that a command has started to read."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    while process.poll() is None:
        for child in children.read_text().split():
            if reading.__name__ in Path(f"/proc/{child}/cmdline").read_text():
                return int(child)
        time.sleep(0.001)
    raise AssertionError(ended(process))


def is_alive(process_id: int) -> bool:
    try:
        return "(zombie)" not in Path(f"/proc/{process_id}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


@many
def test_it_does_not_outlive_a_parent_that_is_killed(spine: Spine) -> None:
    filled(spine)
    process = spine.start("run", "otc_normalize")
    reader = second_process(process)
    process.kill()
    assert "Traceback" not in ended(process).err
    deadline = time.monotonic() + 30
    while is_alive(reader):
        assert time.monotonic() < deadline, "it reads on for nobody"
        time.sleep(0.01)


@many
def test_a_run_fails_when_it_is_killed_and_can_be_done_again(spine: Spine) -> None:
    filled(spine)
    process = spine.start("run", "otc_normalize")
    os.kill(second_process(process), signal.SIGKILL)
    failed = ended(process)
    assert (failed.code, "the process that reads records" in failed.err) == (1, True), failed
    assert "Traceback" not in failed.err
    (letter,) = spine.letters()
    assert spine.versions() == []
    again = spine.ok("dead-letters", "retry", letter["id"], "--json").json
    assert again["result"]["new_versions"] == reading.MANY
    spine.check_ledger()
