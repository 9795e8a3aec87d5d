"""What those compared by `executions` share: jobs are submitted, at once or at a pace, and timed.

It runs in the environment of each, and so on the standard library alone.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Mapping

POLL_SECONDS = 0.2
PATIENCE_SECONDS = 600.0


def serve(submit: Callable[[], str], finished: Callable[[], Mapping[str, float]]) -> None:
    """Submit as many jobs, at such a pace, as each line of standard input says, and time them.

    A line is the number of jobs and how many a second, 0 for as fast as it goes. It is answered by
    a line of JSON: of each job the instants before its submit and behind its end, since 1970.

    Args:
        submit: submits a job that does nothing, and returns its id.
        finished: the jobs that have ended, and when.

    Raises:
        SystemExit: the jobs do not end.
    """
    for line in sys.stdin:
        count, per_second = map(int, line.split())
        began: dict[str, float] = {}
        start = time.monotonic()
        for number in range(count):
            if per_second:
                time.sleep(max(0.0, start + number / per_second - time.monotonic()))
            now = time.time()
            began[submit()] = now
        ended = finished()
        while missing := len(began.keys() - ended.keys()):
            if time.monotonic() - start > PATIENCE_SECONDS:
                raise SystemExit(f"{missing} of {count} jobs have not ended")
            time.sleep(POLL_SECONDS)
            ended = finished()
        print(json.dumps([(at, ended[job]) for job, at in began.items()]), flush=True)
