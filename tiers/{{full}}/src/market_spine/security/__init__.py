"""Who may call the API, and who has called."""

from contextvars import ContextVar
from ipaddress import ip_address
from typing import Any

# The name of the key that the request of this context came with; None: nobody's.
caller: ContextVar[str | None] = ContextVar("caller", default=None)


def signed(data: dict[str, Any]) -> dict[str, Any]:
    """What an event tells, and by whose key it came about."""
    name = caller.get()
    return data if name is None else {**data, "by": name}


def is_loopback(host: str) -> bool:
    """Whether what listens there can be reached from this machine alone; nothing is every network.

    A name other than localhost, and an address in another notation, is taken not to be.
    """
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"
