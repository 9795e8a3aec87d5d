"""The whole system in processes of its own: database, broker, workers, relays, and who kills them.

Whoever tests does so through the ledger's rows, and through the same `dispatcher.submit` that the
command line and the API call.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import mkdtemp
from typing import Any
from uuid import UUID

import psutil
from redis import Redis
from sqlalchemy import text

from market_spine import database, ledger
from market_spine.backends import celery
from market_spine.embedded import valkey
from market_spine.errors import StoreUnavailableError
from market_spine.settings import Settings
from tests import postgres
from tests.support import REPO, Spine, spine_in

PATIENCE = 120.0  # for what must happen, however busy the machine is
POLL = 0.05

# As `spine`, with the pipelines of the folder, and what a test wants done at a named point.
COMMAND = """
import sys
from pathlib import Path
from market_spine import pipelines
from market_spine.cli import main
pipelines.__path__.append("pipelines")
if Path("trap.py").exists():
    exec(Path("trap.py").read_text())
main()
"""


class Broker:
    """A Valkey that can be emptied, stopped and started again at the same address."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.url = f"redis+socket://{home / 'valkey'}"
        self._running = ExitStack()
        self.start()

    def start(self) -> None:
        (self.home / "servers.log").touch()
        url, self.process = self._running.enter_context(
            valkey.run(self.home / "data", self.home, durable=False)
        )
        assert url.endswith(str(self.home / "valkey"))

    def stop(self) -> None:
        self._running.close()

    def client(self) -> Redis:
        return Redis.from_url(self.url.replace("redis+socket", "unix"))

    def flush(self) -> None:
        with self.client() as redis:
            redis.flushall()


@dataclass(frozen=True)
class Member:
    """A process of a fleet, and what it was started as."""

    role: str
    process: "subprocess.Popen[bytes]"

    def kill_all(self) -> None:
        """Kill it with all that it has started."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)


class Fleet:
    """A folder with a database and a broker, and the processes that were started in it."""

    def __init__(self, spine: Spine, broker: Broker, settings: dict[str, str]) -> None:
        self.spine = spine
        self.broker = broker
        self.folder = spine.folder
        self.database = postgres.database_of(spine.folder)
        self.settings = settings
        self.lease_seconds = float(settings["SPINE_LEASE_SECONDS"])
        self.members: list[Member] = []
        self.log = (self.folder / "fleet.log").open("ab")

    # --- processes -------------------------------------------------------------------------------

    def start(self, role: str, *args: object, trap: str = "") -> subprocess.Popen[bytes]:
        """Start a command of `spine`; with a trap, what is run in it before that."""
        known = {name.upper() for name in Settings.model_fields}
        inherited = {name: value for name, value in os.environ.items() if name not in known}
        process = subprocess.Popen(
            [sys.executable, "-c", trap + COMMAND, role, *map(str, args)],
            cwd=self.folder,
            env={
                **inherited,
                "DATABASE_URL": self.database,
                "REDIS_URL": self.broker.url,
                "SPINE_MIGRATIONS": str(REPO / "migrations"),
                **self.settings,
            },
            stdin=subprocess.DEVNULL,
            stdout=self.log,
            stderr=self.log,
            start_new_session=True,
        )
        self.members.append(Member(role, process))
        return process

    def worker(self, processes: int = 2, trap: str = "") -> subprocess.Popen[bytes]:
        return self.start("worker", "--processes", processes, trap=trap)

    def relay(self, trap: str = "") -> subprocess.Popen[bytes]:
        return self.start("relay", trap=trap)

    def children(self, process: subprocess.Popen[bytes]) -> list[psutil.Process]:
        """The processes of a worker that carry executions out."""
        return psutil.Process(process.pid).children()

    def alive(self, role: str) -> list[Member]:
        """Those of a role that have not ended."""
        found = [member for member in self.members if member.role == role]
        return [member for member in found if member.process.poll() is None]

    def mended(self, workers: int, relays: int) -> bool:
        """Start again what has ended, as whoever looks after containers does."""
        while len(self.alive("worker")) < workers:
            self.worker()
        while len(self.alive("relay")) < relays:
            self.relay()
        return True

    def end(self) -> None:
        for member in self.members:
            member.kill_all()
        for member in self.members:
            member.process.wait()
        self.log.close()

    @property
    def said(self) -> str:
        """What the processes have printed."""
        return (self.folder / "fleet.log").read_text()

    # --- the ledger ------------------------------------------------------------------------------

    def until(self, true: Callable[[], object], what: str = "") -> None:
        """Wait until something is so."""
        deadline = time.monotonic() + PATIENCE
        while not self._is_so(true):
            assert time.monotonic() < deadline, (what, self.statuses(), self.said[-4000:])
            time.sleep(POLL)

    def _is_so(self, true: Callable[[], object]) -> object:
        try:
            return true()
        except StoreUnavailableError:  # which may be what the test is about
            return False

    def statuses(self) -> dict[str, int]:
        """How many executions there are in each state."""
        counted = "SELECT status, count(*) FROM executions GROUP BY status ORDER BY status"
        with database.snapshot() as connection:
            return {row[0]: row[1] for row in connection.execute(text(counted))}

    def live(self) -> list[tuple[UUID, str]]:
        """The executions that have not ended, and their lanes."""
        asked = text("SELECT id, lane FROM executions WHERE finished_at IS NULL")
        with database.snapshot() as connection:
            return [(row[0], row[1]) for row in connection.execute(asked)]

    def is_at_rest(self) -> bool:
        """Whether every execution has ended."""
        return not set(self.statuses()) & set(ledger.LIVE)

    def get(self, execution_id: UUID) -> ledger.Execution:
        with database.snapshot() as connection:
            return ledger.get(connection, execution_id)

    def kinds(self, execution_id: UUID) -> list[str]:
        """The kinds of an execution's events."""
        with database.snapshot() as connection:
            return [event.kind for event in ledger.events_of(connection, execution_id)]

    def one(self, statement: str, **values: Any) -> Any:
        """The one value that a query yields."""
        with database.snapshot() as connection:
            return connection.execute(text(statement), values).scalar_one()


@contextmanager
def fleet_in(folder: Path, **settings: str) -> Iterator[Fleet]:
    """A fleet in a folder, without a process yet; submits of this process go to its broker."""
    home = Path(mkdtemp(prefix="fleet-", dir="/tmp"))  # the path of a socket must be short
    (home / "data").mkdir()
    broker = Broker(home)
    quick = {"SPINE_LEASE_SECONDS": "4", "SPINE_DRAIN_SECONDS": "5", **settings}
    try:
        with spine_in(folder, "postgresql") as spine:
            os.environ.update({"SPINE_BACKEND": "celery", "REDIS_URL": broker.url})
            celery._failed_at = float("-inf")  # for the broker of an earlier test
            fleet = Fleet(spine, broker, quick)
            try:
                yield fleet
            finally:
                fleet.end()
    finally:
        os.environ.pop("REDIS_URL", None)
        broker.stop()
