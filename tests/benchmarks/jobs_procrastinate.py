"""procrastinate, for `executions`: `work N` carries out N jobs at once in one process."""

from __future__ import annotations

import os
import sys

import jobs
from procrastinate import App, PsycopgConnector

URL = os.environ["DATABASE_URL"].replace("+psycopg", "")
FINISHED = """
SELECT CAST(id AS text) AS job,
       CAST(extract(epoch FROM pg_xact_commit_timestamp(xmin)) AS float8) AS ended
FROM procrastinate_jobs WHERE status = 'succeeded'
"""

app = App(connector=PsycopgConnector(conninfo=URL))


@app.task(name="noop")
async def noop() -> None:
    """What is asynchronous needs no thread."""


def submit() -> str:
    return str(noop.defer())


def finished() -> dict[str, float]:
    rows = app.connector.get_sync_connector().execute_query_all(FINISHED)
    return {row["job"]: row["ended"] for row in rows}


if __name__ == "__main__":
    if sys.argv[1] == "work":
        app.run_worker(concurrency=int(sys.argv[2]))
    else:
        with app.open():
            if sys.argv[1] == "prepare":
                app.schema_manager.apply_schema()
            else:
                jobs.serve(submit, finished)
