"""What one request may take: a body of limited size, queries of limited duration, some files."""

from pathlib import Path

from fastapi import Request
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from market_spine import deadline, entrance
from market_spine.api import problems


class RequestLimits:
    """ASGI middleware that counts what is read, whatever the request says of its length."""

    def __init__(self, app: ASGIApp, *, max_body: int, query_seconds: float, sources: Path) -> None:
        self.app = app
        self.max_body = max_body
        self.query_seconds = query_seconds
        self.sources = sources

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, within its limits."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        too_large = f"the body is larger than {self.max_body} bytes"
        announced = Headers(scope=scope).get("content-length", "")
        if announced.isdecimal() and int(announced) > self.max_body:
            await problems.too_large(Request(scope), too_large)(scope, receive, send)
            return
        size = 0

        async def receive_within() -> Message:
            nonlocal size
            message = await receive()
            size += len(message.get("body", b""))
            if size > self.max_body:
                raise HTTPException(413, too_large)
            return message

        seconds = deadline.query_seconds.set(self.query_seconds)
        folder = entrance.folder.set(self.sources)
        try:
            await self.app(scope, receive_within, send)
        finally:
            deadline.query_seconds.reset(seconds)
            entrance.folder.reset(folder)
