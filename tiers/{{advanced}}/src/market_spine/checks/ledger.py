"""The ledger: does each row say what its events amount to, and is anything left lying about?"""

from collections.abc import Iterator

from sqlalchemy import TextClause, text

from market_spine import database, guard, relay
from market_spine.checks import Finding

NAMED = 5  # of those that a finding is about
WAITED_SECONDS = 60.0  # longer than the relay lets anything wait

# What the events amount to, said in SQL and not by `ledger.fold`, of which this is the check.
FOLDED = text(
    """
SELECT id FROM (
    SELECT execution_id, count(*) AS events, max(seq) AS last,
           1 + count(*) FILTER (WHERE kind = 'requeued') AS attempt,
           bool_or(kind = 'cancel_requested') AS cancel_requested,
           max(data ->> 'error') FILTER (WHERE kind IN ('succeeded', 'failed', 'cancelled'))
               AS error,
           (array_agg(kind ORDER BY seq DESC) FILTER (WHERE kind IN ('submitted', 'started',
               'waiting', 'requeued', 'succeeded', 'failed', 'cancelled')))[1] AS kind
    FROM execution_events GROUP BY execution_id
) AS told FULL JOIN executions ON id = execution_id
WHERE (events, last, told.attempt, told.cancel_requested, told.error) IS DISTINCT FROM
      (version::bigint, version, executions.attempt::bigint, executions.cancel_requested,
       executions.error)
   OR CASE kind WHEN 'submitted' THEN 'queued' WHEN 'requeued' THEN 'queued'
                WHEN 'started' THEN 'running' ELSE kind END IS DISTINCT FROM status
"""
)
EXPIRED = text(
    """
SELECT id FROM executions WHERE status = 'running'
AND lease_expires_at < clock_timestamp() - make_interval(secs => :waited)
"""
).bindparams(waited=WAITED_SECONDS)
UNDISPATCHED = text(
    """
SELECT id FROM executions WHERE status = 'queued'
AND greatest(created_at, not_before) < clock_timestamp() - make_interval(secs => :waited)
AND (dispatched_at IS NULL
     OR dispatched_at < clock_timestamp() - make_interval(secs => :waited + :longest))
"""
).bindparams(waited=WAITED_SECONDS, longest=relay.LONGEST_SECONDS)
CLAIMS = text(
    """
SELECT DISTINCT claims.root_id FROM resource_claims AS claims JOIN executions ON id = claims.root_id
WHERE finished_at IS NOT NULL
"""
)
WITHOUT_LETTER = text(
    """
SELECT id FROM executions WHERE status = 'failed'
AND NOT EXISTS (SELECT FROM dead_letters WHERE execution_id = executions.id AND kind = 'execution')
AND NOT EXISTS (SELECT FROM executions AS child WHERE child.parent_id = executions.id)
"""
)
WITHOUT_FAILURE = text(
    """
SELECT dead_letters.id FROM dead_letters JOIN executions ON executions.id = execution_id
WHERE kind = 'execution' AND status <> 'failed'
"""
)


def check() -> Iterator[Finding]:
    """Look through all of it."""
    if found := _ids(FOLDED):
        what = f"these rows are not what their events amount to, or lack some: {found}"
        yield Finding(what=what, todo="somebody wrote to the tables: restore them from a copy")
    if found := _ids(EXPIRED):
        what = f"these run under a lease that expired long ago: {found}"
        yield Finding(what=what, todo="spine relay", mend=_take_back)
    if found := _ids(UNDISPATCHED):
        what = f"the broker has not been told of these, or long ago: {found}"
        yield Finding(what=what, todo="spine relay", mend=_dispatch)
    if found := _ids(CLAIMS):
        what = f"these have ended and still claim something: {found}"
        yield Finding(what=what, todo="spine doctor --fix", mend=_release)
    if found := _ids(WITHOUT_LETTER):
        what = f"these failed and have no dead letter: {found}"
        yield Finding(what=what, todo="submit again what they were for")
    if found := _ids(WITHOUT_FAILURE):
        what = f"these dead letters are of executions that did not fail: {found}"
        yield Finding(what=what, todo="somebody wrote to the tables: restore them from a copy")


def _ids(query: TextClause) -> str:
    with database.snapshot() as connection:
        found = connection.execute(query).scalars().all()
    more = f" and {len(found) - NAMED} more" if len(found) > NAMED else ""
    return ", ".join(map(str, found[:NAMED])) + more


def _take_back() -> None:
    while relay.take_back_expired() == relay.BATCH:
        pass


def _dispatch() -> None:
    while relay.dispatch_due()[0] == relay.BATCH:
        pass


def _release() -> None:
    with database.transaction() as connection:
        for root_id in connection.execute(CLAIMS).scalars().all():
            guard.release_claims(connection, root_id)
