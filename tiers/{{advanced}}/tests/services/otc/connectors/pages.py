"""A server of pages that misbehaves as it is told."""

import json
import socket
import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Thread

from tests.tape import Row

Answer = Callable[["Handler"], None]


class Handler(BaseHTTPRequestHandler):
    """Gives the next answer of the script, and after the last one 404."""

    server: "Pages"

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        self.server.tokens.append(self.headers["Authorization"])
        if self.server.script:
            self.server.script.pop(0)(self)
        else:
            self.reply(404, b"there is no more")

    def reply(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        self.send_header("Content-Length", headers.pop("promised", str(len(body))))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)
        self.close_connection = True

    def log_message(self, *_: object) -> None:
        """Say nothing."""


class Pages(ThreadingHTTPServer):
    """The server: what it is to answer, and what it was asked."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.script: list[Answer] = []
        self.asked: list[str] = []
        self.tokens: list[str | None] = []
        self.ended = Event()

    @property
    def origin(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    @property
    def url(self) -> str:
        return f"{self.origin}/trades"

    def handle_error(self, *_: object) -> None:
        """A client that has gone is no matter."""


@contextmanager
def serving_pages() -> Iterator[Pages]:
    """A server, until the end of the block."""
    server = Pages()
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.ended.set()
        server.shutdown()
        server.server_close()
        thread.join()


# --- answers -----------------------------------------------------------------------------------


def text_of(rows: Sequence[object], following: object = None) -> bytes:
    return json.dumps({"records": list(rows), "next": following}).encode()


def page(*rows: Row | object, following: object = None) -> Answer:
    """A page as it should be."""
    return lambda handler: handler.reply(200, text_of(rows, following))


def status(code: int, body: bytes = b"", **headers: str) -> Answer:
    return lambda handler: handler.reply(code, body, **headers)


def body(content: bytes) -> Answer:
    return lambda handler: handler.reply(200, content)


def reset(handler: Handler) -> None:
    """Break off without a word."""
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    handler.connection.close()
    handler.close_connection = True


def silent(handler: Handler) -> None:
    """Never answer."""
    handler.server.ended.wait()


def dripping(handler: Handler) -> None:
    """Answer a byte now and then, and never all."""
    handler.send_response(200)
    handler.send_header("Content-Length", "1000000")
    handler.end_headers()
    while not handler.server.ended.wait(0.02):
        handler.wfile.write(b" ")


def half(*rows: Row, following: object = None) -> Answer:
    """Break off in the middle of a page, whose length was said."""
    content = text_of(rows, following)
    return lambda handler: handler.reply(
        200, content[: len(content) // 2], promised=str(len(content))
    )


def half_unnoticed(*rows: Row, following: object = None) -> Answer:
    """Send half of a page as if it were all."""
    content = text_of(rows, following)
    return lambda handler: handler.reply(200, content[: len(content) // 2])
