"""The backends, each with what it needs: an environment, a server, and who does the work."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from sqlalchemy import text

from market_spine import backends, database
from tests.fleet import PATIENCE, Fleet, fleet_in
from tests.support import REPO, forget

# Read by every process of a folder, because an engine starts some that know nothing of the tests.
WITH_PIPELINES = """
from pathlib import Path
from market_spine import pipelines
pipelines.__path__.append(str(Path(__file__).parent / "pipelines"))
"""


# No engine tells anybody outside of what it is used for.
QUIET = {
    "DAGSTER_DISABLE_TELEMETRY": "1",
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
}


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as found:
        port: int = found.getsockname()[1]
        return port


def answers(url: str) -> bool:
    """Whether something does, and well."""
    with suppress(httpx.TransportError):
        return httpx.get(url, trust_env=False).is_success
    return False


def kill(process: "subprocess.Popen[bytes]") -> None:
    """Kill a process with all that it has started."""
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


class Server:
    """What carries the messages of a backend, and may be away."""

    def __init__(self, fleet: Fleet, python: str) -> None:
        self.fleet = fleet
        self.python = python  # which has the library of the backend
        self.log = (fleet.folder / "server.log").open("ab")  # its lines are in a format of its own

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
        self.fleet.until(self._is_made, "DBOS's tables")
        self._run("ALTER SCHEMA dbos RENAME TO away")

    def held(self) -> str:
        if "dbos" not in self._schemas():
            return ""
        with database.snapshot() as connection:
            rows = "dbos.workflow_status s JOIN dbos.workflow_input i USING (workflow_uuid)"
            every = text(f"SELECT s::text || i::text FROM {rows}")
            return "".join(connection.execute(every).scalars())

    def _is_made(self) -> bool:
        if not self.fleet.one("SELECT to_regclass('dbos.queues') IS NOT NULL"):
            return False
        return bool(self.fleet.one("SELECT count(*) > 0 FROM dbos.queues"))

    def _schemas(self) -> set[str]:
        with database.snapshot() as connection:
            return {*connection.execute(text("SELECT nspname FROM pg_namespace")).scalars()}

    def _run(self, statement: str) -> None:
        with database.transaction() as connection:
            connection.execute(text(statement))


class Prefect(Server):
    """Its server, with a database in a file."""

    def __init__(self, fleet: Fleet, python: str) -> None:
        super().__init__(fleet, python)
        self.home = fleet.folder / "prefect"
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None
        fleet.settings |= {
            "SPINE_BACKEND_URL": f"http://127.0.0.1:{self.port}/api",
            "PREFECT_HOME": str(self.home),
        }

    def start(self) -> None:
        start = ["server", "start", "--no-services", "--port", str(self.port)]
        self._process = subprocess.Popen(
            [self.python, "-m", "prefect", *start],
            env={**os.environ, "PREFECT_HOME": str(self.home), **QUIET},
            stdout=self.log,
            stderr=self.log,
            start_new_session=True,
        )
        self.fleet.until(lambda: answers(f"http://127.0.0.1:{self.port}/api/health"), "Prefect")

    def stop(self) -> None:
        self.close()

    def close(self) -> None:
        if self._process:
            kill(self._process)
            self._process = None

    def held(self) -> str:
        found = [path.read_bytes() for path in self.home.glob("prefect.db*")]
        return b"".join(found).decode(errors="replace")


class Dagster(Server):
    """Its web server and its daemon, which has the run queue; the workers are where it is told."""

    def __init__(self, fleet: Fleet, python: str) -> None:
        super().__init__(fleet, python)
        self.home = fleet.folder / "dagster"
        self.home.mkdir()
        self.port, worker_port = free_port(), free_port()
        (self.home / "dagster.yaml").write_text(
            "telemetry: {enabled: false}\n"
            "run_coordinator:\n"
            "  module: dagster.core.run_coordinator\n"
            "  class: QueuedRunCoordinator\n"
            "  config: {dequeue_interval_seconds: 1}\n"
        )
        worker = f"{{host: 127.0.0.1, port: {worker_port}, location_name: worker}}"
        (self.home / "workspace.yaml").write_text(f"load_from: [grpc_server: {worker}]\n")
        fleet.settings |= {
            "SPINE_BACKEND_URL": f"http://127.0.0.1:{self.port}",
            "DAGSTER_CLI_API_GRPC_HOST": "127.0.0.1",
            "DAGSTER_CLI_API_GRPC_PORT": str(worker_port),
        }
        self._processes: list[subprocess.Popen[bytes]] = []

    def start(self) -> None:
        self._start("dagster_webserver", "--host", "127.0.0.1", "--port", str(self.port))
        self._start("dagster._daemon", "run")
        self.fleet.until(lambda: answers(f"http://127.0.0.1:{self.port}/server_info"), "Dagster")

    def stop(self) -> None:
        self.close()

    def close(self) -> None:
        while self._processes:
            kill(self._processes.pop())

    def held(self) -> str:
        found = [path.read_bytes() for path in self.home.rglob("*.db*")]
        return b"".join(found).decode(errors="replace")

    def _start(self, module: str, *args: str) -> None:
        self._processes.append(
            subprocess.Popen(
                [self.python, "-m", module, *args, "--workspace", "workspace.yaml"],
                cwd=self.home,
                env={**os.environ, "DAGSTER_HOME": str(self.home), **QUIET},
                stdout=self.log,
                stderr=self.log,
                start_new_session=True,
            )
        )


class Temporal(Server):
    """One that TEMPORAL_ADDRESS names; it is nobody's to stop."""

    def __init__(self, fleet: Fleet, python: str) -> None:
        super().__init__(fleet, python)
        fleet.settings["SPINE_BACKEND_URL"] = os.environ["TEMPORAL_ADDRESS"]


@dataclass(frozen=True)
class Carrier:
    """A backend, and how it is run."""

    name: str
    server: Callable[[Fleet, str], Server] = Server
    role: str = "worker"  # of the command that does the work; "": whoever submits
    is_extra: bool = False
    keeps: bool = True  # whether what it was given can be seen
    tells_by_library: bool = False  # so that the relay needs that, too

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


INLINE = Carrier("inline", role="", keeps=False)
THREAD = Carrier("thread", role="api", keeps=False)
CELERY = Carrier("celery", Broker)
DBOS = Carrier("dbos", Queues, is_extra=True)
PREFECT = Carrier("prefect", Prefect, is_extra=True)
DAGSTER = Carrier("dagster", Dagster, is_extra=True)
TEMPORAL = Carrier("temporal", Temporal, is_extra=True, keeps=False, tells_by_library=True)


class Carried:
    """A fleet whose executions one backend carries."""

    def __init__(self, carrier: Carrier, fleet: Fleet) -> None:
        self.carrier = carrier
        self.fleet = fleet
        self._python = carrier.python()
        self.server = carrier.server(fleet, self._python)

    def work(self, *args: object) -> None:
        """See to it that somebody does the work, and no second one."""
        role = self.carrier.role
        if role and not self.fleet.alive(role):
            self._start(role, *args, *(("--port", 0) if role == "api" else ()))

    def relay(self) -> None:
        """Start one, which needs the library of no backend that is told without."""
        if self.carrier.tells_by_library:
            self._start("relay")
        else:
            self.fleet.relay()

    def _start(self, *command: object) -> None:
        role, *args = command
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "executable", self._python)
            self.fleet.start(str(role), *args)

    def resumed(self) -> bool:
        """Have whoever submits look for what was left, where nobody else does."""
        if not self.carrier.role:
            backends.chosen().resume()
        return True

    def rest(self, signal_number: int = signal.SIGTERM) -> None:
        """End who does the work, and wait until it has ended."""
        for member in self.fleet.alive(self.carrier.role):
            os.killpg(member.process.pid, signal_number)
            member.process.wait(PATIENCE)


@contextmanager
def carried_in(folder: Path, carrier: Carrier) -> Iterator[Carried]:
    """A fleet in a folder, its relay and the backend's server, and nobody at work yet."""
    (folder / "sitecustomize.py").write_text(WITH_PIPELINES)
    with fleet_in(folder, SPINE_BACKEND=carrier.name, PYTHONPATH=str(folder)) as fleet:
        fleet.settings["SPINE_DRAIN_SECONDS"] = "20"  # Dagster sees only later that a run has ended
        os.environ["SPINE_BACKEND"] = carrier.name
        carried = Carried(carrier, fleet)
        try:
            carried.server.start()
            os.environ.update({k: v for k, v in fleet.settings.items() if k.startswith("SPINE_B")})
            forget()
            carried.relay()
            yield carried
        finally:
            carried.rest()
            carried.server.close()
            carried.server.log.close()
