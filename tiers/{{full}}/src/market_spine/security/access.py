"""ASGI middleware: whose key a request has, what that allows, and how often.

Only an API on a loopback address, over a store that never had a key, asks for none. The keys are
read once in FRESH_SECONDS, and for a key that is not among them once more, since it may have been
made just now; but that at most once in AGAIN_SECONDS, so that a flood of refusals costs the store
next to nothing.
"""

import asyncio
import logging
from collections import Counter
from contextlib import suppress
from time import monotonic
from uuid import UUID

from fastapi import Request, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from market_spine import database
from market_spine.api import problems
from market_spine.api.threads import in_thread
from market_spine.errors import StoreError
from market_spine.security import caller, keys

AT_ONCE = 100  # requests of one key that are being answered; a stream of events is, while it lasts
FRESH_SECONDS = 2.0  # how long a key that was revoked may still be let in
AGAIN_SECONDS = 0.25
OPEN = ("/livez", "/readyz")  # to whoever restarts processes and sends them requests
# What comes through a proxy is not from this machine, wherever the API listens.
FORWARDED = {"forwarded", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "x-real-ip"}
SUBMITTING = ("/executions", "/executions/bulk")
CHALLENGE = 'Bearer realm="market-spine"'

log = logging.getLogger(__name__)


class Access:
    """Pass on what comes with a key of the scope that it takes.

    Each process of the API counts by itself.
    """

    def __init__(self, app: ASGIApp, *, at_home: bool, per_minute: int) -> None:
        self.app = app
        self.at_home = at_home
        self.per_minute = per_minute
        self.live: list[keys.Key] = []
        self.is_open = False
        self.asked_at = float("-inf")  # when the keys were, by time.monotonic
        self.reading: asyncio.Task[None] | None = None  # which every request waits for together
        self.buckets: dict[UUID, tuple[float, float]] = {}  # tokens, and when they were counted
        self.busy = Counter[UUID]()  # requests that are being answered

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer 401, 403, 429 or 503."""
        if scope["type"] == "lifespan":
            with suppress(StoreError):  # each request will say so
                await self._refresh()
        if scope["type"] != "http" or scope["path"] in OPEN:
            await self.app(scope, receive, send)
            return
        request = Request(scope)
        arrived_at = monotonic()
        try:
            await self._refresh()
            needs_none = self.is_open and FORWARDED.isdisjoint(request.headers)
            key = None if needs_none else await self._key_of(request, arrived_at)
        except StoreError as error:
            await problems.unavailable(request, error)(scope, receive, send)
            return
        if needs_none:
            await self.app(scope, receive, send)
            return
        if key is None:
            await _unknown(request)(scope, receive, send)
            return
        if refusal := self._refusal(request, key):
            await refusal(scope, receive, send)
            return
        token = caller.set(key.name)
        self.busy[key.id] += 1
        try:
            await self.app(scope, receive, send)
        finally:
            self.busy[key.id] -= 1
            caller.reset(token)

    async def _refresh(self) -> None:
        if monotonic() >= self.asked_at + FRESH_SECONDS:
            await self._read_together()

    async def _key_of(self, request: Request, arrived_at: float) -> keys.Key | None:
        kind, _, secret = request.headers.get("authorization", "").partition(" ")
        if kind.lower() != "bearer":
            return None
        while (key := keys.matching(self.live, secret.strip())) is None:
            if self.asked_at >= arrived_at:
                break
            if (early := self.asked_at + AGAIN_SECONDS - monotonic()) > 0:
                await asyncio.sleep(early)
            else:
                await self._read_together()
        return key

    async def _read_together(self) -> None:
        self.reading = self.reading or asyncio.create_task(self._read())
        await asyncio.shield(self.reading)

    async def _read(self) -> None:
        asked_at = monotonic()
        was_open = self.is_open
        try:
            self.live, is_unused = await in_thread(_keys)
        finally:
            self.reading = None
        self.is_open = is_unused and self.at_home
        self.asked_at = asked_at
        if self.is_open and not was_open:
            log.warning("the API asks nobody for a key, until there is one: %s", keys.MAKE_ONE)

    def _refusal(self, request: Request, key: keys.Key) -> Response | None:
        if seconds := self._seconds_to_wait(key):
            detail = f"key '{key.name}' may ask {self.per_minute} times a minute (SPINE_API_RATE)"
            return problems.answer(request, 429, detail, headers={"Retry-After": str(seconds)})
        if self.busy[key.id] >= AT_ONCE:
            detail = f"key '{key.name}' has {AT_ONCE} requests at once already, streams among them"
            return problems.answer(request, 429, detail, headers={"Retry-After": "1"})
        scope = scope_of(request.method, request.scope["path"])
        if scope not in key.scopes:
            detail = f"key '{key.name}' lacks the scope {scope} (it has: {', '.join(key.scopes)})"
            challenge = f'{CHALLENGE}, error="insufficient_scope", scope="{scope}"'
            return problems.answer(request, 403, detail, headers={"WWW-Authenticate": challenge})
        return None

    def _seconds_to_wait(self, key: keys.Key) -> int:
        """Take a token from the key's bucket; if there is none, how soon there will be."""
        now = monotonic()
        full = float(self.per_minute)
        tokens, counted_at = self.buckets.get(key.id, (full, now))
        tokens = min(full, tokens + (now - counted_at) * full / 60)
        if tokens < 1:
            return int((1 - tokens) * 60 / full) + 1
        self.buckets[key.id] = (tokens - 1, now)
        return 0


def scope_of(method: str, path: str) -> keys.Scope:
    """What a key must be good for: whatever is not known to be less operates the system."""
    if method in ("GET", "HEAD", "OPTIONS"):
        return "read"
    return "submit" if path in SUBMITTING else "operate"


def _keys() -> tuple[list[keys.Key], bool]:
    with database.snapshot() as connection:
        return keys.live(connection), keys.is_unused(connection)


def _unknown(request: Request) -> Response:
    given = "authorization" in request.headers
    detail = (
        f"send 'Authorization: Bearer KEY' with a key that is live; to make one: {keys.MAKE_ONE}"
    )
    challenge = f'{CHALLENGE}, error="invalid_token"' if given else CHALLENGE
    return problems.answer(request, 401, detail, headers={"WWW-Authenticate": challenge})
