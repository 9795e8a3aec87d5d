"""What Docker is given by scripts/compose.sh, with a program in its place that only says so."""

import os
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.support import REPO

COMPOSE = REPO / "deploy/compose"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A repo's files for Compose, and a `docker`."""
    (tmp_path / "deploy").mkdir()
    (tmp_path / "deploy/compose").symlink_to(COMPOSE)
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/docker").write_text('#!/bin/sh\necho "$@"\n')
    (tmp_path / "bin/docker").chmod(0o755)
    return tmp_path


def compose(folder: Path, *command: str) -> str:
    return subprocess.run(
        ["sh", REPO / "scripts/compose.sh", *command],
        cwd=folder,
        env={**os.environ, "PATH": f"{folder / 'bin'}:{os.environ['PATH']}"},
        check=True,
        capture_output=True,
        text=True,
    ).stdout


def passwords(folder: Path) -> dict[str, str]:
    lines = (folder / ".env").read_text().splitlines()
    named = dict(line.split("=") for line in lines if "_PASSWORD=" in line)
    assert len(named) == sum("_PASSWORD=" in line for line in lines), "one is made twice"
    return named


def test_the_database_and_grafana_have_passwords_of_their_own(folder: Path) -> None:
    (folder / ".env").write_text("SPINE_API_PORT=1")
    assert compose(folder, "ps").endswith(" ps\n")
    made = passwords(folder)
    assert [*made] == ["POSTGRES_PASSWORD", "GRAFANA_PASSWORD"]
    assert len({*made.values()}) == 2
    assert all(len(password) == 32 for password in made.values())
    assert (folder / ".env").stat().st_mode & 0o777 == 0o600
    assert (folder / ".env").read_text().startswith("SPINE_API_PORT=1\n")
    compose(folder, "ps")
    assert passwords(folder) == made, "those that are there stay"


def test_a_repo_that_has_the_one_gets_the_other(folder: Path) -> None:
    """As when it comes from the tier below."""
    (folder / ".env").write_text("POSTGRES_PASSWORD=mine\n")
    compose(folder, "ps")
    assert passwords(folder)["POSTGRES_PASSWORD"] == "mine"
    assert len(passwords(folder)["GRAFANA_PASSWORD"]) == 32


def test_down_ends_what_a_profile_has_started(folder: Path) -> None:
    (folder / "bin/docker").write_text('#!/bin/sh\necho "profiles:$COMPOSE_PROFILES"\n')
    assert compose(folder, "down", "--volumes") == "profiles:*\n"
    assert compose(folder, "up") == "profiles:\n"


def test_grafana_is_given_its_own() -> None:
    (file,) = COMPOSE.glob("30-*.yaml")
    given = yaml.safe_load(file.read_text())["services"]["grafana"]["environment"]
    assert given["GF_SECURITY_ADMIN_PASSWORD"].startswith("${GRAFANA_PASSWORD:?")
