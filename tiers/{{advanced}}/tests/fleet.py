"""The whole system in processes of its own: database, broker, API, workers, relays and beats.

Whoever tests does so through the ledger's rows, and submits over HTTP, or through the same
`dispatcher.submit` that the command line and the API call.
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
from threading import Timer
from typing import Any
from uuid import UUID

import httpx
import psutil
import pytest
from sqlalchemy import text

from market_spine import database, ledger
from market_spine.backends import celery
from market_spine.errors import StoreUnavailableError
from market_spine.settings import Settings
from tests.servers import Broker, Postgres
from tests.support import REPO, STORES, Spine, spine_in

PATIENCE = 240.0  # for what must happen, however busy the machine is
POLL = 0.05

# As `spine`, with the pipelines of the folder.
COMMAND = """
from market_spine import pipelines
from market_spine.cli import main
pipelines.__path__.append("pipelines")
main()
"""


@dataclass(frozen=True)
class Member:
    """A process of a fleet, and what it was started as."""

    role: str
    process: "subprocess.Popen[bytes]"
    out: Path  # what it prints; what it logs is in the fleet's log

    @property
    def address(self) -> str | None:
        """Where an API can be called; None: it has not said so yet."""
        said = self.out.read_text().partition("listening on ")[2]
        return said.split()[0] if said.endswith("\n") else None

    def kill_all(self) -> None:
        """Kill it with all that it has started."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)


class Fleet:
    """A folder with a database and a broker, and the processes that were started in it."""

    def __init__(
        self, spine: Spine, broker: Broker, server: Postgres | None, settings: dict[str, str]
    ) -> None:
        self.spine = spine
        self.broker = broker
        self.folder = spine.folder
        self.database = os.environ["DATABASE_URL"]
        self.settings = settings
        self.preamble = ""  # code that every process runs first
        self._server = server
        self._timers: list[Timer] = []
        self.lease_seconds = float(settings["SPINE_LEASE_SECONDS"])
        self.members: list[Member] = []
        self.log = (self.folder / "fleet.log").open("ab")

    # --- processes -------------------------------------------------------------------------------

    def start(self, role: str, *args: object, trap: str = "") -> subprocess.Popen[bytes]:
        """Start a command of `spine`; with a trap, what is run in it before that."""
        out = self.folder / f"{role}-{len(self.members)}.out"
        known = {name.upper() for name in Settings.model_fields}
        inherited = {name: value for name, value in os.environ.items() if name not in known}
        with out.open("wb") as printed:
            process = subprocess.Popen(
                [sys.executable, "-c", self.preamble + trap + COMMAND, role, *map(str, args)],
                cwd=self.folder,
                env={
                    **inherited,
                    "DATABASE_URL": self.database,
                    "REDIS_URL": self.broker.url,
                    "SPINE_MIGRATIONS": str(REPO / "migrations"),
                    **self.settings,
                },
                stdin=subprocess.DEVNULL,
                stdout=printed,
                stderr=self.log,
                start_new_session=True,
            )
        self.members.append(Member(role, process, out))
        return process

    def worker(self, processes: int = 2, trap: str = "") -> subprocess.Popen[bytes]:
        return self.start("worker", "--processes", processes, trap=trap)

    def relay(self, trap: str = "") -> subprocess.Popen[bytes]:
        return self.start("relay", trap=trap)

    def beat(self, trap: str = "") -> subprocess.Popen[bytes]:
        return self.start("beat", trap=trap)

    def api(self, trap: str = "") -> subprocess.Popen[bytes]:
        return self.start("api", "--port", 0, trap=trap)

    def children(self, process: subprocess.Popen[bytes]) -> list[psutil.Process]:
        """The processes of a worker that carry executions out."""
        return psutil.Process(process.pid).children()

    def alive(self, role: str) -> list[Member]:
        """Those of a role that have not ended."""
        found = [member for member in self.members if member.role == role]
        return [member for member in found if member.process.poll() is None]

    def mended(self, workers: int = 0, relays: int = 0, beats: int = 0, apis: int = 0) -> bool:
        """Start again what has ended, as whoever looks after containers does."""
        wanted: dict[str, tuple[Callable[[], object], int]] = {
            "worker": (self.worker, workers),
            "relay": (self.relay, relays),
            "beat": (self.beat, beats),
            "api": (self.api, apis),
        }
        for role, (start, count) in wanted.items():
            for _ in range(count - len(self.alive(role))):
                start()
        return True

    def later(self, seconds: float, do: Callable[[], object]) -> None:
        """Do something after a while, unless the fleet has ended by then."""
        timer = Timer(seconds, do)
        timer.start()
        self._timers.append(timer)

    def calm(self) -> None:
        """Wait until everything is done that was to be done later."""
        while self._timers:
            self._timers.pop().join()

    def end(self) -> None:
        for timer in self._timers:
            timer.cancel()
        self.calm()
        for member in self.members:
            member.kill_all()
        for member in self.members:
            member.process.wait()
        self.log.close()

    @property
    def said(self) -> str:
        """What the processes have printed."""
        return (self.folder / "fleet.log").read_text()

    @property
    def server(self) -> Postgres:
        """Its Postgres, if nobody else uses it."""
        assert self._server is not None
        return self._server

    # --- the API ---------------------------------------------------------------------------------

    def submitted(self, key: str, pipeline: str, **body: object) -> UUID | None:
        """Submit over HTTP; None: nobody has answered, or whoever did said to ask again."""
        for member in self.alive("api"):
            if member.address:
                with suppress(httpx.TransportError):
                    answer = httpx.post(
                        f"{member.address}/executions",
                        json={"pipeline": pipeline, **body},
                        headers={"Idempotency-Key": key},
                        timeout=60,
                        trust_env=False,
                        verify=False,
                    )
                    assert answer.status_code in (202, 503), answer.text
                    if answer.status_code == 202:
                        return UUID(answer.json()["id"])
        return None

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
def fleet_in(
    folder: Path, *, server: Postgres | None = None, may_hang: bool = False, **settings: str
) -> Iterator[Fleet]:
    """A fleet in a folder, without a process yet; submits of this process go to its broker.

    Args:
        folder: an empty one.
        server: where its database is; None: where those of all tests are.
        may_hang: whether its broker has a proxy.
        settings: of its processes.
    """
    home = Path(mkdtemp(prefix="fleet-", dir="/tmp"))  # the path of a socket must be short
    (home / "data").mkdir()
    broker = Broker(home, may_hang=may_hang)
    quick = {"SPINE_LEASE_SECONDS": "4", "SPINE_DRAIN_SECONDS": "5", **settings}
    try:
        with _spine_on(server, folder) as spine, pytest.MonkeyPatch.context() as patch:
            patch.setenv("SPINE_BACKEND", "celery")
            patch.setenv("REDIS_URL", broker.url)
            celery._failed_at = float("-inf")  # for the broker of an earlier test
            fleet = Fleet(spine, broker, server, quick)
            try:
                yield fleet
            finally:
                fleet.end()
    finally:
        broker.close()


@contextmanager
def _spine_on(server: Postgres | None, folder: Path) -> Iterator[Spine]:
    with ExitStack() as stack:
        if server:
            url = server.new()
            stack.callback(server.drop, url)
            patch = stack.enter_context(pytest.MonkeyPatch.context())
            patch.setitem(STORES, "postgresql", lambda _folder: url)
        yield stack.enter_context(spine_in(folder, "postgresql"))
