"""ASGI middleware: whose key a request has, what that allows, and how often."""

import logging
from ipaddress import ip_address
from time import monotonic

from fastapi import Request, Response
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from market_spine import database
from market_spine.api import problems
from market_spine.api.threads import in_thread
from market_spine.errors import StoreError
from market_spine.security import caller, keys

FRESH_SECONDS = 2.0  # how long a key that was revoked may still be let in
OPEN = ("/livez", "/readyz")
SUBMITS = ("/executions", "/executions/bulk")  # what else changes something is for operators
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
}
MAKE_ONE = "spine keys make NAME --scope read"

log = logging.getLogger(__name__)


class SecurityHeaders:
    """What browsers are told with every answer."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, and add to its answer."""

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.update(HEADERS)
                headers.setdefault("Cache-Control", "no-store")
            await send(message)

        await self.app(scope, receive, send_with_headers)


class Access:
    """Pass on what comes with a key of the scope that it takes.

    The rate is counted in each process of the API by itself.
    """

    def __init__(self, app: ASGIApp, *, host: str, per_minute: int) -> None:
        self.app = app
        self.host = host
        self.per_minute = per_minute
        self.keys: list[keys.Key] = []
        self.fresh_until = 0.0
        self.buckets: dict[str, tuple[float, float]] = {}  # tokens, and when they were counted
        self.said_open = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer 401, 403, 429 or 503."""
        if scope["type"] != "http" or scope["path"] in OPEN:
            await self.app(scope, receive, send)
            return
        request = Request(scope)
        try:
            live = await self._live()
        except StoreError as error:
            await problems.unavailable(request, error)(scope, receive, send)
            return
        if not live and _is_loopback(self.host) and _came_to_loopback(scope):
            if not self.said_open:
                log.warning("the API asks for no key, since there is none: %s", MAKE_ONE)
                self.said_open = True
            await self.app(scope, receive, send)
            return
        kind, _, secret = request.headers.get("authorization", "").partition(" ")
        key = keys.matching(live, secret.strip()) if kind.lower() == "bearer" else None
        refusal = self._refusal(request, key) if key else _unknown(request)
        if refusal is not None:
            await refusal(scope, receive, send)
            return
        token = caller.set(key.name if key else None)
        try:
            await self.app(scope, receive, send)
        finally:
            caller.reset(token)

    def _refusal(self, request: Request, key: keys.Key) -> Response | None:
        tokens, counted_at = self.buckets.get(key.name, (float(self.per_minute), monotonic()))
        refill = (monotonic() - counted_at) * self.per_minute / 60
        tokens = min(float(self.per_minute), tokens + refill)
        if tokens < 1:
            seconds = int((1 - tokens) * 60 / self.per_minute) + 1
            detail = f"key '{key.name}' may ask {self.per_minute} times a minute (SPINE_API_RATE)"
            return problems.answer(request, 429, detail, headers={"Retry-After": str(seconds)})
        self.buckets[key.name] = (tokens - 1, monotonic())
        needed = _needed(request)
        if needed not in key.scopes:
            detail = f"key '{key.name}' lacks the scope {needed} (it has: {', '.join(key.scopes)})"
            return problems.answer(request, 403, detail)
        return None

    async def _live(self) -> list[keys.Key]:
        if monotonic() >= self.fresh_until:
            self.keys = await in_thread(_read)
            self.fresh_until = monotonic() + FRESH_SECONDS
        return self.keys


def _read() -> list[keys.Key]:
    with database.snapshot() as connection:
        return keys.live(connection)


def _needed(request: Request) -> str:
    if request.method in ("GET", "HEAD", "OPTIONS"):
        return "read"
    return "submit" if request.url.path in SUBMITS else "operate"


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def _came_to_loopback(scope: Scope) -> bool:
    """Whether the socket agrees: an empty host is every network to it."""
    address = (scope.get("server") or ("",))[0]
    return _is_loopback(address) or not address[:1].isdecimal()


def _unknown(request: Request) -> Response:
    detail = f"send 'Authorization: Bearer KEY' with a key that is live; to make one: {MAKE_ONE}"
    challenge = {"WWW-Authenticate": 'Bearer realm="market-spine"'}
    return problems.answer(request, 401, detail, headers=challenge)
