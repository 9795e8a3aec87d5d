"""A tier that is deployed with containers runs on Docker Compose, as its README says.

The image is built from what was rendered, and everything is taken down afterwards with its volumes.
"""

import csv
import json
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest
from steps import ROOT, TIERS, blocks_of, free_port, needs_docker, run

pytestmark = [
    needs_docker,
    pytest.mark.parametrize("tier", TIERS[1:], indirect=True, scope="session"),
]

SECONDS = 120  # for what takes a few on a quiet machine
BACKFILL = {"start_date": "2025-11-24", "end_date": "2025-12-05"}


@dataclass
class Stack:
    """A repo whose services are up, and where its API is."""

    repo: Path
    port: int
    environment: dict[str, str] = field(default_factory=dict)

    def compose(self, *command: str) -> str:
        script = ("sh", "scripts/compose.sh")
        return run(*script, *command, cwd=self.repo, exit_code=0, **self.environment).stdout

    def call(self, path: str, body: object = None) -> tuple[int, Any]:
        """The status of an answer, and what it says."""
        data = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/json"} if data else {}
        request = Request(f"http://127.0.0.1:{self.port}{path}", data=data, headers=headers)
        try:
            with urlopen(request, timeout=30) as answer:
                return answer.status, json.load(answer)
        except HTTPError as refused:
            with refused:
                return refused.code, json.load(refused)

    def until(self, done: Callable[[], bool]) -> None:
        deadline = time.monotonic() + SECONDS
        while not done():
            assert time.monotonic() < deadline, self.compose("logs", "--tail=50")
            time.sleep(0.2)


@pytest.fixture
def stack(rendered: Path, tmp_path: Path) -> Iterator[Stack]:
    """The tier's services, started by `make up`."""
    repo = shutil.copytree(rendered, tmp_path / rendered.name)
    port = free_port()
    environment = {"COMPOSE_PROJECT_NAME": f"smoke-{port}", "API_PORT": str(port)}
    found = Stack(repo, port, environment)
    try:
        run("make", "up", cwd=repo, exit_code=0, **environment)
        yield found
    finally:
        found.compose("down", "--volumes", "--rmi=local", "--timeout=10")


def expected() -> list[dict[str, str]]:
    """What the oracle says of the sample."""
    with (ROOT / "data/otc_expected_metrics.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_a_backfill_outlives_a_restart_of_the_database(stack: Stack) -> None:
    services = [json.loads(line) for line in stack.compose("ps", "--format=json").splitlines()]
    assert services
    assert all(service["Health"] == "healthy" for service in services), services
    for service in services:
        addresses = [port["URL"] for port in service["Publishers"] or [] if port["PublishedPort"]]
        assert {*addresses} <= {"127.0.0.1"}, "it can be reached from other machines"
    assert oct((stack.repo / ".env").stat().st_mode & 0o777) == "0o600", "it holds a password"

    status, root = stack.call("/executions", {"pipeline": "otc_backfill_range", "params": BACKFILL})
    assert (status, root["status"]) == (202, "queued")
    stack.until(lambda: stack.call(f"/executions?parent_id={root['id']}")[1]["items"] != [])
    stack.compose("restart", "--timeout=1", "postgres")

    def ended() -> bool:
        status, now = stack.call(f"/executions/{root['id']}")
        assert status in (200, 503)
        return status == 200 and now["status"] not in ("queued", "running", "waiting")

    stack.until(ended)
    assert stack.call(f"/executions/{root['id']}")[1]["status"] == "succeeded"
    _, children = stack.call(f"/executions?parent_id={root['id']}")
    assert [child["status"] for child in children["items"]] == ["succeeded"] * 9

    for symbol in sorted({row["symbol"] for row in expected()}):
        _, answer = stack.call(
            f"/otc/metrics/daily?symbol={symbol}&start=2025-11-24&end=2025-12-05"
        )
        got = [
            {name: "" if value is None else str(value) for name, value in day.items()}
            for day in answer["items"]
        ]
        wanted = [row for row in expected() if row["symbol"] == symbol]
        assert [{name: day[name] for name in wanted[0]} for day in got] == wanted


def test_the_image_is_one_that_may_run_anywhere(stack: Stack) -> None:
    def inside(*command: str) -> str:
        return stack.compose("exec", "-T", "api", *command).strip()

    assert inside("id", "-u") != "0"
    assert inside("sh", "-c", "touch /app/x 2>/dev/null || echo no") == "no"
    assert "otc_backfill_range" in inside("spine", "pipelines")
    assert (
        inside("python", "-c", "import importlib.util as u; print(u.find_spec('pytest'))") == "None"
    )


def test_the_readme_is_right_about_it(stack: Stack) -> None:
    """Its commands for an API do at the one in the container, and those for Docker as well."""
    blocks = blocks_of(stack.repo / "README.md")
    at_the_api = [
        block.text for block in blocks if "$API" in block.text and "&\n" not in block.text
    ]
    at_docker = [block.text for block in blocks if block.reason == "it needs Docker"]
    assert at_the_api
    assert at_docker
    script = stack.repo / "pasted.sh"
    api = f"API=http://127.0.0.1:{stack.port}"
    script.write_text("\n".join(["set -ex", api, *at_the_api, *at_docker]), "utf-8")
    said = run("sh", script, cwd=stack.repo, exit_code=0, **stack.environment).stdout
    assert '"status":"succeeded"' in said
    assert '"vwap":"18.77988091"' in said, "as the oracle has it"
    assert stack.compose("ps", "--quiet") == ""
