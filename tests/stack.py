"""A repo whose services are up on Docker Compose, and how one talks to it."""

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from email.message import Message
from pathlib import Path
from typing import Any, NamedTuple
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from steps import expected_metrics, run

SECONDS = 120  # for what takes a few on a quiet machine
RANGE = {"start_date": "2025-11-24", "end_date": "2025-12-05"}
BACKFILL = {"pipeline": "otc_backfill_range", "params": RANGE}
METRICS = "/otc/metrics/daily?symbol={}&start=2025-11-24&end=2025-12-05"
ENDED = ("succeeded", "failed", "cancelled")


class Answer(NamedTuple):
    """What the API says."""

    status: int
    body: bytes
    headers: Message

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Stack:
    """The services, where their API is, and the key that it asks for, if it does."""

    repo: Path
    services: set[str]
    port: int
    environment: dict[str, str]
    key: str | None = None

    def compose(self, *command: str) -> str:
        script = ("sh", "scripts/compose.sh")
        return run(*script, *command, cwd=self.repo, exit_code=0, **self.environment).stdout

    def docker(self, *command: str) -> str:
        return run("docker", *command, cwd=self.repo, exit_code=0).stdout.strip()

    def inside(self, service: str, *command: str) -> str:
        """What a command says in the container of a service."""
        return self.compose("exec", "-T", service, *command).strip()

    def take_down(self) -> None:
        """Leave nothing of it, not even the images that its own have replaced."""
        self.compose("down", "--volumes", "--rmi=local", "--timeout=1")
        mine = f"label=com.docker.compose.project={self.environment['COMPOSE_PROJECT_NAME']}"
        self.docker("image", "prune", "--all", "--force", "--filter", mine)

    def make_key(self, name: str, *scopes: str) -> str:
        """Make a key of the API, as its README says."""
        wanted = [f"--scope={scope}" for scope in scopes]
        return self.inside("api", "spine", "keys", "make", name, *wanted)

    def call(self, path: str, body: object = None, more: Mapping[str, str] | None = None) -> Answer:
        """Ask the API for something, or have it do something; `more` are headers."""
        data = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/json"} if data else {}
        if self.key:
            headers["Authorization"] = f"Bearer {self.key}"
        url = f"http://127.0.0.1:{self.port}{path}"
        try:
            with urlopen(Request(url, data, {**headers, **(more or {})}), timeout=30) as answer:
                return Answer(answer.status, answer.read(), answer.headers)
        except HTTPError as refused:
            with refused:
                return Answer(refused.code, refused.read(), refused.headers)

    def until(self, done: Callable[[], bool]) -> None:
        deadline = time.monotonic() + SECONDS
        while not done():
            assert time.monotonic() < deadline, self.compose("logs", "--tail=50")
            time.sleep(0.2)

    def metrics_are_those_expected(self) -> None:
        """See that the API tells of each symbol what the oracle says."""
        expected = expected_metrics()
        for symbol in sorted({row["symbol"] for row in expected}):
            got = [
                {name: "" if value is None else str(value) for name, value in day.items()}
                for day in self.call(METRICS.format(symbol)).json["items"]
            ]
            wanted = [row for row in expected if row["symbol"] == symbol]
            assert [{name: day[name] for name in wanted[0]} for day in got] == wanted
