"""How the system is, from the ledger alone: what waits, what runs, what was done, and who does it.

Nothing is read from the broker's queues: what they hold may be there twice, or not at all.
"""

from datetime import UTC, datetime
from typing import Any, NamedTuple

from sqlalchemy import Connection, text

from market_spine import ledger, presence

HOUR, MINUTES = 3600, 5  # what "lately" is, in seconds; and for the throughput, in minutes

# What has not ended is few rows, with an index of their own; what ended lately is found by its end.
WORK = text(
    """
WITH live AS (
    SELECT lane, pipeline,
           count(*) FILTER (WHERE status = 'queued') AS queued,
           count(*) FILTER (WHERE status = 'running') AS running,
           count(*) FILTER (WHERE status = 'waiting') AS waiting,
           count(*) FILTER (WHERE status = 'running' AND lease_expires_at < now()) AS past_lease,
           max(extract(epoch FROM now() - greatest(created_at, not_before)))
               FILTER (WHERE status = 'queued' AND coalesce(not_before, now()) <= now()) AS oldest
    FROM executions WHERE finished_at IS NULL GROUP BY lane, pipeline
), ended AS (
    SELECT lane, pipeline,
           count(*) FILTER (WHERE status = 'succeeded') AS succeeded,
           count(*) FILTER (WHERE status = 'failed') AS failed,
           count(*) FILTER (WHERE status = 'cancelled') AS cancelled,
           count(*) FILTER (WHERE finished_at > now() - make_interval(mins => :minutes)) AS lately,
           percentile_cont(ARRAY[0.5, 0.95, 0.99])
               WITHIN GROUP (ORDER BY extract(epoch FROM finished_at - started_at)) AS seconds
    FROM executions
    WHERE finished_at > now() - make_interval(secs => :hour) GROUP BY lane, pipeline
)
SELECT * FROM live FULL JOIN ended USING (lane, pipeline) ORDER BY lane, pipeline
"""
)
OPEN_LETTERS = text(
    "SELECT kind, count(*) FROM dead_letters WHERE closed_at IS NULL GROUP BY kind ORDER BY kind"
)


class Work(NamedTuple):
    """What is the matter with one pipeline in one lane."""

    lane: str
    pipeline: str
    queued: int
    running: int
    waiting: int
    past_lease: int  # of those that run: whose worker has said nothing for too long
    oldest_queued_seconds: float | None  # since it could have been begun
    succeeded: int  # in the last hour, as are those that follow
    failed: int
    cancelled: int
    finished_per_minute: float  # in the last five minutes
    seconds_p50: float | None  # from the beginning of the last attempt to the end
    seconds_p95: float | None
    seconds_p99: float | None


class Health(NamedTuple):
    """How the system is at an instant."""

    at: datetime
    work: list[Work]
    open_dead_letters: dict[str, int]  # by kind
    processes: dict[str, int]  # those that live, by role


def health(connection: Connection) -> Health:
    """How the system is now."""
    values = {"hour": HOUR, "minutes": MINUTES}
    work = [_work(row._mapping) for row in connection.execute(WORK, values)]
    letters = dict.fromkeys(("execution", "record"), 0)
    letters |= {row[0]: row[1] for row in connection.execute(OPEN_LETTERS)}
    processes = dict.fromkeys(("worker", "relay", "beat"), 0)
    for process in presence.alive(connection):
        processes[process.role] += 1
    return Health(datetime.now(UTC), work, letters, processes)


def _work(row: Any) -> Work:
    p50, p95, p99 = row["seconds"] or (None, None, None)
    counts = ("queued", "running", "waiting", "past_lease", "succeeded", "failed", "cancelled")
    return Work(
        lane=row["lane"],
        pipeline=row["pipeline"],
        oldest_queued_seconds=None if row["oldest"] is None else float(row["oldest"]),
        finished_per_minute=(row["lately"] or 0) / MINUTES,
        seconds_p50=p50,
        seconds_p95=p95,
        seconds_p99=p99,
        **{name: row[name] or 0 for name in counts},
    )


# --- for Prometheus ------------------------------------------------------------------------------

# Of each figure: its name there, and its help.
COUNTS = (
    ("executions", "Executions that have not ended.", ledger.LIVE),
    ("ended_last_hour", "Executions that ended in the last hour.", ledger.TERMINAL),
)
GAUGES = {
    "oldest_queued_seconds": "Age of the oldest execution that could have been begun.",
    "past_lease": "Executions that run under a lease that has expired.",
    "finished_per_minute": "Executions that ended, a minute, over the last five.",
}


def prometheus(found: Health) -> str:
    """The same as text of Prometheus' exposition format, version 0.0.4."""
    lines: list[str] = []

    def gauge(name: str, told: str, samples: list[tuple[dict[str, str], float | None]]) -> None:
        lines.extend([f"# HELP spine_{name} {told}", f"# TYPE spine_{name} gauge"])
        for labels, value in samples:
            if value is not None:
                shown = ",".join(f'{key}="{_escaped(label)}"' for key, label in labels.items())
                lines.append(f"spine_{name}{{{shown}}} {value:g}")

    def of(work: Work, **more: str) -> dict[str, str]:
        return {"lane": work.lane, "pipeline": work.pipeline, **more}

    for name, told, statuses in COUNTS:
        counts = [
            (of(work, status=status), getattr(work, status))
            for work in found.work
            for status in statuses
        ]
        gauge(name, told, counts)
    for name, told in GAUGES.items():
        gauge(name, told, [(of(work), getattr(work, name)) for work in found.work])
    gauge(
        "duration_seconds",
        "Time from the beginning of the last attempt to the end, over the last hour.",
        [
            (of(work, quantile=quantile), getattr(work, f"seconds_{name}"))
            for work in found.work
            for quantile, name in (("0.5", "p50"), ("0.95", "p95"), ("0.99", "p99"))
        ],
    )
    letters = found.open_dead_letters.items()
    gauge("dead_letters_open", "Dead letters.", [({"kind": kind}, n) for kind, n in letters])
    processes = found.processes.items()
    gauge("processes", "Processes that live.", [({"role": role}, n) for role, n in processes])
    return "\n".join(lines) + "\n"


def _escaped(label: str) -> str:
    return label.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
