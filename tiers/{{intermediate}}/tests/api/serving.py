"""The API as its callers have it: a process that listens, and what it answers."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from market_spine.settings import Settings
from tests.pipeline_file import pipeline_text
from tests.support import REPO

PROBLEM = "application/problem+json"
TERMINAL = ("succeeded", "failed", "cancelled")
LOG = "api.log"
# The command, which finds what a test adds as a user does: by a file.
COMMAND = """
import sys
from market_spine import backends, pipelines
from market_spine.api import routes
from market_spine.cli import main
for package in (backends, pipelines, routes):
    package.__path__.append(package.__name__.rpartition(".")[2])
main()
"""
# A pipeline that runs until its cancel is asked for, or a file is there.
SLOW = """
import pathlib, time
while not pathlib.Path("go").exists():
    context.checkpoint("waiting", 0)
    time.sleep(0.02)
return {}
"""


class Api:
    """A process that serves the API, and a client of it."""

    def __init__(self, process: "subprocess.Popen[str]", folder: Path, database: str) -> None:
        self.process = process
        self.folder = folder
        self.database = database  # its URL
        assert process.stdout is not None
        said = process.stdout.readline()
        assert said.startswith("listening on http://"), (said, process.wait(10), self.log)
        self.url = said.split()[2]
        self.http = httpx.Client(base_url=self.url, timeout=30, trust_env=False)

    @property
    def log(self) -> str:
        """What the process has said on stderr."""
        return (self.folder / LOG).read_text()

    def expect_in_log(self, text: str, within: float = 10) -> None:
        """Wait for an exception that is as it should be, and forget it."""
        deadline = time.monotonic() + within
        while text not in self.log:
            assert time.monotonic() < deadline, self.log
            time.sleep(0.02)
        (self.folder / LOG).write_text("")

    def get(self, path: str, **query: object) -> Any:
        """What a request that must succeed is answered with."""
        answer = self.http.get(path, params={name: str(value) for name, value in query.items()})
        assert answer.status_code == 200, answer.text
        return answer.json()

    def submit(self, pipeline: str, key: str | None = None, **params: object) -> dict[str, Any]:
        """Submit a pipeline that must be accepted."""
        headers = {"Idempotency-Key": key} if key else {}
        body = {"pipeline": pipeline, "params": params}
        answer = self.http.post("/executions", json=body, headers=headers)
        assert answer.status_code == 202, answer.text
        found: dict[str, Any] = answer.json()
        return found

    def follow(self, execution_id: str, *until: str, within: float = 60) -> dict[str, Any]:
        """Ask for an execution until it has ended, or is in one of the states."""
        deadline = time.monotonic() + within
        while True:
            found: dict[str, Any] = self.get(f"/executions/{execution_id}")
            if found["status"] in (until or TERMINAL):
                return found
            assert time.monotonic() < deadline, found
            time.sleep(0.05)

    def run(self, pipeline: str, **params: object) -> dict[str, Any]:
        """Run a pipeline that must succeed."""
        ended = self.follow(self.submit(pipeline, None, **params)["id"])
        assert ended["status"] == "succeeded", ended
        return ended

    def go(self) -> None:
        """Let the pipeline `slow` end."""
        (self.folder / "go").touch()


def add(folder: Path, package: str, name: str, text: str) -> None:
    """Add a module to a package, for the processes that are started in the folder."""
    (folder / package).mkdir(exist_ok=True)
    (folder / package / f"{name}.py").write_text(text)


def start(folder: Path, *args: object, **settings: str) -> "subprocess.Popen[str]":
    """Start `spine api` in a folder, which gets the mappings and the sample of this repo."""
    shutil.copytree(REPO / "mappings", folder / "mappings", dirs_exist_ok=True)
    shutil.copytree(REPO / "data", folder / "data", dirs_exist_ok=True)
    add(folder, "pipelines", "slow", pipeline_text("slow", SLOW.splitlines()))
    known = {name.upper() for name in Settings.model_fields}
    inherited = {name: value for name, value in os.environ.items() if name not in known}
    at_home = {"SPINE_MIGRATIONS": str(REPO / "migrations"), "SPINE_BACKEND": "thread"}
    with (folder / LOG).open("a") as log:
        return subprocess.Popen(
            [sys.executable, "-c", COMMAND, "api", *map(str, args)],
            cwd=folder,
            env={**inherited, "PYTHONWARNINGS": "error", **at_home, **settings},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )


@contextmanager
def serving(folder: Path, url: str, **settings: str) -> Iterator[Api]:
    """The API over a database, on a free port; it must end well, and log no exception."""
    process = start(folder, "--port", 0, DATABASE_URL=url, **settings)
    try:
        api = Api(process, folder, url)
        with api.http:
            yield api
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            process.wait(30)
            assert process.returncode == -signal.SIGTERM, api.log
        assert "Traceback" not in api.log, api.log
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()
