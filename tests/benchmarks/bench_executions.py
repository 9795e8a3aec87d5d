"""What an execution costs from its submit to its end, beside three others who carry out jobs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median, quantiles
from typing import Any

from harness import Bar, Report, Tier, bench_folder, measure, say

# What is installed for each, as of today; `spine` is the tier itself.
PACKAGES = {
    "celery": ["celery[redis]"],
    "procrastinate": ["procrastinate", "psycopg[binary]"],
    "dbos": ["dbos"],
}
PER_SECOND = 10  # of the jobs that are paced
WARM_UP = 20  # jobs that are not counted
STOP_SECONDS = 30

NOOP = '''"""Nothing, to see what an execution costs."""

from typing import Any

from market_spine.context import Context
from market_spine.pipelines import Params, Pipeline


def run(_context: Context, _params: Params) -> dict[str, Any]:
    """Do nothing."""
    return {}


PIPELINE = Pipeline(name="noop", description="Do nothing.", params=Params, run=run)
'''


@dataclass(frozen=True, kw_only=True)
class Contestant:
    """Somebody who carries out jobs in one process, and how it is set to."""

    of: str
    work: str  # the argument of its worker
    setting: str

    @property
    def name(self) -> str:
        return f"{self.of} {self.setting}".strip()


OURS = Contestant(of="spine", work="", setting="")
CELERY = Contestant(of="celery", work="", setting="")
# As they come, and as they are quickest.
PROCRASTINATE = (
    Contestant(of="procrastinate", work="1", setting=""),
    Contestant(of="procrastinate", work="10", setting="10 at once"),
)
DBOS = (
    Contestant(of="dbos", work="1.0", setting=""),
    Contestant(of="dbos", work="0.01", setting="poll 10 ms"),
)
CONTESTANTS = (OURS, CELERY, *PROCRASTINATE, *DBOS)


@dataclass(frozen=True, kw_only=True)
class Timed:
    """What one contestant took in one run."""

    a_second: float  # jobs of the burst, from the first submit to the last end
    submits_a_second: float
    latencies: list[float]  # seconds from submit to end, of those that were paced


def executions(tier: Tier, jobs: int, repeat: int) -> Report:
    """Jobs that do nothing, through one worker process of each, alternately."""
    (tier.folder / "src/market_spine/pipelines/noop.py").write_text(NOOP)
    pythons = {"spine": tier.python, **{name: installed(name) for name in PACKAGES}}
    runs: dict[str, list[Timed]] = {contestant.name: [] for contestant in CONTESTANTS}
    for number in range(repeat):
        for contestant in CONTESTANTS:
            say(f"run {number + 1} of {repeat}: {jobs:,} jobs through {contestant.name}")
            runs[contestant.name].append(timed(tier, contestant, pythons[contestant.of], jobs))
    show(runs, jobs)
    figures = {
        "jobs": jobs,
        "versions": {name: version(pythons[name], name) for name in PACKAGES},
        "runs": {name: [vars(run) for run in of_one] for name, of_one in runs.items()},
    }
    return Report(figures=figures, bars=bars(runs, jobs))


def bars(runs: dict[str, list[Timed]], jobs: int) -> list[Bar]:
    """Ratios are of two neighbours in time, and of those the medians."""

    def burst(other: Contestant) -> float:
        pairs = zip(runs[OURS.name], runs[other.name], strict=True)
        return median(ours.a_second / theirs.a_second for ours, theirs in pairs)

    def paced(name: str) -> float:
        return median(median(run.latencies) for run in runs[name]) * 1000

    met = [(CELERY, 0.25), *((other, 1.0) for other in (*PROCRASTINATE, *DBOS))]
    found = [
        Bar(
            name=f"jobs a second / those of {other.name}, {jobs:,} at once",
            value=burst(other),
            bound=bound,
            at_least=True,
        )
        for other, bound in met
    ]
    name = f"median ms of a job, {PER_SECOND} a second"
    found.append(Bar(name=name, value=paced(OURS.name), bound=15))
    return found + [
        Bar(
            name=f"{name}, / that of {other.name}",
            value=paced(OURS.name) / paced(other.name),
            bound=1,
        )
        for other in DBOS
    ]


def show(runs: dict[str, list[Timed]], jobs: int) -> None:
    print(f"\n{jobs:,} jobs at once, then {PER_SECOND} a second; medians of {len(runs[OURS.name])}")
    titles = ("jobs/s", "submits/s", "/ celery", "median ms", "p95 ms")
    print(f"{'':<25}" + "".join(f"{title:>11}" for title in titles))
    for name, of_one in runs.items():
        pairs = zip(of_one, runs[CELERY.name], strict=True)
        ratio = median(run.a_second / celery.a_second for run, celery in pairs)
        middle, slow = (
            median(quantiles(run.latencies, n=20)[at] for run in of_one) * 1000 for at in (9, 18)
        )
        print(
            f"{name:<25}{median(run.a_second for run in of_one):11.0f}"
            f"{median(run.submits_a_second for run in of_one):11.0f}{ratio:11.2f}"
            f"{middle:11.1f}{slow:11.1f}"
        )


def timed(tier: Tier, contestant: Contestant, python: Path, jobs: int) -> Timed:
    """One run of one contestant, on a database of its own and an empty broker."""
    script = Path(__file__).with_name(f"jobs_{contestant.of}.py")
    workers: list[list[str | Path]]
    if contestant is OURS:
        store = tier.new_store("jobs")
        workers = [[tier.command, "worker", "--processes", "1"], [tier.command, "relay"]]
    else:
        store = tier.new_database("jobs")
        workers = [[python, script, "work", contestant.work]]
    ended = tier.workplace / "ended"
    ended.unlink(missing_ok=True)
    env = tier.environment(store) | {"JOBS_ENDED": str(ended)}
    if contestant is not OURS:
        measure([python, script, "prepare"], env, tier.folder)
    with ExitStack() as running:
        for worker in workers:
            running.enter_context(process(worker, env, tier))
        ask = running.enter_context(submitter([python, script, "submit"], env, tier))
        ask(WARM_UP, 0)
        burst = ask(jobs, 0)
        paced = ask(max(20, jobs // 10), PER_SECOND)
    first, last_submit = burst[0][0], burst[-1][0]
    return Timed(
        a_second=jobs / (max(end for _, end in burst) - first),
        submits_a_second=jobs / (last_submit - first),
        latencies=[end - began for began, end in paced],
    )


# --- processes ----------------------------------------------------------------------------------


def started(
    argv: Sequence[str | Path], env: dict[str, str], tier: Tier, **options: Any
) -> subprocess.Popen[Any]:
    """A process in the folder of the tier, whose words go to the log of all of them."""
    with (tier.workplace / "processes.log").open("ab") as log:
        streams = {"stdout": log, "stderr": log, **options}
        return subprocess.Popen(argv, cwd=tier.folder, env=env, **streams)


@contextmanager
def process(
    argv: Sequence[str | Path], env: dict[str, str], tier: Tier
) -> Iterator[subprocess.Popen[Any]]:
    """A process that goes on until it is told to end, with all that it has started."""
    running = started(argv, env, tier, stdin=subprocess.DEVNULL, start_new_session=True)
    try:
        yield running
    finally:
        running.terminate()
        try:
            running.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(running.pid, signal.SIGKILL)
            running.wait()


@contextmanager
def submitter(argv: Sequence[str | Path], env: dict[str, str], tier: Tier) -> Iterator[Any]:
    """Yields a function that submits jobs and returns the beginning and the end of each."""
    pipe = subprocess.PIPE
    running = started(argv, env, tier, stdin=pipe, stdout=pipe, text=True)

    def ask(jobs: int, per_second: int) -> list[tuple[float, float]]:
        assert running.stdin
        assert running.stdout
        print(jobs, per_second, file=running.stdin, flush=True)
        answer = running.stdout.readline()
        if not answer:
            said = (tier.workplace / "processes.log").read_text()
            raise SystemExit(f"{' '.join(map(str, argv))}\n{said[-4000:]}")
        return [(began, ended) for began, ended in json.loads(answer)]

    try:
        yield ask
    finally:
        running.communicate()


def installed(name: str) -> Path:
    """The Python of an environment of its own, with the current release."""
    folder = bench_folder() / f"venv-{name}"
    python = folder / "bin/python"
    say(f"installing {name}")
    if not python.exists():
        measure([sys.executable, "-m", "venv", folder])
    pip = ["-m", "pip", "install", "-q", "--disable-pip-version-check", "--upgrade"]
    measure([python, *pip, *PACKAGES[name]])
    return python


def version(python: Path, package: str) -> str:
    asked = f"from importlib.metadata import version; print(version('{package}'))"
    return subprocess.run(
        [python, "-c", asked], capture_output=True, text=True, check=True
    ).stdout.strip()
