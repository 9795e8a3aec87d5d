"""A folder with an embedded server: who uses it, what runs there, and that nothing is left."""

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psutil

from market_spine.embedded import _places

USER = """
import sys
from market_spine import embedded
print(embedded.ensure(), flush=True)
sys.stdin.read()
"""


class House:
    """A folder with an embedded server, and the processes that use it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.home = folder / ".spine"
        self.users = ExitStack()

    def start(self, *command: str, **options: Any) -> subprocess.Popen[str]:
        """Start a process in the folder; without a command, a user until its input ends."""
        process = subprocess.Popen(
            command or [sys.executable, "-c", USER],
            **{"cwd": self.folder, **options},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.users.enter_context(process)
        self.users.callback(process.kill)
        return process

    def user(self, **options: Any) -> tuple[subprocess.Popen[str], str]:
        """Start a user; returns the URL that it got, too."""
        process = self.start(**options)
        return process, line(process)

    def supervisors(self) -> list[psutil.Process]:
        """The supervisors of this folder."""
        found = psutil.process_iter(["cmdline"])
        return [one for one in found if {"-P", str(self.home)} <= {*(one.info["cmdline"] or [])}]

    def servers(self) -> list[psutil.Process]:
        """All the processes of this folder's Postgres."""
        found = psutil.process_iter(["name", "cwd"])
        own = {"name": "postgres", "cwd": str(self.home / "postgres")}
        return [one for one in found if one.info == own]

    def postmaster(self) -> psutil.Process:
        """The process of Postgres that starts the others."""
        return psutil.Process(int((self.home / "postgres/postmaster.pid").read_text().split()[0]))

    def await_end(self) -> None:
        """Wait until nothing is left of the server but its data."""
        until(lambda: not _places.sockets_of(self.home).exists())
        until(lambda: not self.supervisors() and not self.servers())
        assert not (self.home / "postgres/postmaster.pid").exists()


@contextmanager
def new_folder() -> Iterator[Path]:
    """A folder that others can reach, unlike pytest's own: Postgres may run as another user."""
    with TemporaryDirectory(prefix="spine-", dir="/tmp") as name:
        Path(name).chmod(0o755)
        yield Path(name).resolve()


@contextmanager
def house_in(folder: Path) -> Iterator[House]:
    """A house that has nothing running any more when its users have ended, whatever they did."""
    house = House(folder)
    with house.users:
        yield house
    try:
        house.await_end()
    finally:
        for process in [*house.supervisors(), *house.servers()]:
            process.kill()


def line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    said = process.stdout.readline().strip()
    assert said, process.communicate()
    return said


def until(condition: Callable[[], bool]) -> None:
    for _ in range(1000):
        if condition():
            return
        time.sleep(0.05)
    raise AssertionError("it did not come about")
