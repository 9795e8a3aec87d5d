"""What the work of this context is about: an execution, and the trace that it belongs to.

Log lines and spans take it from here. A trace has an id with or without anybody who collects it, so
that what a request led to can be found in the log.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from secrets import token_hex
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from market_spine.ledger import Execution

# https://www.w3.org/TR/trace-context/#traceparent-header
TRACEPARENT = re.compile("00-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")


@dataclass(frozen=True, kw_only=True)
class Carried:
    """What is known of an execution before the ledger has told of it: the id that was carried."""

    id: str
    pipeline: None = None
    lane: None = None


execution: ContextVar["Execution | Carried | None"] = ContextVar("execution", default=None)
traceparent: ContextVar[str | None] = ContextVar("traceparent", default=None)


@contextmanager
def within(parent: str | None) -> Iterator[None]:
    """Let what is done in the block belong to a trace."""
    token = traceparent.set(parent)
    try:
        yield
    finally:
        traceparent.reset(token)


@contextmanager
def about(subject: "Execution") -> Iterator[None]:
    """Let what is done in the block be about an execution, in the trace it was submitted in."""
    token = execution.set(subject)
    try:
        with within(subject.traceparent):
            yield
    finally:
        execution.reset(token)


def current_traceparent() -> str:
    """Where in which trace this context is; of a trace of its own, if it is in none."""
    # A trace that begins here is recorded by nobody, hence the last two digits.
    return traceparent.get() or f"00-{token_hex(16)}-{token_hex(8)}-00"


def trace_id() -> str | None:
    """The id of the trace that this context belongs to."""
    found = TRACEPARENT.fullmatch(traceparent.get() or "")
    return found[1] if found else None
