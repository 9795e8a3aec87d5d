"""Under which names the API is known: what was meant for another one is not answered.

Otherwise a page from anywhere could reach it through the browser of somebody who may: its author
lets a name of his own lead to 127.0.0.1.
"""

from collections.abc import Collection

from fastapi import Request
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from market_spine.api import problems

ANY = "*"


class KnownHosts:
    """ASGI middleware that answers only what was sent to one of these hosts."""

    def __init__(self, app: ASGIApp, *, hosts: Collection[str]) -> None:
        self.app = app
        self.hosts = frozenset(host.strip().lower() for host in hosts if host)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, if it was meant for this API."""
        if scope["type"] == "http" and ANY not in self.hosts:
            named = Headers(scope=scope).get("host", "")
            if _without_port(named).lower() not in self.hosts:
                detail = f"the API is not known as '{named}': SPINE_API_HOSTS lists its names"
                await problems.misdirected(Request(scope), detail)(scope, receive, send)
                return
        await self.app(scope, receive, send)


def _without_port(host: str) -> str:
    name, colon, port = host.rpartition(":")
    return name if colon and port.isdecimal() else host
