"""Other processes of this repo beside this one, for `spine dev`, and for `spine run` on its own.

Each is a command of its own. They end with whoever started them, also if that is killed: what they
read from it comes to its end.
"""

import logging
import os
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from threading import Thread

from market_spine.settings import settings

CODE = "from market_spine.companions import main; main()"
GRACE_SECONDS = 10.0  # beyond what the executions that run are given
LAST_LINES = 20  # of a process that has failed

log = logging.getLogger(__name__)

Process = subprocess.Popen[str]


@contextmanager
def running(
    commands: Mapping[str, Iterable[str]], *, aloud: bool = True
) -> Iterator[dict[str, Process]]:
    """Run commands of `spine` beside this process until the block ends.

    Args:
        commands: the arguments of each, by its name.
        aloud: show their lines, each with the name before it; or else the last ones of a command
            that has failed.
    """
    processes: dict[str, Process] = {}
    readers = []
    try:
        for name, arguments in commands.items():
            processes[name] = _start(arguments)
            reader = Thread(target=_read, args=(name, processes[name], aloud), daemon=True)
            reader.start()
            readers.append(reader)
        yield processes
    finally:
        for process in processes.values():
            process.terminate()  # once: a second signal would cut off what runs
        for name, process in processes.items():
            _await_end(name, process)
        for reader in readers:
            reader.join()


def _start(arguments: Iterable[str]) -> Process:
    return subprocess.Popen(
        [sys.executable, "-c", CODE, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,  # a Ctrl-C is handed on by whoever started it
    )


def _read(name: str, process: Process, aloud: bool) -> None:
    kept: deque[str] = deque(maxlen=LAST_LINES)
    for line in process.stdout or ():
        shown = f"{name:6} | {line.rstrip()}"
        if aloud:
            print(shown, file=sys.stderr, flush=True)
        else:
            kept.append(shown)
    if process.wait() > 0:
        print(*kept, sep="\n", file=sys.stderr, flush=True)


def _await_end(name: str, process: Process) -> None:
    with process:
        try:
            process.wait(settings().spine_drain_seconds + GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            log.warning("%s does not end: killed", name)
            os.killpg(process.pid, signal.SIGKILL)


def main() -> None:
    """Run a command of `spine` until it ends, or until whoever started it has."""
    from market_spine import cli

    Thread(target=_end_with_starter, daemon=True).start()
    cli.main()


def _end_with_starter() -> None:
    with os.fdopen(os.dup(0)) as starter:
        starter.read()
    os.kill(os.getpid(), signal.SIGTERM)
