"""The plans of what the relay and the reaper ask an old ledger, for `plans`.

The argument is the number of executions that have ended.
"""

from __future__ import annotations

import json
import sys

from market_spine import database, relay
from sqlalchemy import Connection, text
from sqlalchemy.sql.elements import TextClause

BATCH = 500_000
# Ids grow with time, as in the ledger, whose order the indexes are used to.
FILL = text(
    """
INSERT INTO executions (
    id, root_id, pipeline, params, lane, trigger_source, status, attempt, max_attempts, version,
    cancel_requested, created_at, started_at, finished_at, dispatched_at, lease_token,
    lease_expires_at
)
SELECT id, id, 'otc_ingest_next', '{}', 'default', 'schedule', :status, 1, 3, 1,
       false, at, CASE WHEN :status <> 'queued' THEN at END,
       CASE WHEN :status = 'succeeded' THEN at END,
       CASE WHEN :told THEN at END,
       CASE WHEN :status = 'running' THEN gen_random_uuid() END,
       CASE WHEN :status = 'running' THEN at + make_interval(secs => :leased_for) END
FROM (
    SELECT CAST(lpad(to_hex(number), 32, '0') AS uuid) AS id,
           clock_timestamp() - make_interval(secs => (:last - number) * 0.001) AS at
    FROM generate_series(CAST(:first AS bigint), CAST(:last AS bigint)) AS number
) AS made
""".replace(":status", "CAST(:status AS text)").replace(":told", "CAST(:told AS boolean)")
)
# What has not ended is little beside that: how many, in which state, whether the broker was told,
# and seconds of a lease.
LIVE: tuple[tuple[int, str, bool, float], ...] = (
    (1000, "queued", True, 0),
    (100, "queued", False, 0),
    (100, "running", True, 3600),
    (20, "running", True, -1),
)


def main(ended: int) -> None:
    first = 1
    batches = [min(BATCH, ended - start) for start in range(0, ended, BATCH)]
    for count, status, told, lease in [
        *((count, "succeeded", True, 0) for count in batches),
        *LIVE,
    ]:
        values = {"status": status, "told": told, "leased_for": lease}
        with database.transaction() as connection:
            connection.execute(FILL, {**values, "first": first, "last": first + count - 1})
        first += count
    with database.engine().connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql("VACUUM (ANALYZE) executions")
    with database.engine().connect() as connection:  # which keeps nothing
        plans = {  # the one that writes, and so makes the next look into the table, is the last
            "what the reaper takes back": plan(connection, relay.EXPIRED),
            "what the relay hands on": plan(connection, relay.DUE.bindparams(batch=relay.BATCH)),
        }
    print(json.dumps(plans))


def plan(connection: Connection, statement: TextClause) -> list[str]:
    explained = text(f"EXPLAIN (ANALYZE, BUFFERS) {statement.text}")
    return [*connection.execute(explained, statement.compile().params).scalars()]


if __name__ == "__main__":
    main(int(sys.argv[1]))
