"""Executions of a pipeline that does nothing, for `executions`; the workers are `spine`'s own."""

from __future__ import annotations

import jobs
from market_spine import database, dispatcher
from sqlalchemy import text

# The instant of the commit after which the row says so.
FINISHED = text(
    "SELECT CAST(id AS text), CAST(extract(epoch FROM pg_xact_commit_timestamp(xmin)) AS float8) "
    "FROM executions WHERE finished_at IS NOT NULL"
)


def submit() -> str:
    return str(dispatcher.submit("noop", {}).id)


def finished() -> dict[str, float]:
    with database.snapshot() as connection:
        return {row[0]: row[1] for row in connection.execute(FINISHED)}


if __name__ == "__main__":
    jobs.serve(submit, finished)
