"""Measure a rendered tier against the bars it must meet, on trades made by the seeded generator.

A bar that is missed is only said. What fails the command is a wrong result.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import asdict

import bench_api
import bench_executions
import bench_fleet
import bench_pipeline
from harness import ROOT, Report, Tier, bench_folder, rendered


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure a rendered tier against its bars.")
    parser.add_argument("--tier", default="basic")
    parser.add_argument("--trades", type=int, default=1_000_000)
    parser.add_argument("--repeat", type=int, default=3, help="runs; medians are shown")
    parser.add_argument("--jobs", type=int, default=1_000, help="of `executions`, at once")
    parser.add_argument("--queued", type=int, default=10_000, help="while a fleet's API `submits`")
    parser.add_argument("--ended", type=int, default=5_000_000, help="executions, of `plans`")
    measurements: dict[str, Callable[[Tier], Report]] = {
        "speed": lambda tier: bench_pipeline.speed(tier, args.trades, args.repeat),
        "memory": lambda tier: bench_pipeline.memory(tier, args.trades),
        "recompute": lambda tier: bench_pipeline.recompute(tier, args.trades),
        "start": bench_pipeline.start,
    }
    of_the_api: dict[str, Callable[[Tier], Report]] = {
        "reads": lambda tier: bench_api.reads(tier, args.trades),
        "submits": lambda tier: bench_api.submits(tier, args.trades),
    }
    of_the_fleet: dict[str, Callable[[Tier], Report]] = {
        "executions": lambda tier: bench_executions.executions(tier, args.jobs, args.repeat),
        "two-workers": lambda tier: bench_fleet.two_workers(tier, args.trades, args.repeat),
        "plans": lambda tier: bench_fleet.plans(tier, args.ended),
        "submits": lambda tier: bench_fleet.submits(tier, args.queued),
    }
    choices = [*{**measurements, **of_the_api, **of_the_fleet}, "all"]
    parser.add_argument("what", nargs="?", choices=choices, default="speed")
    args = parser.parse_args()
    with rendered(args.tier) as tier:
        if tier.broker:
            # Of the tier below, it has the files that do the work; only the way there is its own.
            measurements = {"start": bench_pipeline.start, **of_the_fleet}
        elif (tier.folder / "src/market_spine/api").is_dir():
            measurements |= of_the_api
        reports = {
            name: measurement(tier)
            for name, measurement in measurements.items()
            if args.what in (name, "all")
        }
    print(f"\n{args.tier}, on {os.cpu_count()} processors")
    bars = [bar for report in reports.values() for bar in report.bars]
    print(*bars, sep="\n")
    result = {
        "tier": args.tier,
        "template": described(),
        "processors": os.cpu_count(),
        "python": platform.python_version(),
        **{name: report.figures for name, report in reports.items()},
        "bars": [{**asdict(bar), "met": bar.met} for bar in bars],
    }
    path = bench_folder() / f"results-{args.tier}.json"
    path.write_text(json.dumps(result, indent=2) + "\n")
    print(f"written to {path.relative_to(ROOT)}")


def described() -> str | None:
    """The commit of the template; None where it is a plain folder."""
    git = shutil.which("git")
    if not git:
        return None
    command = [git, "-C", str(ROOT), "describe", "--always", "--dirty", "--tags"]
    return subprocess.run(command, capture_output=True, text=True).stdout.strip() or None


if __name__ == "__main__":
    main()
