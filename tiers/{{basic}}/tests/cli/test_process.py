"""The command as a process of its own: its start, its streams, a terminal."""

import os
import pty
import subprocess
import sys
import time

import pytest

from tests.support import Spine
from tests.tape import trade


def test_a_command_works_as_a_process(spine: Spine) -> None:
    spine.tape(trade())
    ran = spine.process("run", "otc_ingest", "-p", "path=tape.csv", "--json")
    assert (ran.code, ran.err) == (0, "")
    assert ran.json["status"] == "succeeded"
    refused = spine.process("run", "otc_nothing")
    assert refused.out == ""
    refused.fails(2, "otc_nothing")


def test_help_needs_nothing_of_what_does_the_work() -> None:
    """Heavy imports are lazy: the help is quick."""
    script = (
        "import sys, market_spine.cli as cli; cli.build_app()\n"
        "print([name for name in ('sqlalchemy', 'pydantic', 'holidays', 'orjson', 'rich.table')"
        " if name in sys.modules])"
    )
    found = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert found.stdout.strip() == "[]"


@pytest.mark.skipif(sys.platform == "win32", reason="there are no pseudo-terminals")
def test_progress_is_shown_on_a_terminal_alone(spine: Spine) -> None:
    args = ("run", "otc_ingest", "-p", "connector=synthetic", "-p", "path=7/3000")
    dates = ("-p", "start_date=2025-11-24", "-p", "end_date=2025-11-25")
    assert spine(*args, *dates).err == ""
    ours, theirs = pty.openpty()
    process = spine.start(*args, *dates, stderr=theirs)
    os.close(theirs)
    shown = b""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            chunk = os.read(ours, 4096)
        except OSError:  # how Linux says that the other end is closed
            break
        if not chunk:
            break
        shown += chunk
    os.close(ours)
    process.communicate(timeout=30)
    assert process.returncode == 0
    assert b"otc_ingest" in shown
