"""Connections: does Postgres let in as many as the processes that live may want at once?

A process keeps as many as it does things at once. Workers, relays and beats have said that they
live; whatever else has a session under our name is taken to be an API, with as many threads as
SPINE_API_THREADS says here, and one more that tells the ledger's figures at SPINE_METRICS_PORT. A
command is taken for one, too, while it runs.
"""

from collections import Counter
from collections.abc import Iterator

from sqlalchemy import text

from market_spine import backends, database, presence
from market_spine.checks import Finding
from market_spine.settings import settings
from market_spine.stores.postgresql import process_id

# A worker runs, looks meanwhile whether it shall stop, and extends its leases; a relay may hold the
# run lock while it takes back what another process ran under it.
WANTED = {"worker": 3, "relay": 2, "beat": 1}

LET_IN = text(
    """
SELECT current_setting('max_connections')::int
     - current_setting('superuser_reserved_connections')::int
     - current_setting('reserved_connections')::int
"""
)
# Without a user, it is one of the server's own, which has a place of its own.
SESSIONS = text(
    """
SELECT CASE WHEN datname = current_database() THEN
           substring(application_name FROM '^market_spine (.*)') END AS process, count(*)
FROM pg_stat_activity WHERE usesysid IS NOT NULL AND datid IS NOT NULL GROUP BY process
"""
)


def check() -> Iterator[Finding]:
    """Add up what may be wanted, if the backend in use has its work done by processes."""
    if not backends.has_workers():
        return
    with database.snapshot() as connection:
        let_in = connection.execute(LET_IN).scalar_one()
        sessions = {row[0]: row[1] for row in connection.execute(SESSIONS)}
        roles = {process.id: process.role for process in presence.alive(connection)}
    others = sessions.pop(None, 0) + sessions.pop(process_id(), 0)
    counted = Counter[str](roles.get(process, "api") for process in {*roles, *sessions})
    of_api = settings().spine_api_threads + (settings().spine_metrics_port > 0)
    wanted = {"api": of_api, **WANTED}
    total = others + sum(wanted[role] * processes for role, processes in counted.items())
    if total > let_in:
        parts = [f"{counted[role]} {role} with {wanted[role]}" for role in sorted(counted)]
        what = f"{total} connections may be wanted at once ({', '.join(parts)}, {others} others)"
        yield Finding(
            what=f"{what}, and Postgres lets in {let_in}",
            todo="lower SPINE_API_THREADS or SPINE_WORKER_PROCESSES, or raise max_connections",
        )
