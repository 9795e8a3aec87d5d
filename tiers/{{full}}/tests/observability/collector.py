"""A collector of traces: it takes what is sent over HTTP, and tells how spans hang together."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest


@dataclass(frozen=True, kw_only=True)
class Collected:
    """A span, as it was sent."""

    resource: dict[str, Any]
    name: str
    trace_id: str
    span_id: str
    parent_id: str
    links: list[str]  # the ids of spans
    attributes: dict[str, Any]
    failed: bool
    seconds: float

    @property
    def service(self) -> str:
        """What made it."""
        return str(self.resource["service.name"])


@dataclass
class Collector:
    """What has been collected."""

    url: str
    spans: list[Collected] = field(default_factory=list)
    status: int = 200  # what senders are answered with
    asked: int = 0
    place: str = "/v1/traces"  # where it takes spans

    def named(self, name: str) -> list[Collected]:
        """The spans of a name."""
        return [span for span in self.spans if span.name == name]

    def one(self, name: str) -> Collected:
        """The one span of a name."""
        (found,) = self.named(name)
        return found

    def path(self, span: Collected) -> list[str]:
        """The names from the outermost span that is known down to this one."""
        above = [other for other in self.spans if other.span_id == span.parent_id]
        return [*(self.path(above[0]) if above else ()), span.name]

    def take(self, body: bytes) -> None:
        """Keep what a request holds."""
        for of_process in ExportTraceServiceRequest.FromString(body).resource_spans:
            resource = _attributes(of_process.resource.attributes)
            for of_library in of_process.scope_spans:
                for span in of_library.spans:
                    self.spans.append(
                        Collected(
                            resource=resource,
                            name=span.name,
                            trace_id=span.trace_id.hex(),
                            span_id=span.span_id.hex(),
                            parent_id=span.parent_span_id.hex(),
                            links=[link.span_id.hex() for link in span.links],
                            attributes=_attributes(span.attributes),
                            failed=span.status.code == 2,
                            seconds=(span.end_time_unix_nano - span.start_time_unix_nano) / 1e9,
                        )
                    )


def _attributes(pairs: Any) -> dict[str, Any]:
    return {pair.key: getattr(pair.value, pair.value.WhichOneof("value")) for pair in pairs}


@contextmanager
def collecting() -> Iterator[Collector]:
    """A collector that listens on a free port."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            collector.asked += 1
            if collector.status == 200 and self.path == collector.place:
                collector.take(body)
            self.send_response(collector.status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        collector = Collector(f"http://127.0.0.1:{server.server_port}")
        thread = Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield collector
        finally:
            server.shutdown()
            thread.join()
