"""Raw Celery, for `executions`: late acknowledgement, a prefetch of one, and no results."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

import jobs
from celery import Celery

app = Celery("jobs", broker=os.environ["REDIS_URL"])
app.conf.update(
    broker_connection_retry_on_startup=True,
    task_acks_late=True,
    task_ignore_result=True,
    worker_enable_remote_control=False,
    worker_prefetch_multiplier=1,
)
ENDED = Path(os.environ["JOBS_ENDED"])  # Celery itself keeps no account of what has ended


@app.task(bind=True)
def noop(task: Any) -> None:
    with ENDED.open("a") as file:
        file.write(f"{task.request.id} {time.time()}\n")


def submit() -> str:
    return str(noop.apply_async().id)


def finished() -> dict[str, float]:
    lines = ENDED.read_text().splitlines() if ENDED.exists() else []
    return {job: float(at) for job, at in map(str.split, lines)}


if __name__ == "__main__":
    if sys.argv[1] == "work":
        alone = ["--without-gossip", "--without-mingle", "--without-heartbeat"]
        app.worker_main(["--quiet", "worker", "--concurrency=1", "--loglevel=WARNING", *alone])
    elif sys.argv[1] == "submit":
        jobs.serve(submit, finished)
