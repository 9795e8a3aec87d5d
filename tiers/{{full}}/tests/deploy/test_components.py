"""Who scales the workers, and who looks at all of it, are told what this repo's processes are."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import yaml
from sqlalchemy import text

from market_spine import database, dispatcher, leases, ledger
from tests.deploy.manifests import (
    all_ports,
    built,
    command_of,
    selects,
    setting_of,
    spine_pods,
    template_of,
)
from tests.support import REPO, spine_in

OVERLAY = "production"


# --- KEDA ----------------------------------------------------------------------------------------


@contextmanager
def holding(folder: Path) -> Iterator[None]:
    """A store, in which this process may run what it claims."""
    with spine_in(folder, "postgresql"):
        leases.hold()
        try:
            yield
        finally:
            leases.let_go()


def test_workers_are_scaled_by_what_their_lane_has_to_do(tmp_path: Path) -> None:
    queries = {
        scaler["metadata"]["name"]: scaler["spec"]["triggers"][0]["metadata"]["query"]
        for scaler in built(OVERLAY, "ScaledObject")
    }
    workers = [name for name, pod in spine_pods(OVERLAY) if command_of(pod)[1] == "worker"]
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


def test_workers_that_all_work_are_not_too_many() -> None:
    """Nor is one ended as soon as there is less to do, for it may be one that works."""
    pods = dict(spine_pods(OVERLAY))
    for scaler in built(OVERLAY, "ScaledObject"):
        spec = scaler["spec"]
        pod = pods[spec["scaleTargetRef"]["name"]]
        (trigger,) = spec["triggers"]
        assert trigger["metricType"] == "AverageValue", "it is to be for each pod"
        at_once = setting_of(OVERLAY, pod, "SPINE_WORKER_PROCESSES")
        assert trigger["metadata"]["targetQueryValue"] == at_once
        down = spec["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]["scaleDown"]
        assert down["stabilizationWindowSeconds"] >= 300
        assert [(one["type"], one["value"]) for one in down["policies"]] == [("Pods", 1)]


def test_who_scales_reads_the_secret_of_the_processes() -> None:
    (access,) = built(OVERLAY, "TriggerAuthentication")
    (reference,) = access["spec"]["secretTargetRef"]
    assert reference["parameter"] == "connection"
    for _, pod in spine_pods(OVERLAY):
        sources = pod["spec"]["containers"][0]["envFrom"]
        assert {"secretRef": {"name": reference["name"]}} in sources
    for scaler in built(OVERLAY, "ScaledObject"):
        (trigger,) = scaler["spec"]["triggers"]
        assert trigger["authenticationRef"] == {"name": access["metadata"]["name"]}


# --- monitoring ----------------------------------------------------------------------------------


def test_all_that_runs_is_monitored() -> None:
    (settings,) = built(OVERLAY, "ConfigMap")
    (monitor,) = built(OVERLAY, "PodMonitor")
    for deployment in built(OVERLAY, "Deployment"):
        pod = template_of(deployment)
        assert selects(monitor["spec"]["selector"], pod["metadata"]["labels"])
        numbers = {port["name"]: port["containerPort"] for port in all_ports(pod)}
        assert str(numbers["metrics"]) == settings["data"]["SPINE_METRICS_PORT"]


def test_the_alerts_are_those_of_prometheus_alone() -> None:
    (rule,) = built(OVERLAY, "PrometheusRule")
    alerts = (REPO / "deploy/observability/alerts.yaml").read_text("utf-8")
    runbook = rule["metadata"]["annotations"]["runbook"]
    assert runbook.startswith("https://"), "who is called has no repo at hand"
    assert rule["spec"] == yaml.safe_load(alerts.replace("docs/runbook.md#", f"{runbook}#"))


def test_prometheus_is_told_that_these_are_for_it() -> None:
    """Of one that asks for a label, what lacks it is overlooked without a word."""
    for one in built(OVERLAY, "PodMonitor", "PrometheusRule"):
        assert one["metadata"].get("labels"), one["kind"]
