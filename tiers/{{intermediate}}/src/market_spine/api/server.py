"""Serving the API until a signal ends it: open requests may finish, and event streams are ended."""

import socket
import sys
from collections.abc import Sequence
from math import ceil
from typing import Any, cast

import uvicorn

from market_spine import backends, database
from market_spine.api.app import create_app
from market_spine.api.protocol import ProblemProtocol
from market_spine.errors import RequestError
from market_spine.settings import settings

# A run computes in a thread beside the requests, and each of these waits for its turn many times.
SWITCH_SECONDS = 0.0001


def serve(host: str, port: int) -> None:
    """Serve the API until SIGINT or SIGTERM; print where, once it can be called.

    Args:
        host: the address to listen on.
        port: its port; 0: a free one.

    Raises:
        RequestError: nothing can listen there, or the backend cannot serve an API.
        StoreError: the store cannot be used.
    """
    app = create_app(f"[{host}]" if ":" in host else host)
    if not backends.defers():
        raise RequestError(
            "the backend in use would keep every request waiting for its work, and the API only "
            "enqueues: unset SPINE_BACKEND, and name Postgres in DATABASE_URL or unset it, too"
        )
    database.engine()  # if the store cannot be used, that is better said before anything starts
    with _listening(host, port) as listener:
        config = uvicorn.Config(
            app,
            http=ProblemProtocol,
            ws="none",
            lifespan="on",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            timeout_graceful_shutdown=ceil(settings().spine_drain_seconds),
        )
        sys.setswitchinterval(SWITCH_SECONDS)
        _Server(config).run(sockets=[listener])


def _listening(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # Only where a socket names its protocol does asyncio turn off Nagle's delay of 40 ms.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        reason = f"cannot listen on {host}, port {port}: {error.strerror or error}"
        raise RequestError(f"{reason}; name another with --port, or 0 for a free one") from error
    return listener


class _Server(uvicorn.Server):
    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        host, port, *_ = cast(Sequence[Any], (sockets or [])[0].getsockname())
        where = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        print(f"listening on http://{where} (its documentation: /docs)", flush=True)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        # The worker begins nothing more, and streams end: they would hold their connections open.
        self.config.app.state.stopping.set()  # type: ignore[union-attr]
        await super().shutdown(sockets)
