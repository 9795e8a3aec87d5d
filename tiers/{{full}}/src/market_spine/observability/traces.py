"""Spans, for whoever collects them at OTEL_EXPORTER_OTLP_ENDPOINT, or at the one for traces alone.

Where neither is set, a trace is only passed on: OpenTelemetry is not imported, and no span is made.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal

from market_spine import observability
from market_spine.settings import settings

if TYPE_CHECKING:
    from opentelemetry.trace import Span

Attributes = Mapping[str, str | int]


def place() -> str | None:
    """The URL that takes spans, if there is one."""
    if settings().otel_exporter_otlp_traces_endpoint:
        return settings().otel_exporter_otlp_traces_endpoint
    endpoint = settings().otel_exporter_otlp_endpoint
    return f"{endpoint.rstrip('/')}/v1/traces" if endpoint else None


def enabled() -> bool:
    """Whether somebody collects spans."""
    return place() is not None


@contextmanager
def span(
    name: str,
    kind: Literal["INTERNAL", "SERVER", "PRODUCER", "CONSUMER"],
    parent: str | None,
    attributes: Attributes,
    links: Sequence[str] = (),
) -> Iterator["Span | None"]:
    """Let what is done in the block be a span, or without a collector belong to the parent's trace.

    Args:
        name: of the span.
        kind: OpenTelemetry's.
        parent: the traceparent of the span above; None: it begins a trace.
        attributes: what it tells.
        links: the traceparents of the spans that it follows from, in whichever trace.
    """
    if not enabled():
        with observability.within(parent):
            yield None
        return
    from market_spine.observability import otlp

    begun = otlp.start(name, kind, parent, attributes, links)
    try:
        with observability.within(otlp.traceparent(begun)):
            yield begun
    except BaseException as error:
        otlp.note_error(begun, error)
        raise
    finally:
        begun.end()


def past(name: str, began: int, ended: int, attributes: Attributes) -> str:
    """Make a span of what is over, below that of this context; returns its traceparent.

    Args:
        name: of the span.
        began: in nanoseconds since 1970.
        ended: likewise.
        attributes: what it tells.
    """
    from market_spine.observability import otlp

    parent = observability.traceparent.get()
    made = otlp.start(name, "INTERNAL", parent, attributes, began=began)
    made.end(ended)
    return otlp.traceparent(made)


def told() -> dict[str, str]:
    """What an event tells of the span that it came about in, to be linked to."""
    here = observability.traceparent.get()
    return {"traceparent": here} if here and enabled() else {}


def begin() -> None:
    """Load what spans take, so that the first one is no slower than others."""
    if enabled():
        from market_spine.observability import otlp

        otlp.tracer()


def end() -> None:
    """Send what is left, at the end of a process that exits by a signal."""
    if enabled():
        from market_spine.observability import otlp

        otlp.end()
