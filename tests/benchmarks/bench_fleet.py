"""What a second worker gains, and what the ledger costs when it is old, or its queue long."""

from __future__ import annotations

import re
from contextlib import ExitStack
from pathlib import Path
from statistics import median, quantiles
from typing import Any

from bench_api import SECONDS, served, submit_for
from bench_executions import process
from harness import Bar, Report, Tier, say, tape

# Submits as many executions, and tells how many are queued.
QUEUE = """
import sys
from sqlalchemy import text
from market_spine import database, dispatcher
for _ in range(int(sys.argv[1])):
    dispatcher.submit("otc_normalize", {})
with database.snapshot() as connection:
    asked = text("SELECT count(*) FROM executions WHERE status = 'queued'")
    print(connection.execute(asked).scalar_one())
"""
HERE = Path(__file__).parent
DAYS = 10
FIRST_DAY, LAST_DAY = "2025-11-24", "2025-12-08"  # of a tape of so many trading days
MOST_FETCHES = 10  # of rows that an index had to look up in the table
DOINGS = ("in Python", "in Postgres", "waits for another merge")


def two_workers(tier: Tier, trades: int, repeat: int) -> Report:
    """A backfill on one worker process and on two, alternately.

    Raises:
        SystemExit: they do not come to the same gold, or to as many rows.
    """
    runs: dict[int, list[dict[str, Any]]] = {1: [], 2: []}
    contents = []
    for number in range(repeat):
        for processes, taken in runs.items():
            say(f"run {number + 1} of {repeat}: {trades:,} trades, {processes} worker processes")
            store = tier.new_store("backfill")
            taken.append(backfilled(tier, store, trades, processes))
            contents.append(tier.contents(store))
    if any(found != contents[0] for found in contents):
        raise SystemExit("one worker process and two came to different results")
    print(f"\n{DAYS} days, {trades:,} trades; seconds of the processes, by what they did")
    print(f"{'processes':<11}{'s':>9}" + "".join(f"{doing:>25}" for doing in DOINGS))
    for processes, taken in runs.items():
        spent = [median(run["of_processes"].get(doing, 0.0) for run in taken) for doing in DOINGS]
        seconds = median(run["seconds"] for run in taken)
        print(f"{processes:<11}{seconds:9.1f}" + "".join(f"{part:25.1f}" for part in spent))
    ratios = [two["seconds"] / one["seconds"] for one, two in zip(runs[1], runs[2], strict=True)]
    name = f"seconds of a backfill of {trades:,} trades, on two processes / on one"
    bar = Bar(name=name, value=median(ratios), bound=0.65)
    return Report(figures={"runs": runs, "ratios": ratios}, bars=[bar])


def backfilled(tier: Tier, store: str, trades: int, processes: int) -> dict[str, Any]:
    """What a backfill took, by the ledger."""
    env = tier.environment(store)
    with ExitStack() as running:
        for command in (["worker", "--processes", str(processes)], ["relay"]):
            running.enter_context(process([tier.command, *command], env, tier))
        days = [str(tape(trades, DAYS)), FIRST_DAY, LAST_DAY, str(processes)]
        found: dict[str, Any] = tier.ask_python(HERE / "jobs_backfill.py", *days, store=store)
    return found


def plans(tier: Tier, ended: int) -> Report:
    """How the relay and the reaper find what they look for in a ledger of many executions.

    Raises:
        SystemExit: they read a table from its start to its end, or rows that are not due.
    """
    store = tier.new_store("plans")
    say(f"a ledger of {ended:,} executions that have ended")
    found: dict[str, list[str]] = tier.ask_python(HERE / "jobs_plans.py", str(ended), store=store)
    faults = []
    milliseconds = {}
    for name, lines in found.items():
        plan = "\n".join(lines)
        print(f"\n{name}, of {ended:,} executions that have ended:\n{plan}")
        fetches = sum(map(int, re.findall(r"Heap Fetches: (\d+)", plan)))
        alone = "Index Only Scan" in plan and "Seq Scan on executions" not in plan
        if not alone or fetches > MOST_FETCHES:
            faults.append(name)
        milliseconds[name] = float(re.findall(r"Execution Time: ([\d.]+) ms", plan)[0])
    if faults:
        raise SystemExit(f"not by an index alone: {', '.join(faults)}")
    return Report(figures={"ended": ended, "ms": milliseconds, "plans": found}, bars=[])


def submits(tier: Tier, queued: int) -> Report:
    """Submits a second to one API process, while a queue waits that nobody works on.

    Raises:
        SystemExit: the queue is shorter than it should be.
    """
    store = tier.new_store("submits")
    say(f"queueing {queued:,} executions")
    tier.ask_python("-c", QUEUE, str(queued), store=store)
    with served(tier, store) as url:
        say(f"submitting for {SECONDS:g} s")
        taken = submit_for(url, SECONDS)
    a_second, slowest = len(taken) / SECONDS, quantiles(taken, n=100)[98] * 1000
    waiting = tier.ask_python("-c", QUEUE, "0", store=store)
    if waiting != queued + len(taken):
        raise SystemExit(f"{waiting:,} executions are queued, not {queued + len(taken):,}")
    print(f"\nsubmits a second, {queued:,} queued: {a_second:.0f} (p99 {slowest:.1f} ms)")
    name = f"submits a second, {queued:,} queued"
    bar = Bar(name=name, value=a_second, bound=300, at_least=True)
    return Report(figures={"a_second": a_second, "p99_ms": slowest}, bars=[bar])
