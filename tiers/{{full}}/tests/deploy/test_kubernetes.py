"""The manifests can be applied, name what there is, and let a process do nothing but its work."""

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml
from sqlalchemy import text

from market_spine import database, dispatcher, leases, ledger, pipelines
from market_spine.settings import Settings
from tests.deploy.custom_resources import SPECS, faults
from tests.deploy.manifests import (
    CONTROLLERS,
    OVERLAYS,
    Document,
    all_ports,
    built,
    command_of,
    containers,
    mebibytes,
    milliseconds,
    selects,
    spine_pods,
    template_of,
    text_of,
    tool,
)
from tests.support import REPO, Spine, spine_in

PRODUCTION = pytest.mark.parametrize("overlay", ["production"])
CELERY_ENDS_SECONDS = 10  # and what else there is to do once the runs are over
CLOSED = {
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "readOnlyRootFilesystem": True,
}


@pytest.fixture(params=OVERLAYS)
def overlay(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
def written(overlay: str, tmp_path: Path) -> Path:
    path = tmp_path / f"{overlay}.yaml"
    path.write_text(text_of(overlay), "utf-8")
    return path


# --- what other tools say ------------------------------------------------------------------------


def test_every_document_fits_the_schema_of_its_kind(overlay: str, written: Path) -> None:
    command = [tool("kubernetes-validate"), "--strict", str(written)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    unknown = [document["kind"] for document in built(overlay) if kind(document) in SPECS]
    assert said.count("WARN") == len(unknown), said
    assert said.count(" passed ") == len(built(overlay)) - len(unknown), said


def test_custom_resources_have_the_fields_that_are_documented(overlay: str) -> None:
    for document in built(overlay):
        if kind(document) in SPECS:
            assert [*faults(document["spec"], SPECS[kind(document)], document["kind"])] == []


def kind(document: Document) -> tuple[str, str]:
    return document["apiVersion"], document["kind"]


def test_checkov_finds_nothing_that_is_not_justified(overlay: str, written: Path) -> None:
    framework = ["--framework", "kubernetes", "--output", "json", "--quiet"]
    command = [tool("checkov"), "--file", str(written), *framework, "--skip-download"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    found = json.loads(done.stdout)
    failed = [
        f"{check['check_id']} {check['check_name']}: {check['resource']}"
        for check in found["results"]["failed_checks"]
    ]
    assert failed == []
    assert done.returncode == 0, done.stderr
    assert found["summary"]["passed"] > 300, "it looked at little"
    for document in built(overlay, *CONTROLLERS):
        for name, skipped in document["metadata"].get("annotations", {}).items():
            if name.startswith("checkov.io/"):
                assert len(skipped.partition("=")[2]) > 10, f"{skipped}: why?"


# --- names hit what they mean --------------------------------------------------------------------


def test_every_selector_hits_pods(overlay: str) -> None:
    pods = [template_of(document) for document in built(overlay, *CONTROLLERS)]

    def hit(selector: Document) -> list[Document]:
        return [pod for pod in pods if selects(selector, pod["metadata"]["labels"])]

    for service in built(overlay, "Service"):
        (pod,) = hit({"matchLabels": service["spec"]["selector"]})
        assert service["spec"]["ports"][0]["targetPort"] in ports(pod)
    for one in built(overlay, "PodDisruptionBudget", "PodMonitor", "Deployment"):
        found = hit(one["spec"]["selector"])
        assert found, one
        if one["kind"] == "Deployment":
            assert found == [template_of(one)], "it takes the pods of another for its own"
        for endpoint in one["spec"].get("podMetricsEndpoints", []):
            assert all(endpoint["port"] in ports(pod) for pod in found)
    for policy in built(overlay, "NetworkPolicy"):
        spec = policy["spec"]
        assert hit(spec["podSelector"]), policy
        for rule in spec.get("ingress", []):
            named = {port["port"] for port in rule["ports"]}
            assert named <= {name for pod in hit(spec["podSelector"]) for name in ports(pod)}
        for rule in [*spec.get("ingress", []), *spec.get("egress", [])]:
            for peer in [*rule.get("from", []), *rule.get("to", [])]:
                assert "podSelector" not in peer or hit(peer["podSelector"]), peer


def ports(pod: Document) -> list[str]:
    return [port["name"] for port in all_ports(pod)]


def test_who_scales_names_a_deployment_that_says_no_number_itself(overlay: str) -> None:
    deployments = {one["metadata"]["name"]: one for one in built(overlay, "Deployment")}
    for scaler in built(overlay, "HorizontalPodAutoscaler", "ScaledObject"):
        target = deployments[scaler["spec"]["scaleTargetRef"]["name"]]
        assert overlay == "local" or "replicas" not in target["spec"]


def test_nothing_may_talk_that_is_not_allowed_to(overlay: str) -> None:
    everything = {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    assert everything in [policy["spec"] for policy in built(overlay, "NetworkPolicy")]


# --- this repo's own -----------------------------------------------------------------------------


def test_every_setting_is_one(overlay: str) -> None:
    (settings,) = built(overlay, "ConfigMap")
    assert {name.lower() for name in settings["data"]} <= Settings.model_fields.keys()
    for _, pod in spine_pods(overlay):
        named = {given["name"].lower() for one in containers(pod) for given in one.get("env", [])}
        assert named <= Settings.model_fields.keys()
    values = {name.lower(): value for name, value in settings["data"].items()}
    Settings.model_validate(values)
    for _, pod in spine_pods(overlay):
        assert pod["spec"]["enableServiceLinks"] is False, "Services would be taken for settings"
        for one in containers(pod):
            sources = [{"configMapRef": {"name": settings["metadata"]["name"]}}]
            if overlay == "production":
                sources += [{"secretRef": {"name": "market-spine"}}]
            assert one["envFrom"] == sources


def test_every_command_is_one(overlay: str) -> None:
    commands = {tuple(one["command"]) for _, pod in spine_pods(overlay) for one in containers(pod)}
    spine = Spine(REPO)
    for program, *rest in commands:
        assert program == "spine"
        words = [word for word in rest if not word.startswith("-")][:2]
        group = words if words[0] == "db" else words[:1]
        spine.ok(*group, "--help")
    roles = {"api", "beat", "db", "relay", "worker"}
    assert roles <= {command[1] for command in commands}


def test_every_lane_has_one_deployment_of_workers(overlay: str) -> None:
    lanes = [
        lane
        for _, pod in spine_pods(overlay)
        for flag, lane in zip(command_of(pod), command_of(pod)[1:], strict=False)
        if flag == "--lane"
    ]
    wanted = {"default", *(pipelines.find(name).lane for name in pipelines.names())}
    assert sorted(lanes) == sorted(wanted), "name it in a worker's command (worker.yaml)"


def test_a_process_may_do_nothing_but_its_work(overlay: str) -> None:
    for name, pod in spine_pods(overlay):
        spec = pod["spec"]
        who = spec["securityContext"]
        assert (who["runAsNonRoot"], who["runAsUser"], who["runAsGroup"]) == (True, 10001, 10001)
        assert who["seccompProfile"] == {"type": "RuntimeDefault"}, name
        assert spec["automountServiceAccountToken"] is False, name
        for one in containers(pod):
            assert one["securityContext"] == CLOSED, name
            asked, most = one["resources"]["requests"], one["resources"]["limits"]
            assert 0 < milliseconds(asked["cpu"]) <= milliseconds(most["cpu"])
            assert 0 < mebibytes(asked["memory"]) <= mebibytes(most["memory"])


def test_a_process_has_the_time_to_end_well(overlay: str) -> None:
    (settings,) = built(overlay, "ConfigMap")
    drain = float(settings["data"]["SPINE_DRAIN_SECONDS"])
    for name, pod in spine_pods(overlay):
        hook = pod["spec"]["containers"][0].get("lifecycle", {}).get("preStop")
        before = int(hook["exec"]["command"][1]) if hook else 0
        if name != "migrate" or overlay == "production":
            grace = pod["spec"]["terminationGracePeriodSeconds"]
            assert grace >= before + drain + CELERY_ENDS_SECONDS, name


def test_probes_ask_what_each_process_is(overlay: str) -> None:
    for document in built(overlay, "Deployment"):
        role = document["metadata"]["name"].partition("-")[0]
        (one,) = template_of(document)["spec"]["containers"]
        ready, live = one["readinessProbe"], one["livenessProbe"]
        if role == "api":
            assert ready["httpGet"] == {"path": "/readyz", "port": "http"}
            assert "/livez" in str(live)
            port = Settings.model_fields["spine_api_port"].get_default()
            assert {"name": "http", "containerPort": port} in one["ports"]
            continue
        assert ready["exec"]["command"] == ["spine", "ready", role]
        # A store that cannot be asked is no reason to end a process.
        assert live["exec"]["command"] == ["sh", "-c", f"spine ready {role}; test $? -ne 1"]
        assert min(ready["timeoutSeconds"], live["timeoutSeconds"]) >= 20, "each starts a Python"


@PRODUCTION
def test_a_release_migrates_and_its_processes_wait_for_that(overlay: str) -> None:
    (job,) = built(overlay, "Job")
    assert command_of(template_of(job)) == ["spine", "db", "upgrade"]
    for deployment in built(overlay, "Deployment"):
        (first,) = template_of(deployment)["spec"]["initContainers"]
        assert first["command"] == ["spine", "wait"], deployment["metadata"]["name"]
    (beat,) = (one for one in built(overlay, "Deployment") if one["metadata"]["name"] == "beat")
    assert (beat["spec"]["replicas"], beat["spec"]["strategy"]) == (1, {"type": "Recreate"})


@contextmanager
def holding(folder: Path) -> Iterator[None]:
    """A store, in which this process may run what it claims."""
    with spine_in(folder, "postgresql"):
        leases.hold()
        try:
            yield
        finally:
            leases.let_go()


@PRODUCTION
def test_workers_are_scaled_by_what_their_lane_has_to_do(overlay: str, tmp_path: Path) -> None:
    queries = {
        scaler["metadata"]["name"]: scaler["spec"]["triggers"][0]["metadata"]["query"]
        for scaler in built(overlay, "ScaledObject")
    }
    workers = [name for name, pod in spine_pods(overlay) if command_of(pod)[1] == "worker"]
    assert [*queries] == workers
    with holding(tmp_path), database.transaction() as connection:
        for _ in range(3):
            runs = dispatcher.submit_in(connection, "otc_normalize", {})
        assert ledger.claim(connection, runs.id)
        later = dispatcher.submit_in(connection, "otc_normalize", {}).id
        move = "UPDATE executions SET not_before = now() + interval '1 hour' WHERE id = :id"
        connection.execute(text(move), {"id": later})
        over = dispatcher.submit_in(connection, "otc_normalize", {})
        ledger.request_cancel(connection, over.id)
        dispatcher.submit_in(connection, "otc_backfill_day", {"day": "2025-11-24"})
        counted = {
            name: connection.execute(text(query)).scalar_one() for name, query in queries.items()
        }
    assert counted == {"worker": 3, "worker-backfill": 1}


@PRODUCTION
def test_all_that_runs_is_monitored(overlay: str) -> None:
    (settings,) = built(overlay, "ConfigMap")
    (monitor,) = built(overlay, "PodMonitor")
    for deployment in built(overlay, "Deployment"):
        pod = template_of(deployment)
        assert selects(monitor["spec"]["selector"], pod["metadata"]["labels"])
        numbers = {port["name"]: port["containerPort"] for port in all_ports(pod)}
        assert str(numbers["metrics"]) == settings["data"]["SPINE_METRICS_PORT"]


@PRODUCTION
def test_the_alerts_are_those_of_prometheus_alone(overlay: str) -> None:
    (rule,) = built(overlay, "PrometheusRule")
    alerts = yaml.safe_load((REPO / "deploy/observability/alerts.yaml").read_text("utf-8"))
    assert rule["spec"] == alerts


@PRODUCTION
def test_what_is_secret_stands_in_no_manifest(overlay: str) -> None:
    assert built(overlay, "Secret") == []
    assert "://" not in text_of(overlay).replace("https://", "")
