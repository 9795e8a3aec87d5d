"""A backfill through whatever workers run, for `two-workers`: how long, and what it waited for.

The arguments are a tape, its first and last day, and how many workers have to be there first.
"""

from __future__ import annotations

import json
import sys
import time
from collections import Counter

from market_spine import database, dispatcher, ledger, presence
from sqlalchemy import text

SAMPLE_SECONDS = 0.1
PATIENCE_SECONDS = 60.0
# Of the sessions that are in a transaction of some length, which a worker's are while it works.
STATES = text(
    """
SELECT CASE WHEN wait_event = 'advisory' THEN 'waits for another merge'
            -- a COPY is active while its next rows are made
            WHEN state = 'active' AND wait_event IS DISTINCT FROM 'ClientRead' THEN 'in Postgres'
            ELSE 'in Python' END AS doing
FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid()
  AND backend_type = 'client backend' AND state <> 'idle'
  AND xact_start < clock_timestamp() - interval '50 milliseconds'
"""
)


def main(path: str, first: str, last: str, processes: str) -> None:
    began = time.monotonic()
    while True:
        with database.snapshot() as connection:
            if len(presence.alive(connection, "worker")) >= int(processes):
                break
        if time.monotonic() - began > PATIENCE_SECONDS:
            raise SystemExit(f"{processes} workers did not start")
        time.sleep(SAMPLE_SECONDS)
    params = {"path": path, "start_date": first, "end_date": last}
    root = dispatcher.submit("otc_backfill_range", params)
    seconds: Counter[str] = Counter()
    at = time.monotonic()
    while root.status not in ledger.TERMINAL:
        time.sleep(SAMPLE_SECONDS)
        with database.snapshot() as connection:
            now = time.monotonic()
            for (doing,) in connection.execute(STATES):
                seconds[doing] += now - at
            at = now
            root = ledger.get(connection, root.id)
    if root.status != "succeeded" or not root.finished_at:
        raise SystemExit(f"the backfill {root.status}: {root.error}")
    total = (root.finished_at - root.created_at).total_seconds()
    print(json.dumps({"seconds": total, "of_processes": seconds}))


if __name__ == "__main__":
    main(*sys.argv[1:])
