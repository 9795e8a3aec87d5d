"""How spans are made and sent, by OpenTelemetry, whose own variables hold, too.

A process makes its exporter with its first span, which must come after it was forked. A collector
that is away costs the spans and nothing else: a thread waits for it, no longer than END_SECONDS
at the end of the process, and the log tells of it once.
"""

import atexit
import logging
import sys
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Literal

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import (
    SERVICE_INSTANCE_ID,
    SERVICE_NAME,
    OTELResourceDetector,
    Resource,
)
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.trace import (
    Link,
    Span,
    SpanKind,
    StatusCode,
    Tracer,
    format_span_id,
    format_trace_id,
    get_current_span,
)
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from market_spine.observability import traces
from market_spine.stores.postgresql import process_id

EXPORT_SECONDS = 3.0  # in which the collector must have taken a batch
END_SECONDS = 5.0  # in which what is left must have been sent when a process ends

log = logging.getLogger(__name__)
# What is to be said of a collector that is away is said here, and not for every batch.
logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)


class Exporter(SpanExporter):
    """Sends batches, and says when that begins to fail, and when it works again."""

    def __init__(self) -> None:
        self.place = traces.place()
        self.by_http = OTLPSpanExporter(self.place, timeout=EXPORT_SECONDS)
        self.fails = False
        self.is_ending = False

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Send a batch."""
        if self.fails and self.is_ending:
            return SpanExportResult.FAILURE
        result = self.by_http.export(spans)
        failed = result is not SpanExportResult.SUCCESS
        if failed and not self.fails:
            log.warning("traces are lost, since %s does not take them", self.place)
        if self.fails and not failed:
            log.warning("traces are sent again, to %s", self.place)
        self.fails = failed
        return result

    def shutdown(self) -> None:
        """Send nothing more."""
        self.by_http.shutdown()  # type: ignore[no-untyped-call]


@cache
def _provider() -> tuple[TracerProvider, BatchSpanProcessor, Exporter]:
    exporter = Exporter()
    attributes = {
        SERVICE_NAME: "-".join(["market-spine", *sys.argv[1:2]]),  # api, worker, ...: the command
        SERVICE_INSTANCE_ID: process_id(),
        **OTELResourceDetector().detect().attributes,  # what the environment says comes first
    }
    provider = TracerProvider(resource=Resource.create(attributes), shutdown_on_exit=False)
    processor = BatchSpanProcessor(exporter)
    provider.add_span_processor(processor)
    atexit.register(end)
    return provider, processor, exporter


@cache
def tracer() -> Tracer:
    """Who makes the spans of this process."""
    return _provider()[0].get_tracer("market_spine")


def start(
    name: str,
    kind: Literal["INTERNAL", "SERVER", "PRODUCER", "CONSUMER"],
    parent: str | None,
    attributes: Mapping[str, str | int],
    links: Sequence[str] = (),
    began: int | None = None,
) -> Span:
    """Begin a span.

    Args:
        name: of the span.
        kind: OpenTelemetry's.
        parent: the traceparent of the span above; None: it begins a trace.
        attributes: what it tells.
        links: the traceparents of the spans that it follows from.
        began: when, in nanoseconds since 1970; None: now.
    """
    return tracer().start_span(
        name,
        _context(parent),
        SpanKind[kind],
        attributes,
        [Link(get_current_span(_context(one)).get_span_context()) for one in links],
        began,
    )


def traceparent(span: Span) -> str:
    """What those below a span are told of it."""
    found = span.get_span_context()
    trace, number = format_trace_id(found.trace_id), format_span_id(found.span_id)
    return f"00-{trace}-{number}-{found.trace_flags:02x}"


def note_error(span: Span, error: BaseException) -> None:
    """Let a span tell that it failed, and how."""
    span.record_exception(error)
    span.set_status(StatusCode.ERROR, f"{type(error).__name__}: {error}")


def _context(parent: str | None) -> Context:
    carrier = {"traceparent": parent} if parent else {}
    return TraceContextTextMapPropagator().extract(carrier, Context())


def end() -> None:
    """Send what is left, as far as the collector takes it."""
    if _provider.cache_info().currsize:
        _, processor, exporter = _provider()
        exporter.is_ending = True
        # The public way waits for 30 s, which is longer than many a process is given to end.
        processor._batch_processor.shutdown(timeout_millis=round(END_SECONDS * 1000))
