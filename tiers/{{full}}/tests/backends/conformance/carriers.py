"""The backends, each with what it needs: an environment, a server, and somebody who does the work."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from sqlalchemy import text

from market_spine import database
from tests.fleet import Fleet, fleet_in
from tests.support import REPO, forget

# Read by every process of a folder, because an engine starts some that know nothing of the tests.
WITH_PIPELINES = """
from pathlib import Path
from market_spine import pipelines
pipelines.__path__.append(str(Path(__file__).parent / "pipelines"))
"""


class Server:
    """What carries the messages of a backend, and may be away."""

    def __init__(self, fleet: Fleet, python: str) -> None:
        self.fleet = fleet
        self.python = python  # which has the library of the backend

    def start(self) -> None:
        """Be there, from the beginning and again after `stop`."""

    def stop(self) -> None:
        """Be away."""

    def close(self) -> None:
        """End."""

    def held(self) -> str:
        """What it has been given, and has now or keeps for ever."""
        return ""


class Broker(Server):
    """Celery's, which the fleet brings."""

    def start(self) -> None:
        self.fleet.broker.start()

    def stop(self) -> None:
        self.fleet.broker.stop()

    def held(self) -> str:
        client = self.fleet.broker.client()
        return str([client.lrange(key, 0, -1) for key in client.keys("spine.*")])


class Queues(Server):
    """DBOS's, which are tables beside the ledger: they are away while their schema is."""

    def start(self) -> None:
        if "away" in self._schemas():
            self._run("ALTER SCHEMA away RENAME TO dbos")

    def stop(self) -> None:
        self._run("ALTER SCHEMA dbos RENAME TO away")

    def held(self) -> str:
        if "dbos" not in self._schemas():
            return ""
        with database.snapshot() as connection:
            every = "SELECT s::text || i::text FROM dbos.workflow_status s JOIN dbos.workflow_input i"
            return "".join(connection.execute(text(f"{every} USING (workflow_uuid)")).scalars())

    def _schemas(self) -> set[str]:
        with database.snapshot() as connection:
            return {*connection.execute(text("SELECT nspname FROM pg_namespace")).scalars()}

    def _run(self, statement: str) -> None:
        with database.transaction() as connection:
            connection.execute(text(statement))


@dataclass(frozen=True)
class Carrier:
    """A backend, and how it is run."""

    name: str
    server: Callable[[Fleet, str], Server] = Server
    role: str = "worker"  # of the command that does the work; "": whoever submits
    is_extra: bool = False

    def __str__(self) -> str:
        return self.name

    def python(self) -> str:
        """The interpreter with its library; an environment is made when it is first wanted."""
        if not self.is_extra:
            return sys.executable
        made = f"{sys.prefix}/backends/{self.name}"
        make = ["make", "-s", "-o", "setup", f"VENV={sys.prefix}", f"{made}/.done"]
        subprocess.run(make, cwd=REPO, check=True)
        return f"{made}/bin/python"


INLINE = Carrier("inline", role="")
THREAD = Carrier("thread", role="api")
CELERY = Carrier("celery", Broker)
DBOS = Carrier("dbos", Queues, is_extra=True)


class Carried:
    """A fleet whose executions one backend carries."""

    def __init__(self, carrier: Carrier, fleet: Fleet) -> None:
        self.carrier = carrier
        self.fleet = fleet
        self._python = carrier.python()
        self.server = carrier.server(fleet, self._python)
        self.server.start()

    def work(self, *args: object) -> None:
        """See to it that somebody does the work, and no second one."""
        role = self.carrier.role
        if role and not self.fleet.alive(role):
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(sys, "executable", self._python)
                self.fleet.start(role, *args, *(("--port", 0) if role == "api" else ()))

    def rest(self, signal_number: int = signal.SIGTERM) -> None:
        """End who does the work, and wait until it has ended."""
        for member in self.fleet.alive(self.carrier.role):
            os.killpg(member.process.pid, signal_number)
            member.process.wait(60)


@contextmanager
def carried_in(folder: Path, carrier: Carrier) -> Iterator[Carried]:
    """A fleet in a folder, its relay and the backend's server, and nobody at work yet."""
    (folder / "sitecustomize.py").write_text(WITH_PIPELINES)
    with fleet_in(folder, SPINE_BACKEND=carrier.name, PYTHONPATH=str(folder)) as fleet:
        os.environ["SPINE_BACKEND"] = carrier.name
        carried = Carried(carrier, fleet)
        try:
            os.environ.update({k: v for k, v in fleet.settings.items() if k.startswith("SPINE_B")})
            forget()
            fleet.relay()
            yield carried
        finally:
            carried.rest()
            carried.server.close()
