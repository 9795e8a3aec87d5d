"""How far long work has come, told to whoever in this process wants to show it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

Listener = Callable[[str, int, int | None], None]

_listener: ContextVar[Listener | None] = ContextVar("listener", default=None)


def report(label: str, done: int, total: int | None) -> None:
    """Tell the listener, if there is one; `total` is None where it cannot be known."""
    listener = _listener.get()
    if listener is not None:
        listener(label, done, total)


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Let the listener hear what this thread reports."""
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)
