"""What each process tells Prometheus, and that alerts and dashboard ask for what is told."""

import json
import os
import re
import signal
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import text

from market_spine import database, dispatcher
from tests.fleet import Fleet, fleet_in
from tests.house import new_folder
from tests.servers import Postgres
from tests.support import REPO

OBSERVABILITY = REPO / "deploy/observability"
SAMPLE = str(REPO / "data/otc_sample.csv")
SCHEDULES = '[often]\npipeline = "works"\ninterval = 1\n'
ROWS = text(
    """
SELECT pipeline, kind, key, sum(CAST(value AS bigint))
FROM execution_events JOIN executions ON id = execution_id, json_each_text(data)
WHERE kind IN ('captured', 'normalized', 'computed') AND key <> 'capture_id'
GROUP BY pipeline, kind, key
"""
)

WAITING = text(
    "SELECT count(*) FROM pg_stat_activity "
    "WHERE wait_event_type = 'Lock' AND application_name LIKE :process"
)
ASKERS = 10


class Metrics:
    """Samples, by their name and labels."""

    def __init__(self, told: str) -> None:
        self.samples = [
            sample for family in text_string_to_metric_families(told) for sample in family.samples
        ]
        self.names = {sample.name for sample in self.samples}

    def value(self, name: str, **labels: str) -> float:
        """The sum of those that have the labels."""
        assert name in self.names, (name, sorted(self.names))
        return sum(
            sample.value
            for sample in self.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        )


def free_port() -> str:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return str(listener.getsockname()[1])


def is_served(port: str) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", int(port))) == 0


class Observed:
    """A fleet with one process of each role, which all tell their metrics."""

    def __init__(self, fleet: Fleet) -> None:
        self.fleet = fleet
        self.ports: dict[str, str] = {}
        for role in ("api", "relay", "beat", "worker"):
            self.ports[role] = fleet.settings["SPINE_METRICS_PORT"] = free_port()
            getattr(fleet, role)()
        (self.api,) = fleet.alive("api")
        fleet.until(lambda: self.api.address)
        fleet.until(lambda: all(is_served(port) for port in self.ports.values()))

    def of(self, role: str) -> Metrics:
        answer = httpx.get(f"http://127.0.0.1:{self.ports[role]}/metrics", timeout=30)
        assert answer.status_code == 200, answer.text
        return Metrics(answer.text)

    def ask(self, path: str, method: str = "GET") -> httpx.Response:
        return httpx.request(method, f"{self.api.address}{path}", timeout=30)


@pytest.fixture(scope="module")
def observed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Observed]:
    folder = tmp_path_factory.mktemp("observed")
    (folder / "schedules.toml").write_text(SCHEDULES)
    with new_folder() as home:
        server = Postgres(home)
        try:
            with fleet_in(folder, server=server, SPINE_API_SOURCES="/") as fleet:
                fleet.spine.pipeline("works", "return {}")
                yield Observed(fleet)
        finally:
            server.stop()


def test_rows_are_counted_once_by_whichever_process_has_done_the_work(observed: Observed) -> None:
    fleet = observed.fleet
    (worker,) = fleet.alive("worker")
    for day in ("2025-11-24", "2025-11-25"):
        days = {"path": SAMPLE, "start_date": day, "end_date": day}
        dispatcher.submit("otc_backfill_range", days)
        fleet.until(lambda: not fleet.one("SELECT count(*) FROM resource_claims"))
        for child in fleet.children(worker.process):
            child.kill()  # what it has counted stays
        fleet.until(lambda: len(fleet.children(worker.process)) == 2)
    told = observed.of("worker")
    with database.snapshot() as connection:
        rows = connection.execute(ROWS).all()
    assert {stage for _, stage, _, _ in rows} == {"captured", "normalized", "computed"}
    for pipeline, stage, kind, count in rows:
        labels = {"pipeline": pipeline, "stage": stage, "kind": kind}
        assert told.value("spine_rows_total", **labels) == count, labels
    runs = told.value("spine_runs_total", pipeline="otc_backfill_day", outcome="succeeded")
    assert runs == told.value("spine_run_seconds_count", pipeline="otc_backfill_day") == 2
    assert told.value("process_resident_memory_bytes") > 1_000_000
    assert "spine_executions" not in told.names, "the ledger's figures are the API's to tell"


def test_requests_are_counted_by_what_no_caller_can_multiply(observed: Observed) -> None:
    for number in range(3):
        observed.ask(f"/executions/00000000-0000-0000-0000-00000000000{number}")
        observed.ask(f"/nowhere/{number}", method=f"OWN{number}")
        observed.ask("/executions", method=f"OWN{number}")
    observed.ask("/livez")
    told = Metrics(observed.ask("/metrics").text)
    by_route = {"method": "GET", "route": "/executions/{execution_id}", "status": "404"}
    assert told.value("spine_http_requests_total", **by_route) == 3
    assert told.value("spine_http_requests_total", method="none", route="none", status="404") == 3
    assert told.value("spine_http_requests_total", method="none", route="/executions") == 3
    assert told.value("spine_http_request_seconds_count", route="/livez") == 1
    assert told.value("spine_processes", role="worker") >= 1
    assert told.value("spine_executions", pipeline="works", status="queued") >= 0
    assert told.value("spine_store_up") == 1


def test_however_many_ask_at_once_take_one_session(observed: Observed) -> None:
    process = {"process": f"market_spine %:{observed.api.process.pid}:%"}
    with ThreadPoolExecutor(ASKERS) as askers:
        with database.transaction() as connection:
            connection.execute(text("LOCK TABLE executions"))
            asked = [askers.submit(observed.of, "api") for _ in range(ASKERS)]
            observed.fleet.until(lambda: connection.execute(WAITING, process).scalar_one())
            time.sleep(1)  # in which all of them have asked; a query gives up after three
            assert connection.execute(WAITING, process).scalar_one() == 1
        for one in asked:
            assert one.result().value("spine_store_up") == 1


def test_relay_and_beat_tell_what_they_did(observed: Observed) -> None:
    observed.fleet.until(lambda: observed.of("beat").value("spine_schedule_ticks_total") > 1)
    assert observed.of("relay").value("spine_relay_taken_back_total") == 0


def test_alerts_and_dashboard_ask_for_what_is_told(observed: Observed) -> None:
    observed.fleet.until(lambda: "spine_duration_seconds" in observed.of("api").names)
    told = {name for role in observed.ports for name in observed.of(role).names} | {"up"}
    dashboard = json.loads((OBSERVABILITY / "grafana/dashboard.json").read_text())
    asked = [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", ())]
    assert len(asked) > 10
    for expression in [*asked, *(rule["expr"] for rule in rules())]:
        named = set(re.findall(r"\b(?:spine|process)_\w+|\bup\b", expression))
        assert named, expression
        assert named - {"spine_oldest_queued_seconds"} <= told, expression  # while any is queued


def rules() -> list[dict[str, Any]]:
    (group,) = yaml.safe_load((OBSERVABILITY / "alerts.yaml").read_text())["groups"]
    found: list[dict[str, Any]] = group["rules"]
    return found


def test_each_alert_has_its_section_of_the_runbook() -> None:
    headings = re.findall(r"^## (\w+)$", (REPO / "docs/runbook.md").read_text(), re.M)
    assert headings == [rule["alert"] for rule in rules()]
    for rule in rules():
        url = f"docs/runbook.md#{rule['alert'].lower()}"
        assert rule["annotations"]["runbook_url"] == url
        assert rule["labels"]["severity"] in ("warning", "critical")
        balanced = re.sub(r"[^()]", "", rule["expr"])
        assert balanced.count("(") == balanced.count(")")


def test_a_port_that_is_taken_is_told_of_and_keeps_nobody(observed: Observed) -> None:
    fleet = observed.fleet
    fleet.settings["SPINE_METRICS_PORT"] = observed.ports["relay"]
    fleet.relay()
    fleet.until(lambda: fleet.said.count("(SPINE_METRICS_PORT)") == 1)
    assert len(fleet.alive("relay")) == 2


def test_a_worker_leaves_no_files_of_figures(observed: Observed, tmp_path: Path) -> None:
    fleet = observed.fleet
    fleet.settings |= {"SPINE_METRICS_PORT": free_port(), "TMPDIR": str(tmp_path)}
    worker = fleet.worker(1)
    fleet.until(lambda: psutil.Process(worker.pid).children() and [*tmp_path.glob("spine-*/*")])
    os.kill(worker.pid, signal.SIGTERM)
    assert worker.wait(60) == 0
    assert not [*tmp_path.glob("spine-*")]


def test_without_its_store_the_api_tells_that_and_its_requests(observed: Observed) -> None:
    assert observed.ask("/executions").status_code == 200
    observed.fleet.server.stop()
    try:
        told = observed.of("api")
        assert told.value("spine_store_up") == 0
        assert told.value("spine_http_requests_total") > 0
        assert "spine_executions" not in told.names
    finally:
        observed.fleet.server.start()
