"""The manifests can be applied, name what there is, and let a process do nothing but its work."""

import json
import re
import shlex
import subprocess
from math import ceil
from pathlib import Path
from uuid import uuid4

import pytest
import yaml

from market_spine import pipelines
from market_spine.checks import pool
from market_spine.schema import otc_captures
from market_spine.settings import Settings
from tests.deploy.custom_resources import SPECS, faults
from tests.deploy.manifests import (
    CONTROLLERS,
    KUBERNETES,
    OVERLAYS,
    Document,
    all_ports,
    built,
    command_of,
    containers,
    mebibytes,
    milliseconds,
    selects,
    setting_of,
    spine_pods,
    template_of,
    text_of,
    tool,
)
from tests.retained import keeper_in
from tests.support import REPO, Spine
from tests.tape import trade

RUNBOOK = (REPO / "docs/runbook.md").read_text("utf-8")
PRODUCTION = pytest.mark.parametrize("overlay", ["production"])
CELERY_ENDS_SECONDS = 10  # and what else there is to do once the runs are over
RUN_SECONDS = 60  # for which a worker goes on at least, since what it is cut off from is begun anew
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
        assert "replicas" not in target["spec"]


def test_nothing_may_talk_that_is_not_allowed_to(overlay: str) -> None:
    everything = {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    assert everything in [policy["spec"] for policy in built(overlay, "NetworkPolicy")]


def test_names_are_asked_for_of_the_cluster_or_of_the_node(overlay: str) -> None:
    (dns,) = (one for one in built(overlay, "NetworkPolicy") if one["metadata"]["name"] == "dns")
    (rule,) = dns["spec"]["egress"]
    peers = [peer.get("ipBlock", {}).get("cidr", "the cluster") for peer in rule["to"]]
    assert {"the cluster", "169.254.20.10/32"} <= {*peers}


@PRODUCTION
def test_the_way_to_sources_can_be_uncommented(overlay: str) -> None:
    text = (KUBERNETES / "overlays" / overlay / "network.yaml").read_text("utf-8")
    _, commented, example = text.partition("# ---\n")
    if not commented:
        pytest.skip("it is uncommented, and looked at like the others")
    policy = yaml.safe_load(re.sub("^# ", "", example, flags=re.MULTILINE))
    assert (policy["apiVersion"], policy["kind"]) == ("networking.k8s.io/v1", "NetworkPolicy")
    for _, pod in spine_pods(overlay):
        allowed = selects(policy["spec"]["podSelector"], pod["metadata"]["labels"])
        assert allowed == (command_of(pod)[1] == "worker")


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
            if overlay != "local":
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


def test_the_runbook_restores_where_the_archive_is(overlay: str, tmp_path: Path) -> None:
    """What it makes of the CronJob is a Job that has the archive, and brings a batch back."""
    told = re.findall(r"^```sh\n(.*?)^```", RUNBOOK, re.M | re.S)
    (restores,) = (one for one in told if "restore" in one)
    words = shlex.split(restores)
    (cron,) = built(overlay, "CronJob")
    name, namespace = cron["metadata"]["name"], cron["metadata"]["namespace"]
    assert f"--from=cronjob/{name}" in words
    for one in told:
        assert {*re.findall(r"--namespace (\S+)", one)} == {namespace}
        assert {*re.findall(r"patch cronjob (\S+)", one)} <= {name}

    first, last = (at for at, word in enumerate(words) if word == "|")
    assert words[first + 1 : first + 3] == ["kubectl", "patch"]
    job = {"apiVersion": "batch/v1", "kind": "Job", **cron["spec"]["jobTemplate"]}
    job["metadata"] = {"name": "restore"}
    patch = [tool("kubectl"), *words[first + 2 : last]]
    done = subprocess.run(patch, input=json.dumps(job), capture_output=True, text=True, check=True)
    pod = json.loads(done.stdout)["spec"]["template"]["spec"]
    assert pod["volumes"] == template_of(cron)["spec"]["volumes"]
    (one,) = pod["containers"]
    archive = setting_of(overlay, template_of(cron), "SPINE_ARCHIVE")
    assert {"name": "archive", "mountPath": archive} in one["volumeMounts"]
    assert f'["ls", "{archive}"]' in RUNBOOK

    program, *args = one["command"]
    assert program == "spine"
    with keeper_in(tmp_path) as keeper:
        keeper.spine.take(trade())
        keeper.age()
        keeper.spine.ok("retention", "--apply")
        keeper.batches()[0].rename(keeper.archive / f"bronze-20251208-{uuid4()}")
        keeper.spine.ok(*args)
        assert keeper.spine.count(otc_captures) == 1


@PRODUCTION
def test_the_connections_of_all_that_may_run_are_told(overlay: str) -> None:
    most = {
        one["spec"]["scaleTargetRef"]["name"]: one["spec"].get("maxReplicas")
        or one["spec"]["maxReplicaCount"]
        for one in built(overlay, "HorizontalPodAutoscaler", "ScaledObject")
    }
    total = more = 0
    for document in built(overlay, "Deployment"):
        pod, name = template_of(document), document["metadata"]["name"]
        role = command_of(pod)[1]
        of_worker = pool.WANTED["worker"] * int(setting_of(overlay, pod, "SPINE_WORKER_PROCESSES"))
        of_api = Settings.model_fields["spine_api_threads"].default + 1
        wanted = pool.WANTED | {"worker": of_worker, "api": of_api}
        replicas = most.get(name, document["spec"].get("replicas", 1))
        total += replicas * wanted[role]
        if role in ("worker", "api"):  # of which Kubernetes begins a quarter more at a time
            more += (replicas if role == "worker" else ceil(replicas / 4)) * wanted[role]
    told = (KUBERNETES / "overlays" / overlay / "kustomization.yaml").read_text("utf-8")
    assert f"want up to {total}, and while a release replaces them up to {total + more}," in told


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
    for name, pod in spine_pods(overlay):
        drain = float(setting_of(overlay, pod, "SPINE_DRAIN_SECONDS"))
        assert command_of(pod)[1] != "worker" or drain >= RUN_SECONDS, name
        hook = pod["spec"]["containers"][0].get("lifecycle", {}).get("preStop")
        before = int(hook["exec"]["command"][1]) if hook else 0
        if name != "migrate" or overlay != "local":
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


@PRODUCTION
def test_what_is_secret_stands_in_no_manifest(overlay: str) -> None:
    assert built(overlay, "Secret") == []
    assert "://" not in text_of(overlay).replace("https://", "")
