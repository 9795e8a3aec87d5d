"""ASGI middleware: each request is a span, and is counted by its route and its answer."""

from time import perf_counter
from typing import TYPE_CHECKING

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from market_spine import observability
from market_spine.observability import figures, metrics, traces

if TYPE_CHECKING:
    from opentelemetry.trace import Span

# Asked every few seconds by machines: no trace is to be full of them.
UNTRACED = ("/livez", "/readyz", "/metrics")
UNKNOWN = "none"  # the route, and the method, of what no route is for: callers choose neither


class Observed:
    """Pass a request on, in the trace of its caller, or in one of its own."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        self.counted = metrics.begin()
        figures.register()
        traces.begin()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began = perf_counter()

        async def send_and_count(message: Message) -> None:
            if message["type"] == "http.response.start":
                scope["spine.status"] = message["status"]
                self._count(scope, perf_counter() - began)
            await send(message)

        try:
            await self._traced(scope, receive, send_and_count)
        except Exception:
            if "spine.status" not in scope:  # it will be, by whoever is further out
                scope["spine.status"] = 500
                self._count(scope, perf_counter() - began)
            raise

    async def _traced(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] in UNTRACED:
            await self.app(scope, receive, send)
            return
        method, parent = scope["method"], _callers_traceparent(scope)
        if parent is None and not traces.enabled():
            parent = observability.current_traceparent()
        attributes = {"http.request.method": method, "url.path": scope["path"]}
        here = None
        try:
            with traces.span(method, "SERVER", parent, attributes) as span:
                here = observability.traceparent.get()
                try:
                    await self.app(scope, receive, send)
                finally:
                    _tell(span, scope)
        finally:
            # What is logged further out is about this request, too; its task ends with it.
            observability.traceparent.set(here)

    def _count(self, scope: Scope, seconds: float) -> None:
        method, route = _route(scope)
        self.counted.requests.labels(method, route, scope["spine.status"]).inc()
        self.counted.request_seconds.labels(method, route).observe(seconds)


def _tell(span: "Span | None", scope: Scope) -> None:
    if span:
        method, route = _route(scope)
        span.update_name(f"{method} {route}")
        span.set_attribute("http.route", route)
        span.set_attribute("http.response.status_code", scope.get("spine.status", 500))


def _route(scope: Scope) -> tuple[str, str]:
    route, method = scope.get("route"), scope["method"]
    if method not in (getattr(route, "methods", None) or ()):
        method = UNKNOWN
    return method, getattr(route, "path", UNKNOWN)


def _callers_traceparent(scope: Scope) -> str | None:
    for name, value in scope["headers"]:
        if name == b"traceparent":
            given = value.decode("latin-1")
            return given if observability.TRACEPARENT.fullmatch(given) else None
    return None
