"""A living repo goes up: every pair of tiers, every version, with an owner's work in it.

Pairs come from copier.yml: a tier that is added there is tested here. The template is the working
tree, published under a tag, so that its address and version are those of the real thing.
"""

import shutil
import sys
from itertools import combinations
from pathlib import Path

import owner
import pytest
from steps import TIERS, Answered, commit_all, files_of, run

PAIRS = [*combinations(TIERS, 2)]
LOCKS = ("requirements.lock", "requirements-dev.lock")
TOP = TIERS[-1]


@pytest.fixture(scope="session")
def published(template: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The template as a git repo with a version; tests only read it."""
    folder = tmp_path_factory.mktemp("published") / "template"
    shutil.copytree(template, folder, symlinks=True)
    commit_all(folder)
    run("git", "tag", "v1.0.0", cwd=folder)
    return folder


def made(template: Path, repo: Path, tier: str) -> Path:
    """A repo of the tier, made as users make it, without git."""
    run("copier", "copy", "--defaults", "-d", f"tier={tier}", template, repo, cwd=repo.parent)
    return repo


def living(template: Path, repo: Path, tier: str) -> Path:
    """A repo of the tier under git, as it was made."""
    made(template, repo, tier)
    commit_all(repo)
    return repo


def own(repo: Path, tier: str) -> list[str]:
    """Do an owner's work in it; returns the files that have something at their ends."""
    ends = owner.add_at_ends(repo, files_of(repo))
    owner.work(repo, tier)
    for lock in LOCKS:  # as `make lock` would, which one test runs
        with (repo / lock).open("a", encoding="utf-8") as file:
            file.write(f"{owner.DEPENDENCY}==0 --hash=sha256:0\n")
    return ends


def promote(repo: Path, tier: str, exit_code: int = 0, **more: str) -> Answered:
    """Run `make promote` with the tools at hand instead of a .venv of the repo's own."""
    return make(repo, "promote", f"TIER={tier}", exit_code=exit_code, **more)


def make(repo: Path, *target: str, exit_code: int = 0, **more: str) -> Answered:
    tools = f"BIN={Path(sys.executable).parent}"
    settings = {"YES": "1", **more}
    done = run("make", "-o", "setup", tools, *target, cwd=repo, exit_code=exit_code, **settings)
    assert "Traceback" not in done.stderr
    return done


def committed(repo: Path) -> dict[str, bytes]:
    """The files of a repo, after what is staged has been committed and nothing else is left."""
    run("git", "commit", "--quiet", "--message", "Promote", cwd=repo)
    assert run("git", "status", "--porcelain", cwd=repo).stdout == ""
    return files_of(repo)


@pytest.mark.parametrize(("lower", "higher"), PAIRS)
def test_a_promoted_repo_is_one_that_was_made_of_the_higher_tier(
    lower: str, higher: str, published: Path, tmp_path: Path
) -> None:
    repo = living(published, tmp_path / "repo", lower)
    promote(repo, higher)
    assert committed(repo) == files_of(made(published, tmp_path / "fresh", higher))


@pytest.mark.parametrize(("lower", "higher"), PAIRS)
def test_an_owner_s_work_goes_up_with_the_repo(
    lower: str, higher: str, published: Path, tmp_path: Path
) -> None:
    repo = made(published, tmp_path / "repo", lower)
    ends = own(repo, lower)
    commit_all(repo)
    said = promote(repo, higher).stdout
    promoted = committed(repo)

    fresh = made(published, tmp_path / "fresh", higher)
    locks = {lock: files_of(fresh)[lock] for lock in LOCKS}
    owner.work(fresh, lower)
    owner.add_at_ends(fresh, ends)
    assert promoted == {**files_of(fresh), **locks}
    assert "1. make lock" in said
    edited = said.partition("these were edited here:")[2].partition("\n\n")[0].split()
    assert "pyproject.toml" in edited
    assert "src/market_spine/ledger.py" in edited
    assert "src/market_spine/services/otc/bronze.py" not in edited, "no tier changes it"
