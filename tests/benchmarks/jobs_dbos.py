"""DBOS, for `executions`: `work SECONDS` looks into its queue that often, and runs all it finds."""

from __future__ import annotations

import os
import sys
import threading

import jobs
import psycopg
from dbos import DBOS, DBOSClient, run_dbos_database_migrations

URL = os.environ["DATABASE_URL"].replace("+psycopg", "")
FINISHED = """
SELECT workflow_uuid, CAST(extract(epoch FROM pg_xact_commit_timestamp(xmin)) AS float8)
FROM dbos.workflow_status WHERE status = 'SUCCESS'
"""


@DBOS.workflow(name="noop")
def noop() -> None:
    """Without steps, it is one row for its beginning and its end."""


def work(polling_seconds: float) -> None:
    DBOS(config={"name": "jobs", "system_database_url": URL, "log_level": "WARNING"})
    DBOS.launch()
    DBOS.register_queue("jobs", polling_interval_sec=polling_seconds)
    threading.Event().wait()


def submit() -> None:
    client = DBOSClient(system_database_url=URL)
    with psycopg.connect(URL, autocommit=True) as connection:
        jobs.serve(
            lambda: client.enqueue({"queue_name": "jobs", "workflow_name": "noop"}).workflow_id,
            lambda: dict(connection.execute(FINISHED).fetchall()),
        )


if __name__ == "__main__":
    if sys.argv[1] == "work":
        work(float(sys.argv[2]))
    elif sys.argv[1] == "prepare":
        run_dbos_database_migrations(URL)
    else:
        submit()
