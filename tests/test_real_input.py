"""Real trades go through a rendered repo with a mapping file alone, and no digit is lost.

The two days of AIG prints are no part of this project: REAL_DATA names the folder that has them, or
the tests are skipped. What is expected is summed here, from the files, in exact fractions.
"""

import csv
import io
import json
import os
import shutil
import zipfile
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from steps import ROOT, TIERS, of_tiers, run

FOLDER = Path(os.environ.get("REAL_DATA", ROOT.parent / "shared/data/real")).absolute()
DAYS = ["2013-10-07", "2013-10-08"]
MAPPING = Path(__file__).with_name("aig.toml")

# Bits of the vendor's flags. These make no price: cash, next day, seller, Form T, extended hours,
# average price, price variation, official close, official open, odd lot. Of these, only the
# official messages are no volume either.
NO_PRICE = {1, 2, 3, 10, 13, 20, 22, 24, 26, 31}
NO_VOLUME = {24, 26}

pytestmark = [
    of_tiers([TIERS[0], TIERS[-1]]),  # on SQLite, and on Postgres with all that is laid over it
    pytest.mark.skipif(
        not FOLDER.is_dir(), reason=f"the real trades are not here: {FOLDER} (REAL_DATA names them)"
    ),
]


def prints_of(day: str) -> list[dict[str, Any]]:
    """A day's prints in the order of time, and within a millisecond in that of the file."""
    with zipfile.ZipFile(FOLDER / f"aig_{day.replace('-', '')}_trade.zip") as archive:
        text = archive.read(archive.namelist()[0]).decode("ascii")
    found = []
    for clock, price, size, exchange, flags, _ in csv.reader(io.StringIO(text)):
        bits = {bit for bit in range(32) if int(flags, 16) >> bit & 1}
        found.append(
            {
                "clock": int(clock),
                "price": Fraction(price) / 10_000,
                "size": Fraction(size),
                "venue": exchange,
                "makes_price": not bits & NO_PRICE,
                "makes_volume": not bits & NO_VOLUME,
            }
        )
    return sorted(found, key=lambda trade: trade["clock"])


def rounded(value: Fraction, places: int) -> Fraction:
    """Half-even, as `round` does it."""
    return Fraction(round(value * 10**places), 10**places)


def expected(day: str) -> dict[str, Any]:
    """The metrics of a day."""
    trades = prints_of(day)
    counted = [trade for trade in trades if trade["makes_volume"]]
    prices = [trade["price"] for trade in trades if trade["makes_price"]]
    volume = sum((trade["size"] for trade in counted), Fraction())
    notional = sum((trade["price"] * trade["size"] for trade in counted), Fraction())
    vwap = notional / volume
    return {
        "symbol": "AIG",
        "date": day,
        "trade_count": len(counted),
        "total_volume": volume,
        "total_notional": notional,
        "vwap": rounded(vwap, 8),
        "high_price": max(prices),
        "low_price": min(prices),
        "open_price": prices[0],
        "close_price": prices[-1],
        "range_bps": rounded((max(prices) - min(prices)) / vwap * 10_000, 4),
        "buy_vwap": None,
        "sell_vwap": None,
        "side_spread_bps": None,
        "venue_count": len({trade["venue"] for trade in counted}),
    }


def metrics(repo: Path) -> list[dict[str, Any]]:
    """What the repo says of both days, its decimals as fractions."""
    days = ["--start", DAYS[0], "--end", DAYS[1]]
    said = run(".venv/bin/spine", "metrics", "daily", "AIG", *days, "--json", cwd=repo)
    names = expected(DAYS[0])
    exact = {name for name, value in names.items() if isinstance(value, Fraction)}
    rows = json.loads(said.stdout)
    for row in rows:
        assert all(isinstance(row[name], str) for name in exact)
    return [
        {name: Fraction(row[name]) if name in exact else row[name] for name in names}
        for row in rows
    ]


@pytest.fixture
def repo(clone: Path) -> Path:
    """A repo that was given the mapping, and nothing else."""
    shutil.copy(MAPPING, clone / "mappings/aig.toml")
    if (clone / "migrations").is_dir():
        run(".venv/bin/spine", "db", "upgrade", cwd=clone)
    return clone


@pytest.fixture
def source() -> list[str]:
    """The params that name the real files."""
    return ["-p", "source=aig", "-p", f"path={FOLDER}/aig_*_trade.zip"]


def test_both_days_are_exact_stage_by_stage(repo: Path, source: list[str]) -> None:
    run(".venv/bin/spine", "run", "otc_ingest", *source, cwd=repo)
    run(".venv/bin/spine", "run", "otc_normalize", cwd=repo)
    run(".venv/bin/spine", "run", "otc_compute_daily_metrics", cwd=repo)
    assert metrics(repo) == [expected(day) for day in DAYS]
    letters = run(".venv/bin/spine", "dead-letters", "list", "--json", cwd=repo)
    assert json.loads(letters.stdout) == []


def test_both_days_are_exact_by_a_backfill_that_runs_twice(repo: Path, source: list[str]) -> None:
    days = ["-p", f"start_date={DAYS[0]}", "-p", f"end_date={DAYS[1]}"]
    for _ in range(2):
        run(".venv/bin/spine", "run", "otc_backfill_range", *source, *days, cwd=repo)
        assert metrics(repo) == [expected(day) for day in DAYS]
