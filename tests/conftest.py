"""What the tests start from: the template as the working tree has it, and repos made from it."""

import fcntl
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from steps import TIERS, commit_all, lend, run, working_tree

# They take minutes: begun last, they would be waited for.
LONGEST = (
    "test_a_living_repo_goes_up",
    "test_a_rendered_readme",
    "test_compose",
    "test_platform",
    "test_kubernetes",
    "_promised",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the longest, and with those of the highest tier."""

    def turn(item: pytest.Item) -> tuple[int, int]:
        place = [name in item.nodeid for name in (*LONGEST, "")].index(True)
        return place, -max((TIERS.index(t) for t in TIERS if t in item.nodeid), default=0)

    items.sort(key=turn)


@pytest.fixture(scope="session", autouse=True)
def _no_data_left(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Remove what root's embedded servers keep outside of pytest's private folders."""
    yield
    base = tmp_path_factory.getbasetemp().resolve()
    for home in Path("/var/lib").glob("market-spine-*"):
        repo = home / "repo"
        if repo.is_symlink() and repo.readlink().is_relative_to(base):
            with (home / "lock").open() as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)  # it is free when the server has stopped
                shutil.rmtree(home)


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The template in a plain folder, without git."""
    return working_tree(tmp_path_factory.mktemp("plain") / "template")


@pytest.fixture(scope="session")
def checkout(template: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The template in a git checkout, without tags."""
    folder = tmp_path_factory.mktemp("git") / "template"
    shutil.copytree(template, folder, symlinks=True)
    commit_all(folder)
    return folder


@pytest.fixture(scope="session", params=TIERS)
def tier(request: pytest.FixtureRequest) -> str:
    """Every tier in turn."""
    return str(request.param)


@pytest.fixture(scope="session")
def rendered(tier: str, checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repo of the tier, just rendered; tests only look at it."""
    repo = tmp_path_factory.mktemp(tier) / f"market-spine-{tier}"
    run("copier", "copy", "--defaults", "--data", f"tier={tier}", ".", repo, cwd=checkout)
    return repo


@pytest.fixture(scope="session")
def settled(rendered: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """That repo under git, with the .venv of its own `make setup`; tests only look at it.

    The processes that run the tests share it.
    """
    base = tmp_path_factory.getbasetemp()
    repo = (
        (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "settled" / rendered.name
    )
    repo.parent.mkdir(exist_ok=True)
    with repo.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (repo / ".venv/.done").exists():
            shutil.copytree(rendered, repo)
            commit_all(repo)
            run("make", "setup", cwd=repo)
    return repo


@pytest.fixture
def clone(settled: Path, tmp_path: Path) -> Path:
    """A fresh clone of that repo, to do things in."""
    repo = tmp_path / settled.name
    run("git", "clone", "--quiet", settled, repo, cwd=tmp_path)
    return lend(settled / ".venv", repo)
