"""What maintainers type: the targets of the Makefile, and what a CI machine calls."""

import shutil
import sys
from itertools import pairwise
from pathlib import Path

import pytest
from steps import TIERS, files_of, lend, run

LAYER = "tiers/{{basic}}"
REPO = f"out/market-spine-{TIERS[0]}"


@pytest.fixture
def desk(checkout: Path, tmp_path: Path) -> Path:
    """A maintainer's clone, set up."""
    run("git", "clone", "--quiet", checkout, "template", cwd=tmp_path)
    return lend(Path(sys.prefix), tmp_path / "template")


def test_render_takes_the_working_tree_and_keeps_what_is_slow_to_make(desk: Path) -> None:
    (desk / LAYER / "NOTES.md").write_text("A draft.\n", "utf-8")
    run("make", "render", cwd=desk)
    assert (desk / REPO / "NOTES.md").is_file()
    (desk / LAYER / "NOTES.md").unlink()
    (desk / REPO / ".venv").mkdir()
    (desk / REPO / ".venv/.done").touch()
    run("make", "render", cwd=desk)
    assert not (desk / REPO / "NOTES.md").exists()
    assert run("make", "--question", ".venv/.done", cwd=desk / REPO).stdout == ""
    assert run("git", "status", "--porcelain", cwd=desk).stdout == ""


def test_render_needs_no_git_checkout(desk: Path) -> None:
    shutil.rmtree(desk / ".git")
    run("make", "render", cwd=desk)
    assert (desk / REPO / "README.md").is_file()


def test_a_changed_lock_makes_the_next_setup_work(desk: Path) -> None:
    run("make", "render", cwd=desk)
    (desk / REPO / ".venv").mkdir()
    (desk / REPO / ".venv/.done").touch()
    locks = desk / "template/locks" / TIERS[0]
    with (locks / "requirements-dev.lock").open("a", encoding="utf-8") as lock:
        lock.write("# changed\n")
    run("make", "render", cwd=desk)
    run("make", "--question", ".venv/.done", cwd=desk / REPO, exit_code=1)


def test_the_book_has_every_file_of_a_tier(desk: Path, tier: str) -> None:
    book = run("make", "book", f"TIER={tier}", cwd=desk).stdout
    assert book.startswith(f"# market-spine-{tier}\n")
    files = files_of(desk / f"out/market-spine-{tier}")
    chapters = [
        line[3:] for line in book.splitlines() if line.startswith("## ") and line[3:] in files
    ]
    assert sorted(set(chapters)) == sorted(files)
    source = files["src/market_spine/ledger.py"].decode()
    assert f"\n## src/market_spine/ledger.py\n\n`````py\n{source}`````\n" in book


def test_the_impact_of_an_edit_is_shown_for_the_tiers_that_it_reaches(desk: Path) -> None:
    assert run("make", "impact", cwd=desk).stdout.endswith("No tier changes.\n")
    (desk / f"tiers/{{{{{TIERS[-1]}}}}}/NOTES.md").write_text("A draft.\n", "utf-8")
    (desk / LAYER / "mappings/otc.toml").unlink()
    partial = desk / "template/normalizer.py.jinja"
    partial.write_text(partial.read_text("utf-8").replace("From bronze", "Out of bronze"), "utf-8")
    said = run("make", "impact", cwd=desk).stdout
    everywhere = ", ".join(TIERS)
    files, _, diffs = said.partition("\n\n")
    assert sorted(files.splitlines()) == [
        f"NOTES.md: {TIERS[-1]}",
        f"mappings/otc.toml: {everywhere}",
        f"src/market_spine/services/otc/normalizer.py: {everywhere}",
    ]
    assert diffs.count('+"""Out of bronze to silver') == 1
    assert f"=== src/market_spine/services/otc/normalizer.py ({everywhere})\n" in diffs


def test_churn_is_measured_and_held_against_the_bars(desk: Path) -> None:
    steps = [" -> ".join(step) for step in pairwise(TIERS)]
    said = run("make", "churn", cwd=desk).stdout.splitlines()
    assert [line for line in said if "->" in line] == steps
    partial = desk / "template/ledger.py.jinja"
    with partial.open("a", encoding="utf-8") as file:
        file.write("{% if intermediate %}# more\n{% else %}# less\n{% endif -%}\n")
    failed = run("make", "churn", cwd=desk, exit_code=2)
    assert "error: src/market_spine/ledger.py: 1 lines changed" in failed.stderr


def test_a_tier_that_does_not_exist_is_named(desk: Path) -> None:
    refused = run("make", "demo", "TIER=platinum", cwd=desk, exit_code=2)
    assert "There is no tier 'platinum'; there are: basic" in refused.stderr


@pytest.mark.parametrize("deployed", [False, True])
def test_ci_brings_up_an_engine_only_for_a_tier_that_is_deployed(
    desk: Path, tmp_path: Path, deployed: bool
) -> None:
    tools = tmp_path / "tools"
    tools.mkdir()
    for name, said in {"engine_up": "the engine is up", "make": "make was told: $* $CI"}.items():
        (tools / name).write_text(f'#!/bin/sh\necho "{said}"\n')
        (tools / name).chmod(0o755)
    if not deployed:
        for folder in desk.glob("tiers/*/deploy"):
            shutil.rmtree(folder)
    path = f"{tools}:/usr/bin:/bin"
    engine_up = str(tools / "engine_up")
    said = run(".ci/run", cwd=desk, PATH=path, ENGINE_UP=engine_up, CI="").stdout
    assert ("the engine is up" in said) is deployed
    assert said.endswith(f"make was told: test {'1' if deployed else ''}\n")
