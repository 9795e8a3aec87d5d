"""Why Postgres refused, as a person would put it, and whether it is worth trying again."""

import psycopg
from sqlalchemy.exc import DBAPIError

from market_spine.errors import StoreUnavailableError

LONGEST = 300  # of what the server said

# By the beginning of the SQLSTATE; the first that fits.
REASONS = {
    "08": "cannot be reached: check that it runs, and DATABASE_URL",
    "25006": "is read-only: name the server that accepts writes in DATABASE_URL",
    "28": "refuses this user: check the user and the password in DATABASE_URL",
    "3D000": "has no such database: create it, or name another in DATABASE_URL",
    "40": "had transactions that waited for each other: try again",
    "42501": "does not permit this: grant the user of DATABASE_URL the rights that it lacks",
    "53100": "cannot grow: its disk is full",
    "53200": "is out of memory: try again, with less at once",
    "53300": "has too many connections: try again, or raise its max_connections",
    "55P03": "is busy: another transaction keeps a lock that is needed; try again",
    "57014": "was told to stop before it had the answer: ask for less at once, or try again",
    "57P": "is shutting down, or starting up: try again in a moment",
    "58": "cannot read or write its files: check its disk and its log",
    "XX": "is damaged: check its disk and its log, or restore it from a copy",
}
# A driver that could not connect tells no SQLSTATE, but says why in words.
IN_WORDS = {
    "password authentication failed": "28",
    "no password supplied": "28",
    "no pg_hba.conf entry": "28",
    'role "': "28",
    "not currently accepting connections": "57P",
    'database "': "3D000",
    "too many clients": "53300",
    "remaining connection slots": "53300",
    "too many connections": "53300",
    "shutting down": "57P",
    "starting up": "57P",
    "recovery": "57P",
}
PASSING = ("08", "40", "53300", "57P")  # what may be over when the work is done again


def reason_of(error: DBAPIError, store: str) -> str | None:
    """What an error means, if the store is to blame and not the work.

    Raises:
        StoreUnavailableError: the reason may have passed when the work is done again.
    """
    state = getattr(error.orig, "sqlstate", None)
    said = " ".join(str(error.orig).split())[:LONGEST]
    if state is None:
        if not isinstance(error.orig, psycopg.OperationalError | psycopg.InterfaceError):
            return None
        state = next((state for words, state in IN_WORDS.items() if words in said), "08")
    reason = next((REASONS[prefix] for prefix in REASONS if state.startswith(prefix)), None)
    if reason is None:
        return None
    message = f"{store} {reason} ({said})"
    if state.startswith(PASSING):
        raise StoreUnavailableError(message) from error
    return message
