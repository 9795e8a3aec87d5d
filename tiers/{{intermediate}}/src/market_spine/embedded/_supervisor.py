"""The process that owns the embedded servers of one folder, and stops them after their last user.

It is started with the folder's lock, which it holds as long as it lives, and with the connection of
its first user. Whoever connects is greeted with the servers' URLs, as one line of JSON, and says
nothing: a user is a connection that is open.
"""

import json
import os
import selectors
import shutil
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from subprocess import Popen
from typing import Any

from market_spine import embedded
from market_spine.embedded import _places
from market_spine.errors import StoreError

LOG_BYTES = 1_000_000  # a log that is longer is begun anew


def main(home: Path, first: socket.socket, *, durable: bool) -> None:
    """Start the servers, let them be used, stop them."""
    os.umask(0o077)
    sockets = _places.sockets_of(home)
    with _listening(sockets) as listener:
        if os.fork():
            os._exit(0)  # whoever waits for this process can connect now
        _leave_terminal(home / _places.LOG)
        signals = _signals()
        users = [first]
        try:
            with ExitStack() as stack:
                urls, processes = {}, []
                for name, run in _servers():
                    urls[name], process = stack.enter_context(run(home, sockets, durable=durable))
                    processes.append(process)
                _serve(users, listener, signals, {"urls": urls}, processes)
        except (StoreError, OSError) as error:
            _greet(first, {"error": str(error)})


def _servers() -> Iterator[tuple[str, Any]]:
    """Each server is a module of this folder, with a function `run`: its URL and its process."""
    for module in iter_modules(embedded.__path__):
        if not module.name.startswith("_"):
            yield module.name, import_module(f"{embedded.__name__}.{module.name}").run


@contextmanager
def _listening(folder: Path) -> Iterator[socket.socket]:
    """The supervisor's socket, in a folder that others can pass through and not look into."""
    with suppress(FileNotFoundError):  # unless one was killed
        _places.check_own(folder)
        shutil.rmtree(folder)
    folder.mkdir()
    folder.chmod(0o711)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(folder / _places.SUPERVISOR))
        listener.listen()
        try:
            yield listener
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _leave_terminal(log: Path) -> None:
    """Keep nothing of where this was started, and write into the log from now on."""
    os.chdir("/")
    kept = log.exists() and log.stat().st_size < LOG_BYTES
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | (0 if kept else os.O_TRUNC)
    written, nothing = os.open(log, flags, 0o600), os.open(os.devnull, os.O_RDONLY)
    for descriptor, standard in ((nothing, 0), (written, 1), (written, 2)):
        os.dup2(descriptor, standard)


def _signals() -> socket.socket:
    """What can be read when a child has ended, or somebody asks for the end: signals' numbers."""
    reader, writer = socket.socketpair()
    writer.setblocking(False)
    signal.set_wakeup_fd(writer.detach())
    for number in (signal.SIGCHLD, signal.SIGTERM):
        signal.signal(number, lambda *_: None)
    return reader


def _serve(
    users: list[socket.socket],
    listener: socket.socket,
    signals: socket.socket,
    greeting: dict[str, Any],
    processes: list[Popen[bytes]],
) -> None:
    """Greet whoever connects, until nobody is left, a server has died, or somebody ends it.

    Who leaves last stays in `users`: his connection ends with this process, and he can wait for it.
    """
    _greet(users[0], greeting)
    with selectors.DefaultSelector() as selector:
        for source in (listener, signals, *users):
            selector.register(source, selectors.EVENT_READ)
        while all(process.poll() is None for process in processes):
            left: list[Any] = []
            for key, _ in selector.select():
                if key.fileobj is listener:
                    user, _ = listener.accept()
                    _greet(user, greeting)
                    selector.register(user, selectors.EVENT_READ)
                    users.append(user)
                elif key.fileobj is not signals:
                    left.append(key.fileobj)
                elif signal.SIGTERM in signals.recv(64):
                    return
            if len(left) == len(users):
                return
            for user in left:
                selector.unregister(user)
                users.remove(user)
                user.close()


def _greet(user: socket.socket, greeting: dict[str, Any]) -> None:
    with suppress(OSError):  # he may be gone
        user.sendall(json.dumps(greeting).encode() + b"\n")


if __name__ == "__main__":
    _, folder, descriptor, kind = sys.argv
    main(Path(folder), socket.socket(fileno=int(descriptor)), durable=kind == "durable")
