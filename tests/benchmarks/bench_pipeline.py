"""Measure a rendered tier against the bars it must meet, on trades made by the seeded generator.

Everything measured is a process of its own, started here with a store of its own, and asked of the
operating system for its time and its peak memory. This process stays small and imports nothing
large, because a child's peak memory on Linux begins at its parent's.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import os
import platform
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from decimal import Decimal
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
BENCH = ROOT / ".bench"
GENERATOR = ROOT / "data" / "generate_otc_trades.py"
LIMIT = Path(__file__).with_name("duckdb_limit.py")

# A tape grows by days: at every size a day, and so a symbol's day, has as many trades.
TRADES_A_DAY = 50_000
SHARES = {"malformed": 0.001, "duplicates": 0.01, "corrections": 0.005, "cancels": 0.005}
SEED = 20251124

STAGES = {
    "ingest": "otc_ingest",
    "normalize": "otc_normalize",
    "compute": "otc_compute_daily_metrics",
}
TOTAL = "end to end"
# Gold as SQLite holds it: integers, scaled by ten to this power; None is text or a plain number.
SCALES: dict[str, int | None] = {
    "symbol": None,
    "date": None,
    "trade_count": None,
    "total_volume": 6,
    "total_notional": 6,
    "vwap": 8,
    "high_price": 6,
    "low_price": 6,
    "open_price": 6,
    "close_price": 6,
    "range_bps": 4,
    "buy_vwap": 8,
    "sell_vwap": 8,
    "side_spread_bps": 4,
    "venue_count": None,
}
ROW_COUNTS = {
    "bronze": "SELECT count(*) FROM otc_trades_raw",
    "silver": "SELECT count(*) FROM otc_trades WHERE known_to IS NULL",
    "gold": "SELECT count(*) FROM otc_metrics_daily",
    "dead_letters": (
        "SELECT count(*) FROM dead_letters WHERE kind = 'record' AND closed_at IS NULL"
    ),
}


@dataclass(frozen=True, kw_only=True)
class Run:
    """What a process took."""

    seconds: float
    cpu_seconds: float  # tells a busy machine, on which the seconds grow and these hardly do
    peak_mb: float


@dataclass(frozen=True, kw_only=True)
class Bar:
    """A figure and what it must reach."""

    name: str
    value: float
    bound: float
    at_least: bool = False  # otherwise at most

    @property
    def met(self) -> bool:
        return self.value >= self.bound if self.at_least else self.value <= self.bound

    def __str__(self) -> str:
        sign = ">=" if self.at_least else "<="
        verdict = "met" if self.met else "NOT MET"
        return f"{verdict:<8} {self.name}: {self.value:.2f} ({sign} {self.bound:g})"


@dataclass(frozen=True, kw_only=True)
class Report:
    """The figures of one measurement, and the bars among them."""

    figures: dict[str, Any]
    bars: list[Bar]


# --- processes ----------------------------------------------------------------------------------


def measure(argv: Sequence[str | Path], store: Path | None = None, cwd: Path | None = None) -> Run:
    """Run a command to its end.

    Raises:
        SystemExit: it failed; with what it printed.
    """
    env = dict(os.environ)
    env.pop("DATABASE_URL", None)
    if store:
        env["DATABASE_URL"] = f"sqlite:///{store}"
    with tempfile.TemporaryFile() as printed:
        began = time.perf_counter()
        process = subprocess.Popen(
            argv, cwd=cwd, env=env, stdin=subprocess.DEVNULL, stdout=printed, stderr=printed
        )
        _, status, usage = os.wait4(process.pid, 0)  # this child's own usage, not all children's
        seconds = time.perf_counter() - began
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            printed.seek(0)
            command = " ".join(map(str, argv))
            raise SystemExit(f"{command}\n{printed.read().decode()[-4000:]}")
    kilobytes = usage.ru_maxrss / (1024 if sys.platform == "darwin" else 1)
    cpu_seconds = usage.ru_utime + usage.ru_stime
    return Run(seconds=seconds, cpu_seconds=cpu_seconds, peak_mb=kilobytes / 1024)


@dataclass(frozen=True)
class Tier:
    """A tier, rendered and set up as its owner would have it."""

    folder: Path

    def spine(self, *arguments: str, store: Path | None = None) -> Run:
        return measure([self.folder / ".venv/bin/spine", *arguments], store, self.folder)

    def load(self, tape: Path, store: Path) -> dict[str, Run]:
        """The three stages over a tape, into a fresh store."""
        remove(store)
        params = {"ingest": ["--param", f"path={tape}"]}
        return {
            stage: self.spine("run", pipeline, *params.get(stage, []), store=store)
            for stage, pipeline in STAGES.items()
        }


@contextmanager
def rendered(tier: str) -> Iterator[Tier]:
    """Render the working tree's template, uncommitted edits too, and set up its environment."""
    say(f"rendering {tier} and setting it up")
    with tempfile.TemporaryDirectory(prefix=f"bench-{tier}-") as folder:
        destination = Path(folder, f"market-spine-{tier}")
        copier = [sys.executable, "-m", "copier", "copy", "--quiet", "--defaults"]
        measure([*copier, "--vcs-ref=HEAD", f"--data=tier={tier}", ROOT, destination])
        measure(["make", "setup", f"PYTHON={sys.executable}"], cwd=destination)
        yield Tier(destination)


@contextmanager
def workplace() -> Iterator[Path]:
    """A folder for the stores, on the disk of the repo; the system's own may be in memory."""
    with tempfile.TemporaryDirectory(prefix="run-", dir=bench_folder()) as folder:
        yield Path(folder)


def remove(store: Path) -> None:
    for suffix in ("", "-wal", "-shm", ".wal"):
        store.with_name(store.name + suffix).unlink(missing_ok=True)


def bench_folder() -> Path:
    """Where tapes and results are kept; the folder tells git to ignore it."""
    BENCH.mkdir(exist_ok=True)
    (BENCH / ".gitignore").write_text("*\n")
    return BENCH


def tape(trades: int) -> Path:
    """The CSV of so many trades, made once for all that it depends on."""
    days = max(1, trades // TRADES_A_DAY)
    options = {"trades": trades, "days": days, **SHARES, "seed": SEED}
    arguments = [f"--{name}={value}" for name, value in options.items()]
    key = hashlib.sha256(" ".join(arguments).encode() + GENERATOR.read_bytes()).hexdigest()[:12]
    path = bench_folder() / f"otc-{trades}-{key}.csv"
    if not path.exists():
        say(f"generating {trades:,} trades over {days} days")
        partial = path.with_suffix(".part")
        measure([sys.executable, GENERATOR, *arguments, f"--out={partial}"])
        partial.rename(path)
    return path


def say(text: str) -> None:
    print(f"... {text}", file=sys.stderr, flush=True)


# --- the measurements ---------------------------------------------------------------------------


def speed(tier: Tier, trades: int, repeat: int) -> Report:
    """Each stage beside DuckDB's, alternately, because what else the machine does comes and goes.

    Raises:
        SystemExit: the two do not agree on gold, or on how many rows they hold.
    """
    source = tape(trades)
    spine: list[dict[str, Run]] = []
    limit: list[dict[str, Any]] = []
    with workplace() as folder:
        store, database = folder / "spine.db", folder / "limit.duckdb"
        figures, gold = folder / "limit.json", folder / "gold.csv"
        for number in range(repeat):
            say(f"run {number + 1} of {repeat}: {trades:,} trades")
            spine.append(tier.load(source, store))
            measure([sys.executable, LIMIT, source, database, "--json", figures, "--gold", gold])
            limit.append(json.loads(figures.read_text()))
            require_equal(store, limit[-1]["rows"], gold)
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
    bar = Bar(name=name, value=median(ratios), bound=0.30, at_least=True)
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


def require_equal(store: Path, counts: dict[str, int], gold: Path) -> None:
    """The same gold to the last digit, and as many rows in every other table."""
    with closing(sqlite3.connect(store)) as connection:
        found = {name: connection.execute(sql).fetchone()[0] for name, sql in ROW_COUNTS.items()}
        rows = connection.execute(
            f"SELECT {', '.join(SCALES)} FROM otc_metrics_daily ORDER BY symbol, date"
        ).fetchall()
    ours = [tuple(map(text_of, row, SCALES.values())) for row in rows]
    with gold.open(newline="") as file:
        theirs = [tuple(row) for row in list(csv.reader(file))[1:]]
    if found != counts:
        raise SystemExit(f"the tables differ in rows: {found}, by DuckDB {counts}")
    for mine, limit in zip(ours, theirs, strict=True):
        if mine != limit:
            raise SystemExit(f"gold differs:\n{','.join(mine)}\n{','.join(limit)} by DuckDB")


def text_of(value: Any, scale: int | None) -> str:
    if value is None:
        return ""
    return str(value) if scale is None else f"{Decimal(value).scaleb(-scale):f}"


def memory(tier: Tier, trades: int) -> Report:
    """The peak at a size and at four times that size: what streams does not grow."""
    sizes = (trades, 4 * trades)
    peaks: dict[int, dict[str, float]] = {}
    with workplace() as folder:
        for size in sizes:
            source = tape(size)
            say(f"memory at {size:,} trades")
            runs = tier.load(source, folder / "spine.db")
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


def recompute(tier: Tier, trades: int, repeat: int = 5) -> Report:
    """One symbol's day again, in a store and in one of ten times the days.

    What `spine` takes to start is measured by the same command over a day without trades.
    """
    sizes = (trades, 10 * trades)
    days: dict[int, tuple[str, str, int]] = {}
    seconds: dict[int, dict[str, list[float]]] = {
        size: {"raw": [], "no work": []} for size in sizes
    }
    with workplace() as folder:
        for size in sizes:
            source = tape(size)
            say(f"loading {size:,} trades")
            tier.load(source, folder / f"{size}.db")
            days[size] = typical_day(folder / f"{size}.db")
        for number in range(repeat):
            say(f"run {number + 1} of {repeat}: one symbol's day")
            for size in sizes:
                symbol, day, _ = days[size]
                for kind, date in (("no work", "2199-12-31"), ("raw", day)):
                    run = recompute_day(tier, folder / f"{size}.db", symbol, date)
                    seconds[size][kind].append(run.seconds)
    raw = [median(seconds[size]["raw"]) for size in sizes]
    idle = [median(seconds[size]["no work"]) for size in sizes]
    net = [a - b for a, b in zip(raw, idle, strict=True)]
    print(f"\n{'one day again':<16}{'trades of it':>14}{'raw s':>9}{'no work s':>11}{'net s':>9}")
    for size, *taken in zip(sizes, raw, idle, net, strict=True):
        print(f"{size:<16,}{days[size][2]:14,}{taken[0]:9.3f}{taken[1]:11.3f}{taken[2]:9.3f}")
    return Report(
        figures={
            "days": {str(size): days[size] for size in sizes},
            "seconds": {str(size): seconds[size] for size in sizes},
            "net_seconds": {str(size): value for size, value in zip(sizes, net, strict=True)},
        },
        bars=[
            Bar(
                name="one symbol's day in ten times the trades / in the trades, net",
                value=net[1] / net[0],
                bound=1.5,
            )
        ],
    )


def recompute_day(tier: Tier, store: Path, symbol: str, date: str) -> Run:
    params = (f"symbol={symbol}", f"start_date={date}", f"end_date={date}")
    arguments = [part for param in params for part in ("--param", param)]
    return tier.spine("run", STAGES["compute"], *arguments, store=store)


def typical_day(store: Path) -> tuple[str, str, int]:
    """The symbol's day whose trades are nearest to a quarter of a day's: as many in any store."""
    with closing(sqlite3.connect(store)) as connection:
        found: tuple[str, str, int] = connection.execute(
            "SELECT symbol, date, trade_count FROM otc_metrics_daily "
            "ORDER BY abs(trade_count - ?), symbol, date",
            (TRADES_A_DAY // 4,),
        ).fetchone()
    return found


def start(tier: Tier, repeat: int = 10) -> Report:
    """How long `spine --help` takes: what nobody should have to wait for."""
    tier.spine("--help")  # the first run compiles
    seconds = [tier.spine("--help").seconds for _ in range(repeat)]
    print(f"\nspine --help: {median(seconds):.3f} s (of {repeat}: {min(seconds):.3f} to ", end="")
    print(f"{max(seconds):.3f})")
    bar = Bar(name="seconds of spine --help", value=median(seconds), bound=0.4)
    return Report(figures={"seconds": seconds}, bars=[bar])


# --- the command --------------------------------------------------------------------------------


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure a rendered tier against its bars.")
    parser.add_argument("--tier", default="basic")
    parser.add_argument("--trades", type=int, default=1_000_000)
    parser.add_argument("--repeat", type=int, default=3, help="runs of `speed`; medians are shown")
    measurements: dict[str, Callable[[Tier], Report]] = {
        "speed": lambda tier: speed(tier, args.trades, args.repeat),
        "memory": lambda tier: memory(tier, args.trades),
        "recompute": lambda tier: recompute(tier, args.trades),
        "start": start,
    }
    parser.add_argument("what", nargs="?", choices=[*measurements, "all"], default="speed")
    args = parser.parse_args()
    with rendered(args.tier) as tier:
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
