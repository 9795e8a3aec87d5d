"""What a person meets who chooses an engine: before it is installed, reached or named."""

from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread

import pytest

from market_spine import backends, dispatcher, engines, relay
from market_spine.backends import celery
from market_spine.observability.logs import JsonLines
from market_spine.schema import executions
from tests.observability.lines import lines_of
from tests.support import Spine

EXTRAS = ["dagster", "dbos", "prefect", "temporal"]


@pytest.fixture
def store() -> str:
    return "postgresql"


@pytest.fixture(params=EXTRAS)
def extra(request: pytest.FixtureRequest, spine: Spine, monkeypatch: pytest.MonkeyPatch) -> str:
    """A backend whose library is not in this environment, and whose server is not named."""
    monkeypatch.setenv("SPINE_BACKEND", request.param)
    spine.restart()
    return str(request.param)


def test_none_is_chosen_but_by_its_name(spine: Spine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SPINE_BACKEND")
    spine.restart()
    in_use: object = backends.chosen()
    assert in_use is celery


def test_a_worker_says_where_its_library_is(
    extra: str, spine: Spine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPINE_BACKEND_URL", "http://127.0.0.1:1")
    spine.restart()
    spine("worker").fails(2, "SPINE_BACKEND", f".venv/backends/{extra}/bin/spine worker")


@pytest.mark.usefixtures("extra")
def test_a_submit_is_kept_whatever_is_missing(spine: Spine) -> None:
    submitted = spine.json("run", "otc_normalize", "--no-wait")
    assert spine.json("executions", "show", submitted["id"])["status"] == "queued"


@pytest.mark.usefixtures("extra")
def test_the_doctor_asks_for_redis_where_it_is_used(
    spine: Spine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REDIS_URL", "redis://127.0.0.1:1")
    spine.restart()
    assert "broker does not answer" not in spine("doctor").out
    monkeypatch.setenv("SPINE_BACKEND", "celery")
    spine.restart()
    assert "broker does not answer" in spine("doctor").out


class OneLane(BaseHTTPRequestHandler):
    """A server of Prefect's that has a worker for one lane, and knows nothing of any other."""

    def do_GET(self) -> None:
        known = self.path == f"/deployments/name/{engines.TASK}/default"
        self._answer(200 if known else 404, b'{"id": "1"}')

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self._answer(200, b"[]" if self.path.endswith("/filter") else b"{}")

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Nothing."""


@pytest.fixture
def one_lane() -> Iterator[str]:
    """The address of such a server."""
    with HTTPServer(("127.0.0.1", 0), OneLane) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_a_lane_without_a_worker_stops_no_other(
    one_lane: str, spine: Spine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.handler.setFormatter(JsonLines())
    monkeypatch.setenv("SPINE_BACKEND", "prefect")
    monkeypatch.setenv("SPINE_BACKEND_URL", "http://127.0.0.1:1")
    monkeypatch.setattr(engines, "SPARED_SECONDS", 0)
    spine.restart()
    lost = dispatcher.submit("otc_normalize", {}, "backfill")
    for _ in range(5):
        dispatcher.submit("otc_normalize", {})
    monkeypatch.setenv("SPINE_BACKEND_URL", one_lane)
    spine.restart()
    # As the relay asks while nobody answers: of one at a time, until one was told.
    assert any(relay.dispatch_due(1)[0] for _ in range(200))
    assert relay.dispatch_due() == (4, 5)
    untold = [row["id"] for row in spine.rows(executions) if row["dispatched_at"] is None]
    assert untold == [str(lost.id)]
    line = lines_of(caplog.text)[-1]
    assert "404" in line["event"]
    about = (line["execution_id"], line["pipeline"], line["lane"], line["trace_id"])
    assert about == (str(lost.id), "otc_normalize", "backfill", str(lost.traceparent)[3:35])
