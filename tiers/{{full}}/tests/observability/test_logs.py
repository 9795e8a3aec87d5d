"""Every line of every process is one JSON object that says what it is about."""

import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import httpx

from market_spine import dispatcher
from tests import postgres
from tests.api.serving import add, serving
from tests.fleet import COMMAND, fleet_in
from tests.house import new_folder
from tests.observability.lines import lines_of
from tests.servers import Postgres

TRACE = "0af7651916cd43dd8448eb211c80319c"
IN_IT = {"traceparent": f"00-{TRACE}-b7ad6b7169203331-00"}
TALKS = (
    "import logging, warnings",
    "logging.getLogger('somebody').warning('of %d lines', 3)",
    "warnings.warn('of old age')",
    "return {}",
)
FAILS = """
from fastapi import APIRouter
from market_spine.api.routing import ThreadedRoute
router = APIRouter(route_class=ThreadedRoute)
@router.get("/fails/{number}")
def fails(number: int) -> float:
    return number / 0
"""
# A process that ends in ways that nobody has thought of.
BREAKS = """
from threading import Thread
from market_spine import cli
cli.build_app = lambda: lambda: (_ for _ in ()).throw(KeyError("of the process"))
def fail():
    raise KeyError("of a thread")
import market_spine.observability.logs as logs
logs.configure()
thread = Thread(target=fail)
thread.start()
thread.join()
cli.main()
"""


def test_every_line_is_an_object_whoever_writes_it(tmp_path: Path) -> None:
    with fleet_in(tmp_path, PYTHONWARNINGS="always") as fleet:
        fleet.spine.pipeline("talks", *TALKS)
        fleet.api()
        worker = fleet.worker(1)
        fleet.relay()
        fleet.beat()
        (api,) = fleet.alive("api")
        fleet.until(lambda: api.address)
        fleet.until(lambda: fleet.one("SELECT count(*) FROM processes") == 3)
        fleet.broker.stop()
        fleet.until(lambda: "celery." in fleet.said)
        body = {"pipeline": "talks", "params": {}}
        answer = httpx.post(f"{api.address}/executions", json=body, headers=IN_IT, timeout=60)
        execution_id = answer.json()["id"]
        fleet.broker.start()
        fleet.until(fleet.is_at_rest)
        fleet.children(worker)[0].kill()
        fleet.until(lambda: "SIGKILL" in fleet.said)
        lines = lines_of(fleet.said)
        mine = {line["event"]: line for line in lines if line["execution_id"] == execution_id}
        about = {"execution_id": execution_id, "pipeline": "talks", "lane": "default"}
        for said in ("the broker cannot", "of 3 lines", "of old age"):
            (line,) = [line for event, line in mine.items() if said in event]
            assert line.items() >= {**about, "trace_id": TRACE, "level": "warning"}.items()
        assert [e.split()[-1] for e in mine if execution_id in e] == [
            "submitted",
            "started",
            "ended",
        ]
        assert {line["logger"].split(".")[0] for line in lines} >= {"market_spine", "celery"}


def test_a_line_has_the_id_where_no_more_is_known(tmp_path: Path) -> None:
    with new_folder() as home:
        server = Postgres(home)
        try:
            with fleet_in(tmp_path, server=server) as fleet:
                fleet.spine.pipeline("works", "return {}")
                execution = dispatcher.submit("works", {})
                fleet.server.stop()
                fleet.worker(1)
                fleet.until(lambda: f"execution {execution.id}:" in fleet.said)
                fleet.server.start()
                for line in lines_of(fleet.said):
                    if str(execution.id) in line["event"]:
                        assert line["execution_id"] == str(execution.id)
        finally:
            server.stop()


def test_an_answer_500_is_counted_and_its_line_is_in_its_trace(tmp_path: Path) -> None:
    url = postgres.new_database()
    add(tmp_path, "routes", "fails", FAILS)
    with serving(tmp_path, url) as api:
        answer = api.http.get("/fails/1", headers=IN_IT)
        assert answer.status_code == 500
        told = httpx.get(f"{api.url}/metrics").text  # the connection was closed
        labels = 'method="GET",route="/fails/{number}",status="500"'
        assert f"spine_http_requests_total{{{labels}}} 1.0" in told
        (line,) = [line for line in lines_of(api.log) if "exception" in line]
        assert line["trace_id"] == TRACE
        assert line["logger"] == "uvicorn.error"
        assert "ZeroDivisionError" in line["exception"]
        api.expect_in_log("ZeroDivisionError")


def test_what_nobody_caught_is_an_object_too() -> None:
    ended = subprocess.run([sys.executable, "-c", BREAKS], capture_output=True, text=True)
    assert ended.returncode == 1
    of_thread, of_process = lines_of(ended.stderr)
    assert "of a thread" in of_thread["exception"]
    assert "of the process" in of_process["exception"]


def test_a_terminal_shows_the_message_alone(tmp_path: Path) -> None:
    with fleet_in(tmp_path) as fleet:
        fleet.spine.pipeline("talks", *TALKS)
        settings = {"SPINE_BACKEND": "thread", "DATABASE_URL": fleet.database}
        at_terminal, ours = pty.openpty()
        command = [sys.executable, "-c", COMMAND, "run", "talks", "--wait"]
        with os.fdopen(at_terminal, "rb") as terminal:
            environment = os.environ | settings
            ran = subprocess.run(
                command, env=environment, cwd=tmp_path, stdout=subprocess.PIPE, stderr=ours
            )
            os.close(ours)
            try:
                shown = terminal.read1(100_000).decode()
            except OSError:
                shown = ""
        assert ran.returncode == 0
        assert "of 3 lines\r\n" in shown
        assert "trace_id" not in shown
        assert not [line for line in shown.splitlines() if _is_object(line)]


def _is_object(line: str) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except ValueError:
        return False
