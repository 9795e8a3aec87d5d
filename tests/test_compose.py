"""A tier that is deployed with containers runs on Docker Compose, as its README says.

The image is built from what was rendered, and everything is taken down afterwards with its volumes.
"""

import json
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from email.message import Message
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest
from steps import TIERS, blocks_of, expected_metrics, free_port, needs_docker, run

pytestmark = [
    needs_docker,
    pytest.mark.parametrize(
        "tier",
        [
            pytest.param(tier, marks=pytest.mark.xdist_group(f"stack of {tier}"))
            for tier in TIERS[1:]
        ],
        indirect=True,
        scope="session",
    ),
]

SECONDS = 120  # for what takes a few on a quiet machine
OUTAGE_SECONDS = 20
# What each tier adds, and of it what may be out for a while.
SERVICES = {
    "intermediate": ("postgres", "api"),
    "advanced": ("redis", "worker", "relay", "beat"),
}
STORES = {"postgres", "redis"}
RANGE = {"start_date": "2025-11-24", "end_date": "2025-12-05"}
BACKFILL = {"pipeline": "otc_backfill_range", "params": RANGE}
METRICS = "/otc/metrics/daily?symbol={}&start=2025-11-24&end=2025-12-05"
# What an owner may have there: of it, the database and where the API listens are Compose's affair.
SETTINGS = """
DATABASE_URL=sqlite:///elsewhere.db
SPINE_API_HOST=127.0.0.1
SPINE_API_PORT={port}
SPINE_API_MAX_BODY=2048
SPINE_WORKER_THREADS=1
SPINE_WORKER_PROCESSES=1
"""


class Answer(NamedTuple):
    """What the API says."""

    status: int
    json: Any
    headers: Message


@dataclass
class Stack:
    """A repo whose services are up, and where its API is."""

    repo: Path
    services: set[str]
    port: int
    environment: dict[str, str]

    def compose(self, *command: str) -> str:
        script = ("sh", "scripts/compose.sh")
        return run(*script, *command, cwd=self.repo, exit_code=0, **self.environment).stdout

    def inside(self, service: str, *command: str) -> str:
        """What a command says in the container of a service."""
        return self.compose("exec", "-T", service, *command).strip()

    def call(self, path: str, body: object = None) -> Answer:
        """Ask the API for something, or have it do something."""
        data = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/json"} if data else {}
        request = Request(f"http://127.0.0.1:{self.port}{path}", data=data, headers=headers)
        try:
            with urlopen(request, timeout=30) as answer:
                return Answer(answer.status, json.load(answer), answer.headers)
        except HTTPError as refused:
            with refused:
                return Answer(refused.code, json.load(refused), refused.headers)

    def until(self, done: Callable[[], bool]) -> None:
        deadline = time.monotonic() + SECONDS
        while not done():
            assert time.monotonic() < deadline, self.compose("logs", "--tail=50")
            time.sleep(0.2)


@pytest.fixture(scope="module")
def stack(rendered: Path, tier: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """The tier's services, started by `make up`; the last test of them takes them down."""
    repo = shutil.copytree(rendered, tmp_path_factory.mktemp("stack") / rendered.name)
    port = free_port()
    (repo / ".env").write_text(SETTINGS.format(port=port), "utf-8")
    environment = {"COMPOSE_PROJECT_NAME": f"smoke-{port}"}
    added = [SERVICES[name] for name in TIERS[1 : TIERS.index(tier) + 1]]
    found = Stack(repo, {*chain(*added)}, port, environment)
    try:
        run("make", "up", cwd=repo, exit_code=0, **environment)
        yield found
    finally:
        found.compose("down", "--volumes", "--rmi=local", "--timeout=10")


def test_its_services_are_well_and_known_to_this_machine_alone(stack: Stack) -> None:
    services = [json.loads(line) for line in stack.compose("ps", "--format=json").splitlines()]
    assert {service["Service"] for service in services} == stack.services
    assert all(service["Health"] == "healthy" for service in services), services
    for service in services:
        addresses = [port["URL"] for port in service["Publishers"] or [] if port["PublishedPort"]]
        assert {*addresses} <= {"127.0.0.1"}, "it can be reached from other machines"
    assert oct((stack.repo / ".env").stat().st_mode & 0o777) == "0o600", "it holds a password"
    if "redis" in stack.services:
        for name, value in (("maxmemory-policy", "noeviction"), ("appendonly", "yes")):
            said = stack.inside("redis", "redis-cli", "config", "get", name)
            assert said.splitlines() == [name, value], "it forgets what it was told"


def test_a_backfill_outlives_an_outage_of_the_database(stack: Stack) -> None:
    """And of the broker, where there is one; then more than one worker is at it, too."""
    if "worker" in stack.services:
        stack.compose("up", "--detach", "--wait", "--scale", "worker=3")
    stores = sorted(stack.services & STORES)
    root = stack.call("/executions", BACKFILL)
    assert (root.status, root.json["status"]) == (202, "queued")
    path = f"/executions/{root.json['id']}"
    children = f"/executions?parent_id={root.json['id']}"
    stack.until(lambda: stack.call(children).json["items"] != [])

    stack.compose("stop", "--timeout=0", *stores)
    stopped = datetime.now(UTC)
    until = time.monotonic() + OUTAGE_SECONDS
    while time.monotonic() < until:
        assert stack.call("/livez").status == 200
        asked = (path, METRICS.format("ALDRF"), "/readyz")
        for answer in [*map(stack.call, asked), stack.call("/executions", BACKFILL)]:
            assert answer.status == 503, answer.json
            assert int(answer.headers["Retry-After"]) > 0
            assert answer.headers["Content-Type"] == "application/problem+json"
        time.sleep(1)
    stack.compose("start", *stores)

    def ended() -> bool:
        now = stack.call(path)
        assert now.status in (200, 503)
        return now.status == 200 and now.json["status"] not in ("queued", "running", "waiting")

    stack.until(ended)
    root = stack.call(path)
    assert root.json["status"] == "succeeded", stack.compose("logs", "--tail=50")
    assert datetime.fromisoformat(root.json["finished_at"]) > stopped, "it was over before"
    items = stack.call(children).json["items"]
    assert [child["status"] for child in items] == ["succeeded"] * 9
    (kept,) = stack.call("/executions?pipeline=otc_backfill_range").json["items"]
    assert kept == root.json, "a refused one was kept"
    if "worker" in stack.services:
        shown = json.loads(stack.inside("api", "spine", "executions", "show", kept["id"], "--json"))
        workers = {child["worker_id"].partition(":")[0] for child in shown["children"]}
        assert len(workers) > 1, "one did it all"
        stack.inside("api", "spine", "doctor")

    expected = expected_metrics()
    for symbol in sorted({row["symbol"] for row in expected}):
        got = [
            {name: "" if value is None else str(value) for name, value in day.items()}
            for day in stack.call(METRICS.format(symbol)).json["items"]
        ]
        wanted = [row for row in expected if row["symbol"] == symbol]
        assert [{name: day[name] for name in wanted[0]} for day in got] == wanted


def test_the_image_is_one_that_may_run_anywhere(stack: Stack) -> None:
    assert stack.inside("api", "id", "-u") != "0"
    assert stack.inside("api", "sh", "-c", "touch /app/x 2>/dev/null || echo no") == "no"
    assert "otc_backfill_range" in stack.inside("api", "spine", "pipelines")
    assert stack.call("/executions", {"pipeline": "x" * 2048}).status == 413, "of .env"
    find = "import importlib.util as u; print(u.find_spec('pytest'))"
    assert stack.inside("api", "python", "-c", find) == "None"


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
