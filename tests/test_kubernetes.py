"""The manifests for one machine run, in podman, to a finished backfill.

The image is built by Docker from what was rendered, and everything is taken down afterwards.
"""

import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from steps import expected_metrics, free_port, needs_docker, of_tiers, run

pytestmark = [
    needs_docker,
    pytest.mark.skipif(
        not (shutil.which("podman") and shutil.which("kubectl")),
        reason="there is no podman, or no kubectl",
    ),
    of_tiers(["full"]),
]

SECONDS = 180  # for what takes 30 on a quiet machine
STORES = ("postgres:17", "redis:8")
PODS = ("postgres", "redis", "migrate")
VOLUMES = ("postgres", "archive")
ROLES = {"relay": "relay", "worker": "worker", "worker-backfill": "worker", "beat": "beat"}
RANGE = ("--start", "2025-11-24", "--end", "2025-12-05")
# What a caller of the API does, from where it can be reached: submit, and follow it to its end.
CALL = """
import json, sys, time
from urllib.request import Request, urlopen

key, api = sys.argv[1], "http://127.0.0.1:8000"
params = {"start_date": "2025-11-24", "end_date": "2025-12-05"}
body = json.dumps({"pipeline": "otc_backfill_range", "params": params}).encode()
headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
with urlopen(Request(f"{api}/executions", data=body, headers=headers)) as answer:
    path = answer.headers["Location"]
for _ in range(300):
    with urlopen(Request(f"{api}{path}", headers=headers)) as answer:
        status = json.load(answer)["status"]
    if status in ("succeeded", "failed", "cancelled"):
        break
    time.sleep(0.5)
print(status)
"""


@dataclass
class Pods:
    """The pods of the overlay, as podman runs them."""

    repo: Path
    manifests: Path

    def podman(self, *command: str | Path) -> str:
        return run("podman", *command, cwd=self.repo).stdout.strip()

    def container(self, controller: str) -> str:
        """The name of the container of a Deployment, which is numbered by some versions only."""
        names = self.podman("ps", "--all", "--format={{.Names}}").split()
        (name,) = {f"{controller}-pod-0-spine", f"{controller}-pod-spine"} & {*names}
        return name

    def inside(self, controller: str, *command: str) -> str:
        """What a command says in the container of a Deployment."""
        return self.podman("exec", self.container(controller), *command)

    def until_ready(self) -> None:
        """Wait until each process would be called ready by its own probe."""
        probes = [
            (document["metadata"]["name"], probe["exec"]["command"])
            for document in yaml.safe_load_all(self.manifests.read_text("utf-8"))
            if document["kind"] == "Deployment"
            for container in document["spec"]["template"]["spec"]["containers"]
            for probe in (container["readinessProbe"], container["livenessProbe"])
            if "exec" in probe
        ]
        deadline = time.monotonic() + SECONDS
        for controller, probe in probes:
            command = ["podman", "exec", self.container(controller), *probe]
            while subprocess.run(command, capture_output=True, check=False).returncode:
                assert time.monotonic() < deadline, self.podman(
                    "logs", "--tail=30", self.container(controller)
                )
                time.sleep(1)


@pytest.fixture(scope="module")
def pods(rendered: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pods]:
    """The overlay of one machine, played by podman; the last test of it takes it down."""
    repo = shutil.copytree(rendered, tmp_path_factory.mktemp("kube") / rendered.name)
    tag = f"smoke-{free_port()}"
    overlay = repo / "deploy/kubernetes/overlays/local"
    written = (overlay / "kustomization.yaml").read_text("utf-8")
    assert "newTag: local" in written
    (overlay / "kustomization.yaml").write_text(
        written.replace("newTag: local", f"newTag: {tag}"), "utf-8"
    )
    found = Pods(repo, repo / "local.yaml")
    found.manifests.write_text(run("kubectl", "kustomize", overlay, cwd=repo).stdout, "utf-8")
    taken = {*found.podman("volume", "ls", "--quiet").split()} & {*VOLUMES}
    if taken:
        pytest.skip(f"podman has volumes of these names, which may be somebody's: {taken}")
    image = f"market-spine:{tag}"
    run("docker", "build", "--quiet", "--tag", image, ".", cwd=repo)
    try:
        load(found, image, *STORES)
        found.podman("kube", "play", found.manifests)
        yield found
    finally:
        names = [f"{name}{end}" for name in ("api", *ROLES) for end in ("-pod", "-pod-0")]
        found.podman("pod", "rm", "--force", "--ignore", "--time=1", *names, *PODS)
        found.podman("volume", "rm", "--force", *VOLUMES)
        for engine in ("podman", "docker"):
            run(engine, "rmi", "--force", image, cwd=repo)


def load(pods: Pods, *images: str) -> None:
    """Bring images of Docker's into podman; what Docker has not is pulled."""
    for image in images:
        listed = ["docker", "image", "inspect", image]
        if subprocess.run(listed, capture_output=True, check=False).returncode:
            run("docker", "pull", "--quiet", image, cwd=pods.repo)
        archive = pods.repo / "image.tar"
        run("docker", "save", "--output", archive, image, cwd=pods.repo)
        pods.podman("load", "--quiet", "--input", archive)
        archive.unlink()


def test_a_backfill_ends_well(pods: Pods) -> None:
    pods.until_ready()
    key = pods.inside("api", "spine", "keys", "make", "smoke", "--scope=read", "--scope=submit")
    assert pods.inside("api", "python", "-c", CALL, key.strip()) == "succeeded"
    days = [row for row in expected_metrics() if row["symbol"] == "ALDRF"]
    got = json.loads(pods.inside("api", "spine", "metrics", "daily", "ALDRF", *RANGE, "--json"))
    assert [(day["date"], day["vwap"]) for day in got] == [
        (day["date"], day["vwap"]) for day in days
    ]
    pods.inside("api", "spine", "doctor")


def test_a_process_may_do_nothing_but_its_work(pods: Pods) -> None:
    for controller in ("api", *ROLES):
        assert pods.inside(controller, "id", "-u") == "10001"
        tried = pods.inside(controller, "sh", "-c", "touch /app/x 2>/dev/null || echo no")
        assert tried == "no", "its root can be written to"
        status = pods.inside(controller, "cat", "/proc/1/status")
        assert "CapEff:\t0000000000000000" in status, controller
        assert "NoNewPrivs:\t1" in status, controller


def test_a_silent_process_is_told_from_a_store_that_is_away(pods: Pods) -> None:
    """The former is to be started anew, the latter is not its fault."""
    for controller, role in ROLES.items():
        probe = f"spine ready {role}; test $? -ne 1"
        pods.inside(controller, "sh", "-c", probe)
        elsewhere = "DATABASE_URL=postgresql://spine@127.0.0.1:1/spine"
        pods.inside(controller, "env", elsewhere, "sh", "-c", probe)
    silent = run(
        "podman",
        "exec",
        pods.container("api"),
        "spine",
        "ready",
        "relay",
        cwd=pods.repo,
        exit_code=1,
    )
    assert silent.stdout.startswith("0 of role relay")
