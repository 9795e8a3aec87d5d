"""A rendered repo keeps its own promises: its code is clean, its demo passes on a fresh clone.

Its tests, which take longest, are run where users run them: those of the lowest tier by its README,
in a fresh clone, and the others' after a promotion from the tier below, with an owner's work in it
(see `test_promotion.py`); but for those that start the server of each backend, which are run here.
"""

import json
import os
import sys
from pathlib import Path

import pytest
from steps import BACKENDS, ROOT, TIERS, expected_metrics, of_tiers, run

METRICS = "metrics daily {} --start 2025-11-24 --end 2025-12-05 --json"


@pytest.mark.parametrize("tool", ["ruff check .", "ruff format --check .", "mypy --strict"])
def test_its_code_is_clean(settled: Path, tool: str) -> None:
    run(settled / ".venv/bin" / tool.split()[0], *tool.split()[1:], cwd=settled)


def test_its_demo_works_twice_and_leaves_git_clean(clone: Path, tier: str) -> None:
    retries = "advanced" in TIERS[: TIERS.index(tier) + 1]
    for _ in range(2):
        said = run("make", "demo", cwd=clone).stdout
        assert ("retry_of" in said) == retries
        days = [day for symbol in symbols() for day in metrics(clone, symbol)]
        assert days == expected_metrics()
    assert run("git", "status", "--porcelain", cwd=clone).stdout == ""


def symbols() -> list[str]:
    return list(dict.fromkeys(row["symbol"] for row in expected_metrics()))


def metrics(repo: Path, symbol: str) -> list[dict[str, str]]:
    """What the repo's own command line says of a symbol's days, as the oracle writes it."""
    said = run(repo / ".venv/bin/spine", *METRICS.format(symbol).split(), cwd=repo).stdout
    names = expected_metrics()[0]
    return [
        {name: "" if day[name] is None else str(day[name]) for name in names}
        for day in json.loads(said)
    ]


@of_tiers(["full"])
def test_every_backend_meets_the_same_demands(clone: Path) -> None:
    """Each in its own environment, on a server of its own, but for one whose server is no wheel."""
    run("make", "backends", cwd=clone)
    said = run(".venv/bin/python", "-m", "pytest", "-rs", BACKENDS, cwd=clone).stdout
    skipped = {line.partition(": ")[2] for line in said.splitlines() if line.startswith("SKIPPED")}
    without = "TEMPORAL_ADDRESS names no server"
    assert any(without in reason for reason in skipped) == ("TEMPORAL_ADDRESS" not in os.environ)
    assert all(without in reason for reason in skipped), said


def test_a_second_setup_has_nothing_to_do(settled: Path) -> None:
    assert "Setting up" not in run("make", "setup", cwd=settled).stdout


def test_an_old_python_is_refused(rendered: Path, tmp_path: Path) -> None:
    old = tmp_path / "python3.10"
    old.write_text(
        f'#!/bin/sh\nexec {sys.executable} -c "import sys; sys.version_info = (3, 10)\n$2"\n'
    )
    old.chmod(0o755)
    for folder, command in ((rendered, "setup"), (ROOT, "setup")):
        venv = f"VENV={tmp_path / 'none'}"
        refused = run("make", command, venv, f"PYTHON={old}", cwd=folder, exit_code=2)
        assert "Python 3.11 or newer is needed" in refused.stderr
        assert not (tmp_path / "none").exists()
