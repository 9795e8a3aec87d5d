"""One trace from an HTTP request to the stages of what it submitted, over every process between."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import pytest

from market_spine import database, ledger
from tests.fleet import Fleet, fleet_in
from tests.observability.collector import Collected, Collector, collecting
from tests.observability.lines import lines_of
from tests.support import REPO

SAMPLE = REPO / "data/otc_sample.csv"
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
CALLER = "00f067aa0ba902b7"
FAILS_ONCE = (
    "from pathlib import Path",
    "if not Path('failed').exists():",
    "    Path('failed').touch()",
    "    raise ValueError('broken')",
    "return {}",
)
TALKS = ("import logging", "logging.getLogger('own').warning('hello')", "return {}")
BREAKS = ("raise SourceError('broken')",)
SLOW = (
    "import time",
    "from pathlib import Path",
    "Path('begun').touch()",
    "while not Path('go').exists():",
    "    context.checkpoint('waiting', 0)",
    "    time.sleep(0.02)",
    "return {}",
)


@pytest.fixture
def collector() -> Iterator[Collector]:
    with collecting() as found:
        yield found


@pytest.fixture
def fleet(tmp_path: Path, collector: Collector) -> Iterator[Fleet]:
    with fleet_in(
        tmp_path,
        SPINE_API_SOURCES="/",
        OTEL_EXPORTER_OTLP_ENDPOINT=collector.url,
        OTEL_BSP_SCHEDULE_DELAY="100",  # milliseconds between two batches
    ) as found:
        yield found


def api_of(fleet: Fleet) -> str:
    (member,) = fleet.alive("api")
    fleet.until(lambda: member.address)
    return str(member.address)


def post(fleet: Fleet, path: str, trace: str = TRACE, **body: object) -> dict[str, Any]:
    headers = {"traceparent": f"00-{trace}-{CALLER}-01"}
    answer = httpx.post(f"{api_of(fleet)}{path}", json=body, headers=headers, timeout=60)
    assert answer.status_code == 202, answer.text
    found: dict[str, Any] = answer.json()
    return found


def end(fleet: Fleet) -> None:
    """Let every process end as it is told to, and send what it has left."""
    for member in fleet.members:
        if member.process.poll() is None:
            member.process.send_signal(signal.SIGTERM)
    for member in fleet.members:
        member.process.wait(60)


def test_one_trace_leads_from_a_request_to_every_stage(fleet: Fleet, collector: Collector) -> None:
    fleet.api()
    fleet.worker(2)
    fleet.relay()
    fleet.beat()
    days = {"path": str(SAMPLE), "start_date": "2025-11-24", "end_date": "2025-11-25"}
    submitted = post(fleet, "/executions", pipeline="otc_backfill_range", params=days)
    fleet.until(fleet.is_at_rest)
    assert fleet.get(UUID(submitted["id"])).status == "succeeded"
    end(fleet)
    mine = [span for span in collector.spans if span.trace_id == TRACE]
    request = collector.one("POST /executions")
    assert request.parent_id == CALLER
    assert request.service == "market-spine-api"
    assert request.attributes["http.route"] == "/executions"
    assert request.attributes["http.response.status_code"] == 202
    top = ["POST /executions", "submit"]
    run = collector.one("run otc_backfill_range")
    assert collector.path(run) == [*top, "run otc_backfill_range"]
    assert run.service == "market-spine-worker"
    assert run.attributes["spine.execution_id"] == submitted["id"]
    below = [*top, "run otc_backfill_range", "submit", "run otc_backfill_day"]
    for stage in ("captured", "normalized", "computed"):
        found = collector.named(stage)
        assert [collector.path(span) for span in found] == [[*below, stage]] * 2, stage
        assert {span.service for span in found} == {"market-spine-worker"}
    assert [s.attributes["records"] > 0 for s in collector.named("captured")] == [True] * 2
    assert len(collector.named("enqueue default") + collector.named("enqueue backfill")) == 3
    assert not [span for span in mine if span.failed]
    with database.snapshot() as connection:
        for execution in ledger.list_executions(connection, limit=10):
            assert str(execution.traceparent)[3:35] == TRACE
    told = [line for line in lines_of(fleet.said) if line["execution_id"]]
    assert {line["trace_id"] for line in told} == {TRACE}
    assert {line["pipeline"] for line in told} == {"otc_backfill_range", "otc_backfill_day"}
    assert {line["event"].split()[-1] for line in told} == {"submitted", "started", "ended"}


def links_to(span: Collected, *others: Collected) -> bool:
    return span.links == [other.span_id for other in others]


def test_another_attempt_and_a_retry_link_back(fleet: Fleet, collector: Collector) -> None:
    fleet.spine.pipeline("fails_once", *FAILS_ONCE)
    fleet.spine.pipeline("breaks", *BREAKS)
    fleet.api()
    fleet.worker(1)
    fleet.relay()
    post(fleet, "/executions", pipeline="fails_once", params={})
    failed = post(fleet, "/executions", pipeline="breaks", params={})
    fleet.until(fleet.is_at_rest)
    with database.snapshot() as connection:
        (letter,) = ledger.list_dead_letters(connection, limit=10)
    other = TRACE[::-1]
    post(fleet, f"/dead-letters/{letter.id}/retry", trace=other)
    fleet.until(fleet.is_at_rest)
    end(fleet)
    first, second = sorted(
        collector.named("run fails_once"), key=lambda span: int(span.attributes["spine.attempt"])
    )
    assert first.failed
    assert not second.failed
    assert first.parent_id == second.parent_id
    assert links_to(second, first)
    by_execution = {
        span.attributes["spine.execution_id"]: span for span in collector.named("run breaks")
    }
    original = by_execution.pop(failed["id"])
    (retry,) = by_execution.values()
    assert (original.trace_id, retry.trace_id) == (TRACE, other)
    assert retry.links == [original.parent_id], "the submit of what failed"


def test_what_a_lost_worker_ran_links_to_how_it_was_taken_back(
    fleet: Fleet, collector: Collector
) -> None:
    fleet.spine.pipeline("slow", *SLOW)
    fleet.api()
    worker = fleet.worker(1)
    fleet.relay()
    execution = post(fleet, "/executions", pipeline="slow", params={})
    fleet.until((fleet.folder / "begun").exists)
    os.killpg(worker.pid, signal.SIGKILL)
    fleet.until(lambda: fleet.get(UUID(execution["id"])).attempt == 2)
    (fleet.folder / "go").touch()
    fleet.worker(1)
    fleet.until(fleet.is_at_rest)
    end(fleet)
    back, run = collector.one("take back"), collector.one("run slow")
    assert back.service == "market-spine-relay"
    assert run.attributes["spine.attempt"] == 2
    assert links_to(run, back)
    assert run.parent_id == back.parent_id
    (line,) = [line for line in lines_of(fleet.said) if "its worker was lost" in line["event"]]
    assert line["execution_id"] == execution["id"]
    assert line["trace_id"] == TRACE
    assert line["lane"] == "default"


def test_a_collector_that_is_away_is_told_of_once_and_keeps_nobody(
    fleet: Fleet, collector: Collector
) -> None:
    collector.status = 503
    fleet.spine.pipeline("works", "return {}")
    fleet.api()
    fleet.worker(1)
    fleet.relay()
    began = time.monotonic()
    for _ in range(30):
        post(fleet, "/executions", pipeline="works", params={})
    fleet.until(fleet.is_at_rest)
    fleet.until(lambda: "traces are lost" in fleet.said)
    assert fleet.statuses() == {"succeeded": 30}
    asked = collector.asked
    for _ in range(10):
        post(fleet, "/executions", pipeline="works", params={})
    fleet.until(lambda: collector.asked > asked + 2)
    assert time.monotonic() - began < 60
    ending = time.monotonic()
    end(fleet)
    assert time.monotonic() - ending < 20
    lost = [line["event"] for line in lines_of(fleet.said) if "traces" in line["event"]]
    assert len(lost) == 2, lost  # once each of the API and the worker's process
    assert not [line for line in lines_of(fleet.said) if line["logger"].startswith("opentel")]


def test_what_opentelemetry_defines_comes_first(fleet: Fleet, collector: Collector) -> None:
    collector.place = "/of/its/own"
    fleet.settings |= {
        "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1",
        "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": collector.url + collector.place,
        "OTEL_RESOURCE_ATTRIBUTES": "service.name=mine,deployment.environment.name=staging",
    }
    fleet.api()
    httpx.get(f"{api_of(fleet)}/executions", trust_env=False)
    end(fleet)
    resource = collector.one("GET /executions").resource
    assert resource["service.name"] == "mine"
    assert resource["deployment.environment.name"] == "staging"
    assert resource["service.instance.id"]


def test_the_place_of_traces_alone_is_enough(fleet: Fleet, collector: Collector) -> None:
    del fleet.settings["OTEL_EXPORTER_OTLP_ENDPOINT"]
    fleet.settings["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"] = collector.url + collector.place
    fleet.api()
    httpx.get(f"{api_of(fleet)}/executions", trust_env=False)
    end(fleet)
    assert collector.one("GET /executions").service == "market-spine-api"


USES_ALL = """
import sys
from market_spine import pipelines
from market_spine.cli import main
pipelines.__path__.append("pipelines")
try:
    main()
finally:
    print([name for name in sys.modules if name.startswith(("opentelemetry", "prometheus"))])
"""


def test_without_a_collector_nothing_is_loaded_and_a_trace_is_passed_on(tmp_path: Path) -> None:
    with fleet_in(tmp_path) as fleet:
        fleet.spine.pipeline("works", *TALKS)
        environment = {**os.environ, "SPINE_BACKEND": "thread"}
        command = [sys.executable, "-c", USES_ALL, "run", "works", "--wait"]
        ran = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)
        assert ran.returncode == 0, ran.stderr
        assert ran.stdout.endswith("[]\n")
        (line,) = lines_of(ran.stderr)
        assert (line["event"], line["pipeline"]) == ("hello", "works")
        assert line["trace_id"]
        fleet.api()
        fleet.worker(1)
        execution = post(fleet, "/executions", pipeline="works", params={})
        fleet.until(fleet.is_at_rest)
        assert fleet.get(UUID(execution["id"])).traceparent == f"00-{TRACE}-{CALLER}-01"
        end(fleet)
        mine = [line for line in lines_of(fleet.said) if line["execution_id"] == execution["id"]]
        assert [line["trace_id"] for line in mine] == [TRACE] * 4
