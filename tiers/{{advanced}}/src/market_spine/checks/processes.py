"""Who does the work: workers, relays and beats, by what the ledger saw of them."""

from collections.abc import Iterator
from contextlib import suppress

from market_spine import backends, database, presence, schedule
from market_spine.checks import Finding
from market_spine.errors import RequestError


def check() -> Iterator[Finding]:
    """See that each role has somebody who was heard of lately, if the backend in use wants them."""
    if not backends.has_workers():
        return
    with database.snapshot() as connection:
        alive = {process.role for process in presence.alive(connection)}
    lost = {
        "worker": "nobody carries out what is submitted",
        "relay": "nobody tells the broker again what it lost, or takes back what lost its worker",
    }
    for role, what in lost.items():
        if role not in alive:
            yield Finding(what=what, todo=f"spine {role}")
    with suppress(RequestError):  # of a file that is wrong, the settings tell
        if schedule.load() and "beat" not in alive:
            yield Finding(what="nobody submits what is scheduled", todo="spine beat")
