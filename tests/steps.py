"""What the tests do, in one word each: run a command, render a repo, read its text.

Every command runs as on a user's machine: without this test run's own environment and, unless the
test says so, without a terminal; what it printed is shown when it fails.
"""

import csv
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pexpect
import pytest
import yaml
from copier import run_copy

ROOT = Path(__file__).parent.parent
QUESTIONS: dict[str, Any] = yaml.safe_load((ROOT / "copier.yml").read_text("utf-8"))
TIERS: list[str] = list(QUESTIONS["tier"]["choices"])
BACKENDS = "tests/backends/conformance"  # of `full`: each backend on a server of its own
IGNORED = [line.rstrip("/") for line in (ROOT / ".gitignore").read_text("utf-8").splitlines()]


def _has_docker() -> bool:
    """Whether a Docker engine answers; where tests must not be skipped, it has to."""
    if os.environ.get("CI"):
        return True
    docker = shutil.which("docker")
    if docker is None:
        return False
    return subprocess.run([docker, "info"], capture_output=True).returncode == 0


needs_docker = pytest.mark.skipif(not _has_docker(), reason="there is no Docker engine")

Answered = subprocess.CompletedProcess[str]

BLOCK = re.compile(
    r"(?:<!-- not run: (?P<reason>.+?) -->\n)?```(?:sh|console)\n(?P<text>.*?)```", re.S
)


def of_tiers(tiers: list[str]) -> pytest.MarkDecorator:
    """Run a test for some of the tiers; for one that is in preparation it is skipped."""
    offered = [tier for tier in tiers if tier in TIERS]
    return pytest.mark.parametrize("tier", offered, indirect=True, scope="session")


def environment(**more: str) -> dict[str, str]:
    """The environment of a user who has Copier, this Python, and a name in git."""
    ours = ("MAKE", "MFLAGS", "TIER", "VENV", "VIRTUAL_ENV", "PYTHONPATH", "PYTEST", "DATABASE_URL")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    git = {
        f"GIT_{who}_{what}": "user@example.com"
        for who in ("AUTHOR", "COMMITTER")
        for what in ("NAME", "EMAIL")
    }
    path = f"{Path(sys.executable).parent}{os.pathsep}{kept['PATH']}"
    alone = {"PYTEST_XDIST_AUTO_NUM_WORKERS": "1"}  # since other tests are run on the other cores
    return {**kept, **git, **alone, "PATH": path, "PYTHON": sys.executable, **more}


def run(*command: str | Path, cwd: Path, exit_code: int = 0, **more: str) -> Answered:
    """Run a command and see that it ends with the exit code that is expected."""
    __tracebackhide__ = True
    done = subprocess.run(
        [str(word) for word in command],
        cwd=cwd,
        env=environment(**more),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    said = f"{done.stdout}{done.stderr}"[-8000:]
    told = f"$ {shlex.join(map(str, command))}\n(in {cwd}, exit code {done.returncode})\n{said}"
    assert done.returncode == exit_code, told
    return done


def at_a_terminal(*command: str, cwd: Path) -> "pexpect.spawn[str]":
    """Start a command where somebody can answer."""
    return pexpect.spawn(
        command[0],
        [*command[1:]],
        cwd=cwd,
        env=environment(),
        encoding="utf-8",
        dimensions=(40, 160),
        timeout=60,
    )


def finish(terminal: "pexpect.spawn[str]") -> str:
    """What a command at a terminal says until it ends, well."""
    said = terminal.read()
    terminal.close()
    assert terminal.exitstatus == 0, said
    return said


def working_tree(folder: Path) -> Path:
    """The template as it stands here, in a plain folder without git."""
    left_out = shutil.ignore_patterns(".git", *IGNORED)
    return shutil.copytree(ROOT, folder, symlinks=True, ignore=left_out)


def render(template: Path, repo: Path, **answers: str) -> Path:
    """Render a repo with the given answers and the defaults of the rest, without trust."""
    run_copy(str(template), repo, data=answers, defaults=True, quiet=True)
    return repo


def commit_all(repo: Path) -> None:
    """Make a folder a git repo with one commit."""
    run("git", "init", "--quiet", cwd=repo)
    run("git", "add", "--all", cwd=repo)
    run("git", "commit", "--quiet", "--message", "Begin", cwd=repo)


def link_or_copy(source: str, target: str) -> None:
    """Make a file stand in a second place, with as little work as the file systems allow."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def lend(venv: Path, repo: Path) -> Path:
    """Give a repo what `make setup` makes, from another's .venv: seconds instead of a minute.

    And what mypy has noted there, which holds for the files that are the same.
    """
    borrowed = repo / ".venv"
    shutil.copytree(venv, borrowed, symlinks=True, copy_function=link_or_copy)
    old, new = str(venv.parent).encode(), str(repo).encode()
    packages = next(borrowed.glob("lib/python*/site-packages"))
    installed = [*packages.glob("*.pth"), *packages.glob("*.dist-info/direct_url.json")]
    for file in [*(borrowed / "bin").iterdir(), *installed]:
        if not file.is_symlink() and old in (text := file.read_bytes()):
            mode = file.stat().st_mode
            file.unlink()  # for it may be the other's file as well
            file.write_bytes(text.replace(old, new))
            file.chmod(mode)
    if (noted := venv.parent / ".mypy_cache").is_dir() and not (repo / noted.name).exists():
        shutil.copytree(noted, repo / noted.name)
    (borrowed / ".done").unlink(missing_ok=True)
    (borrowed / ".done").touch()
    return repo


def files_of(repo: Path) -> dict[str, bytes]:
    """Every file that was rendered: its path and what is in it."""
    return {
        path.relative_to(repo).as_posix(): path.read_bytes()
        for path in sorted(repo.rglob("*"))
        if path.is_file() and not {".git", ".venv"} & set(path.relative_to(repo).parts)
    }


def expected_metrics() -> list[dict[str, str]]:
    """What the oracle says of the sample."""
    with (ROOT / "data/otc_expected_metrics.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


class Block(NamedTuple):
    """Commands, and why they are not run here, if they are not."""

    text: str
    reason: str | None


def blocks_of(readme: Path) -> list[Block]:
    """The commands of a README."""
    found = [Block(m["text"], m["reason"]) for m in BLOCK.finditer(readme.read_text("utf-8"))]
    assert found, f"{readme} has no commands"
    return found


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
    return port
