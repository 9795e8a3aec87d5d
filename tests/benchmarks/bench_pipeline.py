"""How fast the pipeline of a tier is, how much memory it takes, and what stays as it grows."""

from __future__ import annotations

import csv
import json
import sys
from datetime import datetime
from pathlib import Path
from statistics import median
from typing import Any

from harness import STAGES, TRADES_A_DAY, Bar, Report, Run, Tier, measure, say, tape

LIMIT = Path(__file__).with_name("duckdb_limit.py")
LEAST_RATIO = {"basic": 0.30, "intermediate": 0.25}
TOTAL = "end to end"


def speed(tier: Tier, trades: int, repeat: int) -> Report:
    """Each stage beside DuckDB's, alternately, because what else the machine does comes and goes.

    Raises:
        SystemExit: the two do not agree on gold, or on how many rows they hold.
    """
    source = tape(trades)
    spine: list[dict[str, Run]] = []
    limit: list[dict[str, Any]] = []
    database, figures, gold = (
        tier.workplace / name for name in ("limit.duckdb", "limit.json", "gold.csv")
    )
    for number in range(repeat):
        say(f"run {number + 1} of {repeat}: {trades:,} trades")
        store = tier.new_store("speed")
        spine.append(tier.load(source, store))
        measure([sys.executable, LIMIT, source, database, "--json", figures, "--gold", gold])
        limit.append(json.loads(figures.read_text()))
        require_equal(tier.contents(store), limit[-1]["rows"], gold)
    ours = medians([{name: run.seconds for name, run in runs.items()} for runs in spine])
    cpu = medians([{name: run.cpu_seconds for name, run in runs.items()} for runs in spine])
    peaks = {name: median(runs[name].peak_mb for runs in spine) for name in STAGES}
    ratios = [
        sum(run["seconds"].values()) / sum(taken.seconds for taken in runs.values())
        for runs, run in zip(spine, limit, strict=True)
    ]
    figures_of = {
        "trades": trades,
        "rows": limit[0]["rows"],
        "seconds": ours,
        "cpu_seconds": cpu,
        "peak_mb": {**peaks, TOTAL: max(peaks.values())},
        "duckdb": {
            "version": limit[0]["duckdb"],
            "seconds": medians([run["seconds"] for run in limit]),
            "cpu_seconds": medians([run["cpu_seconds"] for run in limit]),
            "peak_mb": median(run["peak_memory_mb"] for run in limit),
        },
        "ratios": ratios,
    }
    show_speed(figures_of)
    name = f"DuckDB's seconds / ours, {trades:,} trades end to end"
    bar = Bar(name=name, value=median(ratios), bound=LEAST_RATIO[tier.name], at_least=True)
    return Report(figures=figures_of, bars=[bar])


def medians(runs: list[dict[str, float]]) -> dict[str, float]:
    """Of each stage, and of the sum of the stages."""
    stages = {name: median(run[name] for run in runs) for name in STAGES}
    return {**stages, TOTAL: median(sum(run.values()) for run in runs)}


def show_speed(figures: dict[str, Any]) -> None:
    rows, duckdb, ratios = figures["rows"]["bronze"], figures["duckdb"], figures["ratios"]
    print(f"\n{figures['trades']:,} trades, {rows:,} rows; gold is equal to the last digit")
    titles = ("s", "CPU s", "rows/s", "peak MB", "DuckDB s", "CPU s", "rows/s", "ratio")
    print(f"{'':<11}" + "".join(f"{title:>11}" for title in titles))
    for name, seconds in figures["seconds"].items():
        limit = duckdb["seconds"][name]
        print(
            f"{name:<11}{seconds:11.2f}{figures['cpu_seconds'][name]:11.2f}{rows / seconds:11,.0f}"
            f"{figures['peak_mb'][name]:11,.0f}{limit:11.2f}{duckdb['cpu_seconds'][name]:11.2f}"
            f"{rows / limit:11,.0f}{limit / seconds:11.2f}"
        )
    print(f"medians of {len(ratios)}; ratio run by run: {', '.join(f'{r:.2f}' for r in ratios)}")
    print(f"DuckDB {duckdb['version']} peaked at {duckdb['peak_mb']:,.0f} MB")


def require_equal(contents: dict[str, Any], counts: dict[str, int], gold: Path) -> None:
    """The same gold to the last digit, and as many rows in every other table."""
    if contents["rows"] != counts:
        raise SystemExit(f"the tables differ in rows: {contents['rows']}, by DuckDB {counts}")
    with gold.open(newline="") as file:
        theirs = list(csv.reader(file))[1:]
    for mine, limit in zip(contents["gold"], theirs, strict=True):
        if mine != limit:
            raise SystemExit(f"gold differs:\n{','.join(mine)}\n{','.join(limit)} by DuckDB")


def memory(tier: Tier, trades: int) -> Report:
    """The peak at a size and at four times that size: what streams does not grow."""
    sizes = (trades, 4 * trades)
    peaks: dict[int, dict[str, float]] = {}
    for size in sizes:
        source = tape(size)
        say(f"memory at {size:,} trades")
        runs = tier.load(source, tier.new_store("memory"))
        peaks[size] = {name: run.peak_mb for name, run in runs.items()}
    print(f"\npeak MB{'':<5}" + "".join(f"{size:>14,}" for size in sizes))
    for name in STAGES:
        print(f"{name:<12}" + "".join(f"{peaks[size][name]:14,.0f}" for size in sizes))
    small, large = (max(peaks[size].values()) for size in sizes)
    return Report(
        figures={"peak_mb": {str(size): peak for size, peak in peaks.items()}},
        bars=[
            Bar(name=f"peak MB at {trades:,} trades", value=small, bound=400),
            Bar(name="peak at four times the trades / peak", value=large / small, bound=1.2),
        ],
    )


def recompute(tier: Tier, trades: int, repeat: int = 15) -> Report:
    """One symbol's day again, in a store and in one of ten times the days.

    The execution's own time counts, from its start to its end as the ledger has them, and not what
    the command takes to start.
    """
    sizes = (trades, 10 * trades)
    stores = {size: loaded(tier, size) for size in sizes}
    days = {size: typical_day(tier, store) for size, store in stores.items()}
    seconds: dict[int, list[float]] = {size: [] for size in sizes}
    say(f"one symbol's day, {repeat} times in each")
    for _ in range(repeat):
        for size, store in stores.items():
            seconds[size].append(recompute_day(tier, store, *days[size][:2]))
    print(f"\n{'one day again':<16}{'trades of it':>14}{'median s':>10}{'least':>8}{'most':>8}")
    for size, taken in seconds.items():
        middle = f"{median(taken):10.3f}{min(taken):8.3f}{max(taken):8.3f}"
        print(f"{size:<16,}{days[size][2]:14,}{middle}")
    return Report(
        figures={
            "days": {str(size): days[size] for size in sizes},
            "seconds": {str(size): taken for size, taken in seconds.items()},
        },
        bars=[
            Bar(
                name="one symbol's day in ten times the trades / in the trades",
                value=median(seconds[sizes[1]]) / median(seconds[sizes[0]]),
                bound=1.5,
            )
        ],
    )


def loaded(tier: Tier, trades: int) -> str:
    """A store with so many trades."""
    source = tape(trades)
    say(f"loading {trades:,} trades")
    store = tier.new_store(f"loaded_{trades}")
    tier.load(source, store)
    return store


def typical_day(tier: Tier, store: str) -> tuple[str, str, int]:
    """The symbol's day whose trades are nearest to a quarter of a day's: as many in any store."""
    days = [(day[0], day[1], int(day[2])) for day in tier.contents(store)["gold"]]
    return min(days, key=lambda day: (abs(day[2] - TRADES_A_DAY // 4), *day))


def recompute_day(tier: Tier, store: str, symbol: str, date: str) -> float:
    """The seconds that the execution took."""
    params = (f"symbol={symbol}", f"start_date={date}", f"end_date={date}")
    given = [part for param in params for part in ("--param", param)]
    execution = tier.ask("run", STAGES["compute"], *given, store=store)
    began, ended = (datetime.fromisoformat(execution[at]) for at in ("started_at", "finished_at"))
    return (ended - began).total_seconds()


def start(tier: Tier, repeat: int = 10) -> Report:
    """How long `spine --help` takes: what nobody should have to wait for."""
    tier.spine("--help")  # the first run compiles
    seconds = [tier.spine("--help").seconds for _ in range(repeat)]
    print(f"\nspine --help: {median(seconds):.3f} s (of {repeat}: {min(seconds):.3f} to ", end="")
    print(f"{max(seconds):.3f})")
    bar = Bar(name="seconds of spine --help", value=median(seconds), bound=0.4)
    return Report(figures={"seconds": seconds}, bars=[bar])
