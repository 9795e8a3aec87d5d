"""What the tests start from: the template as the working tree has it, and repos made from it."""

import fcntl
import os
import re
import shutil
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import pytest
from steps import TIERS, commit_all, lend, run, working_tree
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling
from xdist.workermanage import WorkerController

# They take minutes: begun last, they would be waited for; the first takes longer than all others.
LONGEST = (
    f"test_a_living_repo_goes_up_with_its_data_and_passes_its_tests[{TIERS[-1]}]",
    "test_every_backend",
    "test_a_rendered_readme",
    "test_platform",
    "test_compose",
    "test_kubernetes",
    "test_a_living_repo_goes_up",
    "test_this_readme",
    "_promised",
)
# Those whose tests share what takes long to start.
SHARED = re.compile(r"test_(?:compose|kubernetes|platform)\.py::.*\[(?P<tier>\w+)\]$")


@pytest.hookimpl(wrapper=True)
def pytest_xdist_auto_num_workers() -> Generator[None, int, int]:
    """One more than xdist takes, for many tests wait for a container or for another process."""
    return (yield) + 1


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the longest, and with those of the highest tier."""

    def turn(item: pytest.Item) -> tuple[int, int]:
        place = [name in item.nodeid for name in (*LONGEST, "")].index(True)
        return place, -max((TIERS.index(t) for t in TIERS if t in item.nodeid), default=0)

    items.sort(key=turn)
    # Each process has one test in hand and one that waits: behind the longest that is the shortest.
    begun = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "0"))
    if begun and len(items) > 2 * begun:
        items[begun:] = [*items[-begun:], *items[begun:-begun]]


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Let the test that is waited for at the end go before the others."""
    if LONGEST[0] not in item.nodeid and os.nice(0) == 0:
        os.nice(5)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> LoadScopeScheduling:
    """See `OneByOne`."""
    return OneByOne(config, log)


class OneByOne(LoadScopeScheduling):
    """Gives a process one test at a time, and all that share what takes long to start."""

    def _split_scope(self, nodeid: str) -> str:
        shared = SHARED.search(nodeid)
        return f"{nodeid.partition('::')[0]} {shared['tier']}" if shared else nodeid

    def _reschedule(self, node: WorkerController) -> None:
        if not self.workqueue or self._pending_of(self.assigned_work[node]) < 2:
            super()._reschedule(node)


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
    return render_as_users_do(checkout, repo, tier)


def render_as_users_do(checkout: Path, repo: Path, tier: str) -> Path:
    """Render a repo of a tier from the command line."""
    run("copier", "copy", "--defaults", "--data", f"tier={tier}", ".", repo, cwd=checkout)
    return repo


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of all processes that run the tests."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "shared"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def settle(checkout: Path, shared: Path) -> Callable[[str], Path]:
    """Make a repo of a tier under git, with the .venv of its own `make setup`.

    It is made once: the processes that run the tests share it, and only look at it.
    """

    def made(tier: str) -> Path:
        repo = shared / f"market-spine-{tier}"
        with repo.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not (repo / ".venv/.done").exists():
                render_as_users_do(checkout, repo, tier)
                commit_all(repo)
                run("make", "setup", cwd=repo)
                run(".venv/bin/mypy", "--no-error-summary", cwd=repo)  # `lend` lends what it notes
        return repo

    return made


@pytest.fixture(scope="session")
def settled(tier: str, settle: Callable[[str], Path]) -> Path:
    """Such a repo of each tier."""
    return settle(tier)


@pytest.fixture
def clone(settled: Path, tmp_path: Path) -> Path:
    """A fresh clone of that repo, to do things in."""
    repo = tmp_path / settled.name
    run("git", "clone", "--quiet", settled, repo, cwd=tmp_path)
    return lend(settled / ".venv", repo)
