"""Rendering: every way to do it leads to the same repo."""

from pathlib import Path

import pexpect
import pytest
import yaml
from guards import layers
from pytest_copie.plugin import Copie
from steps import QUESTIONS, TIERS, at_a_terminal, files_of, finish, lend, render, run

VISIBLE = [
    name for name in QUESTIONS if name[0] != "_" and QUESTIONS[name].get("when") is not False
]
STEPS = ("1.", "2.", "3.", "4.")  # of the message after a copy
SOURCE = ("_commit", "_src_path")  # where a repo came from: what may differ between two renders


def without_source(repo: Path) -> dict[str, bytes]:
    """A repo's files, but for the note of where it came from."""
    files = files_of(repo)
    answers = yaml.safe_load(files.pop(".copier-answers.yml"))
    kept = {name: answer for name, answer in answers.items() if name not in SOURCE}
    return {**files, "answers": yaml.safe_dump(kept).encode()}


def start_copy(template: Path, repo: Path, *options: str) -> "pexpect.spawn[str]":
    """Start a copy at a terminal."""
    return at_a_terminal("copier", "copy", *options, ".", str(repo), cwd=template)


def test_the_tiers_that_are_offered_are_those_that_exist(template: Path) -> None:
    in_preparation = {name for name in layers(template) if QUESTIONS[name]["default"] == ""}
    assert set(layers(template)) - in_preparation == set(TIERS)
    assert QUESTIONS["tier"]["default"] == TIERS[0]


def test_each_tier_renders(copie: Copie, template: Path, tier: str) -> None:
    result = copie.copy({"tier": tier}, template_dir=template)
    assert result.exception is None
    assert result.answers["tier"] == tier
    assert result.project_dir
    assert (result.project_dir / "src/market_spine/ledger.py").is_file()


def test_rendering_twice_is_identical(copie: Copie, template: Path, tier: str) -> None:
    first, second = (copie.copy({"tier": tier}, template_dir=template) for _ in range(2))
    assert first.project_dir
    assert second.project_dir
    assert files_of(first.project_dir) == files_of(second.project_dir)


def test_copying_over_a_repo_changes_nothing(template: Path, tier: str, tmp_path: Path) -> None:
    repo = render(template, tmp_path / "repo", tier=tier)
    before = files_of(repo)
    run("copier", "copy", "--defaults", "--data", f"tier={tier}", template, repo, cwd=tmp_path)
    assert files_of(repo) == before


def test_a_plain_folder_renders_what_a_git_checkout_does(
    template: Path, rendered: Path, tier: str, tmp_path: Path
) -> None:
    repo = render(template, tmp_path / "repo", tier=tier)
    assert without_source(repo) == without_source(rendered)


def test_a_clone_of_a_clone_renders_too(
    checkout: Path, rendered: Path, tier: str, tmp_path: Path
) -> None:
    run("git", "clone", "--quiet", "--no-tags", checkout, "clone", cwd=tmp_path)
    repo = render(tmp_path / "clone", tmp_path / "repo", tier=tier)
    assert without_source(repo) == without_source(rendered)


def test_pressing_enter_at_every_question_gives_the_defaults(
    checkout: Path, rendered: Path, tier: str, tmp_path: Path
) -> None:
    terminal = start_copy(checkout, tmp_path / "repo", "--data", f"tier={tier}")
    for name in VISIBLE:
        if name != "tier":
            terminal.expect_exact(QUESTIONS[name]["help"])
            terminal.send("\r")
    assert "What to type next" in finish(terminal)
    assert without_source(tmp_path / "repo") == without_source(rendered)


def test_the_first_tier_is_chosen_by_pressing_enter(checkout: Path, tmp_path: Path) -> None:
    terminal = start_copy(checkout, tmp_path / "repo")
    for name in VISIBLE:
        terminal.expect_exact(QUESTIONS[name]["help"][:40])
        terminal.send("\r")
    finish(terminal)
    answers = yaml.safe_load((tmp_path / "repo/.copier-answers.yml").read_text("utf-8"))
    assert answers["tier"] == TIERS[0]


def test_a_bad_answer_at_the_terminal_can_be_corrected(checkout: Path, tmp_path: Path) -> None:
    terminal = start_copy(checkout, tmp_path / "repo", "--data", f"tier={TIERS[0]}")
    terminal.expect_exact(QUESTIONS["project_name"]["help"])
    terminal.send("\x15\r")  # Ctrl-U: what is there goes
    terminal.expect_exact("The project's name is 1 to 80 printable characters")
    terminal.send("Acme\r")
    for name in ("project_description", "author"):
        terminal.expect_exact(QUESTIONS[name]["help"])
        terminal.send("\r")
    finish(terminal)
    assert (tmp_path / "repo/README.md").read_text("utf-8").startswith("# Acme\n")


def test_a_draft_of_the_template_can_be_rendered(checkout: Path, tmp_path: Path) -> None:
    run("git", "clone", "--quiet", checkout, "clone", cwd=tmp_path)
    (tmp_path / "clone/tiers/{{basic}}/DRAFT.md").write_text("A draft.\n", "utf-8")
    run("git", "tag", "v1", cwd=tmp_path / "clone")
    options = ["--defaults", "--vcs-ref", "HEAD"]
    run("copier", "copy", *options, "clone", "repo", cwd=tmp_path)
    assert (tmp_path / "repo/DRAFT.md").is_file()


@pytest.mark.parametrize("folder", ["my-spine", "it's my spine"])
def test_the_message_after_a_copy_can_be_pasted(
    checkout: Path, settled: Path, tmp_path: Path, folder: str
) -> None:
    tier = settled.name.removeprefix("market-spine-")
    copied = run(
        "copier", "copy", "--defaults", "-d", f"tier={tier}", checkout, folder, cwd=tmp_path
    )
    steps = [line.strip() for line in copied.stderr.splitlines() if line.strip()[:2] in STEPS]
    assert len(steps) == len(STEPS), copied.stderr
    commands = [step.split(". ", 1)[1] for step in steps]
    assert commands.pop() == "make test", "which the README's test runs, for it takes longest"
    if folder != "my-spine":
        commands = commands[:2]  # the rest does not depend on the folder's name
    else:
        lend(settled / ".venv", tmp_path / folder)
    pasted = run("sh", "-ec", "\n".join([*commands, "git log --oneline"]), cwd=tmp_path)
    assert pasted.stdout.endswith("Begin\n")
    assert ("$ spine run otc_ingest" in pasted.stdout) is ("demo" in "".join(commands))
