"""A real Postgres without Docker: from a wheel, and for as long as somebody uses it.

A supervisor (`_supervisor.py`) owns the servers of a folder, each a module beside this one. Whoever
uses them holds a connection to it, which the kernel closes however a process ends; with the last
one the servers stop. They listen on sockets that only their user can open.
"""

import fcntl
import json
import os
import select
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Lock
from typing import NamedTuple

from market_spine.embedded import _places
from market_spine.errors import StoreError

FOLDER = Path(".spine")  # in the folder where a command is run, like the file of SQLite
WAIT_SECONDS = 120.0  # for another process's supervisor to start, or to end
POLL_SECONDS = 0.02


class Held(NamedTuple):
    """The servers of a folder, held by this process."""

    descriptor: int  # the open connection to their supervisor
    urls: dict[str, str]  # by the server's name


_Joined = tuple[socket.socket, dict[str, str]]

_held: dict[Path, Held] = {}
_guard = Lock()
# A fork waits until no thread is starting servers: its child would keep the lock of that start.
os.register_at_fork(
    before=_guard.acquire, after_in_parent=_guard.release, after_in_child=_guard.release
)


def ensure() -> str:
    """Start or join this folder's Postgres until this process ends; returns its URL.

    It may be called as often as one likes; a server that has died since is started again.

    Raises:
        StoreError: the server cannot be started.
    """
    return hold().urls["postgres"]


def hold() -> Held:
    """Start or join this folder's servers until this process ends.

    Raises:
        StoreError: a server cannot be started.
    """
    folder = FOLDER.resolve()
    with _guard:
        held = _held.pop(folder, None)
        if held and _is_over(held.descriptor):
            os.close(held.descriptor)
            held = None
        if not held:
            connection, urls = _join(folder, durable=True)
            held = Held(connection.detach(), urls)
        _held[folder] = held
    return held


@contextmanager
def server(folder: Path, *, durable: bool = True) -> Iterator[str]:
    """The URL of the Postgres whose data stands in a folder, started or joined for a while.

    Args:
        folder: made if it is missing.
        durable: if not, it is quicker, and a loss of power ruins the data: for tests.

    Raises:
        StoreError: the server cannot be started.
    """
    with _guard:
        connection, urls = _join(folder.resolve(), durable=durable)
    with connection:
        try:
            yield urls["postgres"]
        finally:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_WR)
                connection.recv(1)  # ends when the servers have stopped, or others go on with them


def _is_over(descriptor: int) -> bool:
    # A supervisor says nothing after its greeting: what can be read is its end.
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(0))


def _join(folder: Path, *, durable: bool) -> _Joined:
    until = time.monotonic() + WAIT_SECONDS
    try:
        home = _places.make_home(folder)
        while time.monotonic() < until:
            joined = _connect(home) or _start(home, durable=durable)
            if joined:
                return joined
            time.sleep(POLL_SECONDS)
    except OSError as error:
        raise StoreError(f"the servers of {folder} cannot be started: {error}") from error
    raise StoreError(f"{home / _places.LOCK} is held by a process that does not answer: end it")


def _connect(home: Path) -> _Joined | None:
    """Reach the supervisor; nothing if there is none, or one at its end."""
    folder = _places.sockets_of(home)
    connection = socket.socket(socket.AF_UNIX)
    try:
        _places.check_own(folder)
        connection.connect(str(folder / _places.SUPERVISOR))
    except (FileNotFoundError, ConnectionRefusedError):
        connection.close()
        return None
    except BaseException:
        connection.close()
        raise
    return _greeted(connection)


def _start(home: Path, *, durable: bool) -> _Joined | None:
    """Start the supervisor, with this process as its first user; nothing if there is one.

    It inherits the lock's descriptor, and with that the lock, for as long as it lives.
    """
    lock = os.open(home / _places.LOCK, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        if not _take(lock):
            return None
        ours, theirs = socket.socketpair()
        with theirs:
            supervisor = [sys.executable, "-P", "-m", "market_spine.embedded._supervisor"]
            ended = subprocess.run(  # it ends at once, and leaves the supervisor behind
                [*supervisor, str(home), str(theirs.fileno()), "durable" if durable else "quick"],
                pass_fds=(lock, theirs.fileno()),
                start_new_session=True,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
                check=False,
            )
    finally:
        os.close(lock)
    joined = _greeted(ours)
    if joined is None:
        said = ended.stderr.strip().splitlines()[-1:] or [f"see {home / _places.LOG}"]
        raise StoreError(f"the supervisor of {home} died: {said[0]}")
    return joined


def _take(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _greeted(connection: socket.socket) -> _Joined | None:
    """What a supervisor says when its servers are ready; nothing if it ends before that."""
    greeting = {}
    with suppress(ConnectionError), connection.makefile("rb") as reader:
        greeting = json.loads(reader.readline() or b"{}")
    if "urls" in greeting:
        return connection, greeting["urls"]
    connection.close()
    if "error" in greeting:
        raise StoreError(greeting["error"])
    return None
