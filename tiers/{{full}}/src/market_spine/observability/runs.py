"""An execution's way, told to the log, to whoever collects traces, and in metrics.

    request -> submit -> enqueue
                      -> run -> captured, normalized, computed
                             -> submit (of a child) -> ...

A run's span lies below the one that submitted the execution, in whichever process that was, and
links back to what it does again: an execution that failed, or the attempt before.
"""

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from contextvars import ContextVar, copy_context
from dataclasses import dataclass, field
from functools import partial, wraps
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from market_spine import database, observability
from market_spine.errors import CancelledError, StoreError, SupersededError
from market_spine.observability import metrics, traces

if TYPE_CHECKING:
    from opentelemetry.trace import Span

    from market_spine.ledger import Execution

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")
Stages = Sequence[tuple[str, dict[str, Any]]]

log = logging.getLogger(__name__)


@dataclass(kw_only=True)
class Run:
    """An attempt at an execution, while it is made."""

    span: "Span | None"
    stages: Stages = ()  # those that are done, since it began anew after an outage
    stage_began: int = field(default_factory=time.time_ns)


_run: ContextVar[Run | None] = ContextVar("run", default=None)


def submitting(submit: Callable[Parameters, Result]) -> Callable[Parameters, Result]:
    """Let a submit be a span, whose traceparent the ledger's row keeps."""

    @wraps(submit)
    def both(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Result:
        parent = observability.traceparent.get()
        with traces.span("submit", "INTERNAL", parent, {}):
            return submit(*args, **kwargs)

    return both


def enqueuing(enqueue: Callable[["Execution"], Result]) -> Callable[["Execution"], Result]:
    """Let the message to the backend be a span, and what is said of it be about the execution."""

    @wraps(enqueue)
    def both(execution: "Execution") -> Result:
        with observability.about(execution):
            log.info("%s %s submitted", execution.pipeline, execution.id)
            parent, attributes = execution.traceparent, _attributes(execution)
            with traces.span(f"enqueue {execution.lane}", "PRODUCER", parent, attributes):
                return enqueue(execution)

    return both


def observed(
    around: Callable[["Execution"], AbstractContextManager[None]],
) -> Callable[["Execution"], AbstractContextManager[None]]:
    """Let a run be a span, and what is said in it be about the execution."""

    @wraps(around)
    @contextmanager
    def both(execution: "Execution") -> Iterator[None]:
        name, parent = f"run {execution.pipeline}", execution.traceparent
        attributes, links = _attributes(execution), _links(execution)
        with (
            observability.about(execution),
            traces.span(name, "CONSUMER", parent, attributes, links) as span,
        ):
            token = _run.set(Run(span=span))
            try:
                with around(execution):
                    yield
            finally:
                _run.reset(token)

    return both


def counting(
    work: Callable[["Execution"], list["Execution"]],
) -> Callable[["Execution"], list["Execution"]]:
    """Count what a run has done, once it is committed, and note how it ended."""

    @wraps(work)
    def both(execution: "Execution") -> list["Execution"]:
        began = time.perf_counter()
        run = _run.get()
        outcome = "failed"
        try:
            children = work(execution)
            outcome = "succeeded"
        except CancelledError:
            outcome = "cancelled"
            raise
        except SupersededError:
            outcome = "superseded"
            raise
        except BaseException as error:
            if run and run.span:
                from market_spine.observability import otlp

                otlp.note_error(run.span, error)
            raise
        finally:
            stages = run.stages if run and outcome == "succeeded" else ()
            metrics.count_run(execution, outcome, time.perf_counter() - began, stages)
            if run and run.span:
                run.span.set_attribute("spine.outcome", outcome)
        return children

    return both


def stage_done(stages: Stages) -> None:
    """Note that the last of a run's stages is done."""
    run = _run.get()
    if run is None:
        return
    run.stages = stages
    if run.span:
        kind, counts = stages[-1]
        told = {name: n for name, n in counts.items() if isinstance(n, str | int)}
        began, run.stage_began = run.stage_began, time.time_ns()
        traces.past(kind, began, run.stage_began, told)


def apart(work: Callable[Parameters, Result]) -> Callable[Parameters, Result]:
    """Let what a call says of its context be forgotten when it ends."""

    @wraps(work)
    def both(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Result:
        return copy_context().run(partial(work, *args, **kwargs))

    return both


def carried(execution_id: str) -> None:
    """Let this context be about an execution of which no more has come than its id."""
    observability.execution.set(observability.Carried(id=execution_id))


def take_back(execution: "Execution") -> None:
    """Let this context be about an execution that has lost whoever ran it."""
    observability.execution.set(execution)
    observability.traceparent.set(execution.traceparent)
    if traces.enabled():
        now = time.time_ns()
        observability.traceparent.set(traces.past("take back", now, now, _attributes(execution)))


def _attributes(execution: "Execution") -> traces.Attributes:
    return {
        "spine.execution_id": str(execution.id),
        "spine.pipeline": execution.pipeline,
        "spine.lane": execution.lane,
        "spine.attempt": execution.attempt,
    }


def _links(execution: "Execution") -> list[str]:
    """The traceparents of what this run does again."""
    from market_spine import ledger

    again: list[str | None] = []
    if traces.enabled() and (execution.retry_of or execution.attempt > 1):
        with suppress(StoreError), database.snapshot() as connection:
            if execution.retry_of:
                again.append(ledger.get(connection, execution.retry_of).traceparent)
            events = ledger.events_of(connection, execution.id)
            requeued = [event for event in events if event.kind == "requeued"]
            again.extend(event.data.get("traceparent") for event in requeued[-1:])
    return [one for one in again if one]
