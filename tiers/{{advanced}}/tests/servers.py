"""Servers that a test may stop, kill, empty or let hang, and that come back at the same address."""

import selectors
import shutil
import socket
import struct
from contextlib import ExitStack, suppress
from itertools import count
from pathlib import Path
from threading import Lock, Thread

from redis import Redis
from redis.exceptions import RedisError
from sqlalchemy import make_url

from market_spine.embedded import postgres as embedded_postgres
from market_spine.embedded import valkey
from tests import postgres

AT_ONCE = struct.pack("ii", 1, 0)  # for SO_LINGER: a close resets the connection


class Proxy:
    """A port before a server, which can hang: it still accepts, but neither reads nor closes."""

    def __init__(self, target: Path) -> None:
        self.accepted = 0  # connections
        self.hangs = False
        self._target = target  # the server's socket
        self._pairs: dict[socket.socket, socket.socket] = {}
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._ours, self._wake = socket.socketpair()
        self._selector.register(self._ours, selectors.EVENT_READ)
        self._forwards = Lock()  # whoever has it, keeps all else waiting
        self._is_reset = False
        self._thread = Thread(target=self._go, daemon=True)
        self._thread.start()

    def hang(self) -> None:
        """Forward nothing from now on."""
        self._forwards.acquire()
        self.hangs = True

    def go_on(self, *, reset: bool = False) -> None:
        """Forward again; with `reset`, nothing of what was under way, and no connection lives."""
        self.hangs = False
        self._is_reset = reset
        self._forwards.release()

    def close(self) -> None:
        """End, whether or not it hangs."""
        self._wake.close()
        if self.hangs:
            self.go_on(reset=True)
        self._thread.join()

    def _go(self) -> None:
        with self._selector, self._listener, self._ours:
            while True:
                ready = [key.fileobj for key, _ in self._selector.select()]
                with self._forwards:
                    if self._ours in ready:
                        break
                    if self._is_reset:
                        self._is_reset = False
                        self._reset()
                        continue
                    for one in ready:
                        assert isinstance(one, socket.socket)
                        if one is self._listener:
                            self._accept()
                        elif one in self._pairs:
                            self._forward(one)
            self._reset()

    def _accept(self) -> None:
        client, _ = self._listener.accept()
        self.accepted += 1
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, AT_ONCE)
        server = socket.socket(socket.AF_UNIX)
        try:
            server.connect(str(self._target))
        except OSError:
            client.close()
            server.close()
            return
        self._pairs |= {client: server, server: client}
        for one in (client, server):
            self._selector.register(one, selectors.EVENT_READ)

    def _forward(self, one: socket.socket) -> None:
        data = b""
        with suppress(OSError):
            data = one.recv(65_536)
            self._pairs[one].sendall(data)
        if not data:
            self._close(one)

    def _close(self, one: socket.socket) -> None:
        for end in (one, self._pairs[one]):
            del self._pairs[end]
            self._selector.unregister(end)
            end.close()

    def _reset(self) -> None:
        while self._pairs:
            self._close(next(iter(self._pairs)))


class Broker:
    """A Valkey that keeps nothing when it ends; if it may hang, its address is that of a proxy."""

    def __init__(self, home: Path, *, may_hang: bool) -> None:
        self.home = home
        self.socket = home / "valkey"
        self.proxy = Proxy(self.socket) if may_hang else None
        at_proxy = f"redis://127.0.0.1:{self.proxy.port}/0" if self.proxy else ""
        self.url = at_proxy or f"redis+socket://{self.socket}"
        self._running = ExitStack()
        self._guard = Lock()
        self.start()

    def start(self) -> None:
        """Start it, unless it runs."""
        with self._guard:
            if not self.socket.exists():
                (self.home / "servers.log").touch()
                self._running.enter_context(
                    valkey.run(self.home / "data", self.home, durable=False)
                )

    def stop(self) -> None:
        with self._guard:
            self._running.close()

    def flush(self) -> None:
        """Remove every message, if there are any."""
        with suppress(RedisError), self.client() as redis:
            redis.flushall()

    def client(self) -> Redis:
        """A client that no proxy stands before."""
        return Redis(unix_socket_path=str(self.socket))

    def close(self) -> None:
        self.stop()
        if self.proxy:
            self.proxy.close()


class Postgres:
    """A Postgres that loses nothing of what it has committed."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self._numbers = count()
        self._running = ExitStack()
        self.start()
        self._make("up_to_date", "template0")
        postgres.upgrade(self._url_of("up_to_date"))

    def start(self) -> None:
        sockets = self.home / "sockets"
        shutil.rmtree(sockets, ignore_errors=True)
        sockets.mkdir()
        (self.home / "servers.log").touch()
        run = embedded_postgres.run(self.home, sockets, durable=True)
        self.url, self._process = self._running.enter_context(run)

    def stop(self) -> None:
        """Stop it as a deployment does."""
        self._running.close()

    def kill(self) -> None:
        """Kill it; what it was doing is recovered when it starts again."""
        self._process.kill()
        self._process.wait()
        self._running.close()

    def new(self) -> str:
        """Make an empty database that is up to date; returns its URL."""
        name = f"spine_{next(self._numbers)}"
        self._make(name, "up_to_date")
        return self._url_of(name)

    def drop(self, url: str) -> None:
        with postgres.connect(self.url) as connection:
            name = make_url(url).database
            connection.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())

    def _make(self, name: str, template: str) -> None:
        with postgres.connect(self.url) as connection:
            connection.execute(f"CREATE DATABASE {name} TEMPLATE {template}".encode())

    def _url_of(self, name: str) -> str:
        return make_url(self.url).set(database=name).render_as_string(hide_password=False)
