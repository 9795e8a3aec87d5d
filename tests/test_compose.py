"""A tier that is deployed with containers runs on Docker Compose, as its README says.

The image is built from what was rendered, and everything is taken down afterwards with its volumes.
"""

import json
import shutil
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path

import pytest
from stack import BACKFILL, ENDED, METRICS, Stack
from steps import TIERS, blocks_of, free_port, needs_docker, of_tiers, run

pytestmark = [needs_docker, of_tiers(TIERS[1:])]

OUTAGE_SECONDS = 20
# What each tier adds, and of it what may be out for a while.
SERVICES = {
    "intermediate": ("postgres", "api"),
    "advanced": ("redis", "worker", "relay", "beat"),
    "full": (),
}
STORES = {"postgres", "redis"}
# What an owner may have there: of it, the database and where the API listens are Compose's affair.
SETTINGS = """
DATABASE_URL=sqlite:///elsewhere.db
SPINE_API_HOST=127.0.0.1
SPINE_API_PORT={port}
SPINE_API_MAX_BODY=2048
SPINE_WORKER_THREADS=1
SPINE_WORKER_PROCESSES=1
"""


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
        if tier == "full":
            found.key = found.make_key("smoke", "read", "submit")
        yield found
    finally:
        found.take_down()


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
        return now.status == 200 and now.json["status"] in ENDED

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
        # A worker is heard of again some seconds after it has begun to work again.
        doctor = ("sh", "-c", "spine doctor --json || true")
        stack.until(lambda: json.loads(stack.inside("api", *doctor)) == [])
    stack.metrics_are_those_expected()


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
    with_a_key = [
        block.text for block in blocks if block.reason == "it needs what `make up` starts"
    ]
    at_the_api = [
        block.text for block in blocks if "$API" in block.text and "&\n" not in block.text
    ]
    at_docker = [block.text for block in blocks if block.reason == "it needs Docker"]
    assert bool(with_a_key) == bool(stack.key)
    assert at_the_api
    assert at_docker
    script = stack.repo / "pasted.sh"
    api = f"API=http://127.0.0.1:{stack.port}"
    pasted = ["set -ex", api, *with_a_key, *at_the_api, *at_docker]
    script.write_text("\n".join(pasted), "utf-8")
    said = run("sh", script, cwd=stack.repo, exit_code=0, **stack.environment).stdout
    assert '"status":"succeeded"' in said
    assert '"vwap":"18.77988091"' in said, "as the oracle has it"
    assert stack.compose("ps", "--quiet") == ""
