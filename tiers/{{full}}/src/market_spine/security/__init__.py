"""Who may call the API, and who has called."""

from contextvars import ContextVar
from typing import Any

# The name of the key that the request of this context came with; None: nobody's.
caller: ContextVar[str | None] = ContextVar("caller", default=None)


def signed(data: dict[str, Any]) -> dict[str, Any]:
    """What an event tells, and by whose key it came about."""
    name = caller.get()
    return data if name is None else {**data, "by": name}
