"""What the benchmarks share: processes that are measured, a rendered tier, stores and tapes.

Everything measured is a process of its own, started here with a store of its own, and asked of the
operating system for its time and its peak memory. This process stays small and imports nothing
large, because a child's peak memory on Linux begins at its parent's.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
BENCH = ROOT / ".bench"
GENERATOR = ROOT / "data" / "generate_otc_trades.py"

# A tape grows by days: at every size a day, and so a symbol's day, has as many trades.
TRADES_A_DAY = 50_000
SHARES = {"malformed": 0.001, "duplicates": 0.01, "corrections": 0.005, "cancels": 0.005}
SEED = 20251124

STAGES = {
    "ingest": "otc_ingest",
    "normalize": "otc_normalize",
    "compute": "otc_compute_daily_metrics",
}

# What is asked of a store, by the tier's own code: its rows by table, and gold, oldest day first.
READ_STORE = """
import json
from sqlalchemy import func, select
from market_spine import database
from market_spine.schema import dead_letters, otc_metrics_daily, otc_trades, otc_trades_raw
letters, silver, gold = dead_letters.c, otc_trades.c, otc_metrics_daily
counts = {
    "bronze": select(func.count()).select_from(otc_trades_raw),
    "silver": select(func.count()).where(silver.known_to.is_(None)),
    "gold": select(func.count()).select_from(gold),
    "dead_letters": select(func.count()).where(
        letters.kind == "record", letters.closed_at.is_(None)
    ),
}
columns = [column for column in gold.c if column.name != "computed_at"]
with database.snapshot() as connection:
    rows = {name: connection.execute(count).scalar_one() for name, count in counts.items()}
    days = connection.execute(select(*columns).order_by(gold.c.symbol, gold.c.date)).all()
texts = [["" if value is None else str(value) for value in day] for day in days]
print(json.dumps({"rows": rows, "gold": texts}))
"""

# The tier's own servers, for as long as standard input is open. The first line tells where the
# broker is, if there is one; each line that is read names a database that is made anew, and is
# answered by its URL: then the broker is empty, too. With a broker, Postgres notes each commit's
# instant.
SERVE = """
import os
import sys
from sqlalchemy import create_engine, make_url
from market_spine import embedded
os.makedirs(sys.argv[1])
os.chdir(sys.argv[1])
def engine_of(url):
    return create_engine(url, isolation_level="AUTOCOMMIT")
with embedded.server(embedded.FOLDER) as url:
    held = embedded.hold()
    broker = held.urls.get("valkey", "")
    if broker:
        with engine_of(url).connect() as connection:
            connection.exec_driver_sql("ALTER SYSTEM SET track_commit_timestamp = on")
    os.close(held.descriptor)
with embedded.server(embedded.FOLDER) as url:
    print(broker, flush=True)
    for name in map(str.strip, sys.stdin):
        with engine_of(url).connect() as connection:
            connection.exec_driver_sql(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
            connection.exec_driver_sql(f"CREATE DATABASE {name}")
        if broker:
            from redis import Redis
            Redis(unix_socket_path=broker.removeprefix("redis+socket://")).flushall()
        print(make_url(url).set(database=name).render_as_string(False), flush=True)
"""


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


def say(text: str) -> None:
    print(f"... {text}", file=sys.stderr, flush=True)


# --- processes ----------------------------------------------------------------------------------


def environment(url: str | None = None) -> dict[str, str]:
    """This process's, without a store or a broker of somebody else's."""
    foreign = ("SPINE_", "DATABASE_URL", "REDIS_URL")
    env = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    return {**env, "DATABASE_URL": url} if url else env


def measure(
    argv: Sequence[str | Path], env: dict[str, str] | None = None, cwd: Path | None = None
) -> Run:
    """Run a command to its end.

    Raises:
        SystemExit: it failed; with what it printed.
    """
    with tempfile.TemporaryFile() as printed:
        began = time.perf_counter()
        process = subprocess.Popen(
            argv,
            cwd=cwd,
            env=env or environment(),
            stdin=subprocess.DEVNULL,
            stdout=printed,
            stderr=printed,
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
    """A tier, rendered and set up as its owner would have it, and where its stores are made."""

    name: str
    folder: Path
    workplace: Path
    server: subprocess.Popen[str] | None  # makes databases, where the tier's default is Postgres
    broker: str  # its URL, where the tier has a fleet of workers; or else nothing

    @property
    def python(self) -> Path:
        return self.folder / ".venv/bin/python"

    @property
    def command(self) -> Path:
        return self.folder / ".venv/bin/spine"

    def environment(self, store: str | None = None) -> dict[str, str]:
        """Of a process that is to use a store, and the broker."""
        return environment(store) | ({"REDIS_URL": self.broker} if self.broker else {})

    def spine(self, *arguments: str, store: str | None = None) -> Run:
        return measure([self.command, *arguments], self.environment(store), self.folder)

    def ask(self, *arguments: str, store: str) -> Any:
        """What a command answers as JSON."""
        return self._json([self.command, *arguments, "--json"], store)

    def new_store(self, name: str) -> str:
        """The URL of an empty store, of the kind that is the tier's default."""
        if self.server is None:
            path = self.workplace / f"{name}.db"
            for suffix in ("", "-wal", "-shm"):
                path.with_name(path.name + suffix).unlink(missing_ok=True)
            return f"sqlite:///{path}"
        url = self.new_database(name)
        self.spine("db", "upgrade", store=url)
        return url

    def new_database(self, name: str) -> str:
        """The URL of a database without a table, on the tier's Postgres."""
        assert self.server
        assert self.server.stdin
        assert self.server.stdout
        print(name, file=self.server.stdin, flush=True)
        url = self.server.stdout.readline().strip()
        if not url:
            raise SystemExit(f"the tier's Postgres made no database {name}")
        return url

    def load(self, tape: Path, store: str) -> dict[str, Run]:
        """The three stages over a tape, into an empty store."""
        params = {"ingest": ["--param", f"path={tape}"]}
        return {
            stage: self.spine("run", pipeline, *params.get(stage, []), store=store)
            for stage, pipeline in STAGES.items()
        }

    def ask_python(self, *arguments: str | Path, store: str) -> Any:
        """What Python answers as JSON, in the tier's environment."""
        return self._json([self.python, *arguments], store)

    def contents(self, store: str) -> dict[str, Any]:
        """How many rows each table has, and gold as text."""
        found: dict[str, Any] = self.ask_python("-c", READ_STORE, store=store)
        return found

    def _json(self, argv: Sequence[str | Path], store: str) -> Any:
        done = subprocess.run(
            argv,
            cwd=self.folder,
            env=self.environment(store),
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise SystemExit(done.stderr)
        return json.loads(done.stdout)


@contextmanager
def rendered(name: str) -> Iterator[Tier]:
    """Render the working tree's template, uncommitted edits too, and set up its environment.

    Stores are made on the disk of this repo, because the system's own folder may be in memory.
    """
    say(f"rendering {name} and setting it up")
    with ExitStack() as held:
        home = Path(held.enter_context(tempfile.TemporaryDirectory(prefix=f"bench-{name}-")))
        stores = tempfile.TemporaryDirectory(prefix="run-", dir=bench_folder())
        workplace = Path(held.enter_context(stores))
        repo = home / f"market-spine-{name}"
        copier = [sys.executable, "-W", "ignore", "-m", "copier", "copy", "--quiet", "--defaults"]
        measure([*copier, "--vcs-ref=HEAD", f"--data=tier={name}", ROOT, repo])
        measure(["make", "setup", f"PYTHON={sys.executable}"], cwd=repo)
        server, broker = None, ""
        if (repo / "src/market_spine/embedded").is_dir():
            server = subprocess.Popen(
                [repo / ".venv/bin/python", "-c", SERVE, workplace / "servers"],
                cwd=repo,
                env=environment(),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            held.enter_context(server)  # at the end its input is closed, and with that it ends
            assert server.stdout
            broker = server.stdout.readline().strip()
        yield Tier(name, repo, workplace, server, broker)


def bench_folder() -> Path:
    """Where tapes and results are kept; the folder tells git to ignore it."""
    BENCH.mkdir(exist_ok=True)
    (BENCH / ".gitignore").write_text("*\n")
    return BENCH


def tape(trades: int, days: int | None = None) -> Path:
    """The CSV of so many trades, made once for all that it depends on."""
    days = days or max(1, trades // TRADES_A_DAY)
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
