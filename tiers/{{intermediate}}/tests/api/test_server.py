"""The process: where it listens, when it refuses to start, how it ends; and it only enqueues."""

import os
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests import postgres
from tests.api.serving import COMMAND, LOG, PROBLEM, Api, add, serving, start
from tests.support import REPO

BACKEND = """
RANK, DEFERS = -1, True

def enqueue(execution_id, lane): pass
def resume(): pass
def serve(): pass
def drain(seconds): pass
def is_served(connection): return False
"""


ENDPOINTS = """
from fastapi import APIRouter
from market_spine.api.routing import ThreadedRoute

router = APIRouter(tags=["more"], route_class=ThreadedRoute)

@router.get("/more")
def more(n: int = 1) -> dict[str, int]:
    return {"more": n}

@router.get("/fails")
def fails() -> dict[str, float]:
    return {"secret": 1 / 0}
"""

# A request whose body never comes; it asks to be told once the body is waited for.
UNFINISHED = (
    b"POST /executions HTTP/1.1\r\nHost: localhost\r\n"
    b"Content-Length: 9\r\nExpect: 100-continue\r\n\r\n"
)


@pytest.fixture
def url() -> str:
    return postgres.url_of(postgres.up_to_date())


def refusal(folder: Path, *args: object, **settings: str) -> tuple[int, str]:
    """How a start that is refused ends: the exit code, and its one line."""
    process = start(folder, *args, **settings)
    out, _ = process.communicate(timeout=60)
    line = (folder / LOG).read_text()
    (folder / LOG).unlink()
    assert line.count("\n") == 1, line
    assert out == ""
    return process.returncode, line


@pytest.mark.parametrize("store", [{}, {"DATABASE_URL": "sqlite:///x"}])
def test_it_does_not_start_where_requests_would_do_the_work(
    tmp_path: Path, url: str, store: dict[str, str]
) -> None:
    code, line = refusal(tmp_path, **{"DATABASE_URL": url, "SPINE_BACKEND": "inline", **store})
    assert code == 2
    assert line.startswith("error: the backend in use")
    assert all(name in line for name in ("SPINE_BACKEND", "DATABASE_URL"))
    assert not (tmp_path / "x").exists()


def test_it_does_not_start_without_its_store(tmp_path: Path) -> None:
    nowhere = f"postgresql://postgres@/postgres?host={tmp_path}"
    code, line = refusal(tmp_path, DATABASE_URL=nowhere)
    assert (code, line.startswith("error: ")) == (3, True)
    code, line = refusal(tmp_path, DATABASE_URL=postgres.url_of("nothing_like_it"))
    assert (code, line.startswith("error: ")) == (3, True)
    empty = postgres.new_database(template="template0")
    try:
        code, line = refusal(tmp_path, DATABASE_URL=empty)
    finally:
        postgres.drop_database(empty)
    assert (code, "spine db upgrade" in line) == (3, True)


def test_a_port_that_is_taken_is_named(tmp_path: Path, url: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code, line = refusal(tmp_path, "--port", port, DATABASE_URL=url)
        assert (code, str(port) in line) == (2, True)
        code, line = refusal(tmp_path, DATABASE_URL=url, SPINE_API_PORT=str(port))
        assert (code, str(port) in line) == (2, True)
    code, line = refusal(tmp_path, "--host", "nowhere.invalid", DATABASE_URL=url)
    assert (code, "nowhere.invalid" in line) == (2, True)


def test_a_setting_that_cannot_be_is_named(tmp_path: Path, url: str) -> None:
    code, line = refusal(tmp_path, DATABASE_URL=url, SPINE_API_THREADS="0")
    assert (code, "SPINE_API_THREADS" in line) == (2, True)


def until_refused(address: tuple[str, int]) -> None:
    """Wait until nobody listens there any more."""
    with suppress(ConnectionError):
        while True:
            socket.create_connection(address).close()


def test_what_runs_may_finish(api: Api) -> None:
    execution = api.submit("slow")
    api.follow(execution["id"], "running")
    api.process.send_signal(signal.SIGTERM)
    with pytest.raises(subprocess.TimeoutExpired):
        api.process.wait(1)
    api.go()
    assert api.process.wait(30) == -signal.SIGTERM


def test_what_does_not_finish_in_time_is_cut_off(tmp_path: Path) -> None:
    url = postgres.new_database()
    with serving(tmp_path, url, SPINE_DRAIN_SECONDS="0.2") as api:
        running = api.submit("slow")
        api.follow(running["id"], "running")
        api.process.send_signal(signal.SIGTERM)
        assert api.process.wait(30) == -signal.SIGTERM
    with serving(tmp_path, url) as api:
        assert api.get(f"/executions/{running['id']}")["status"] == "failed"
        (letter,) = api.get("/dead-letters")["items"]
        assert letter["execution_id"] == running["id"]
        assert "SPINE_DRAIN_SECONDS" in letter["reason"]
    postgres.drop_database(url)


def test_nothing_begins_while_open_requests_may_finish(tmp_path: Path) -> None:
    url = postgres.new_database()
    with serving(tmp_path, url, SPINE_DRAIN_SECONDS="60") as api:
        running = api.submit("slow")
        api.follow(running["id"], "running")
        where = urlsplit(api.url)
        address = str(where.hostname), where.port or 0
        with socket.create_connection(address) as unfinished:
            unfinished.sendall(UNFINISHED)
            assert unfinished.recv(1024).startswith(b"HTTP/1.1 100")
            api.process.send_signal(signal.SIGTERM)
            until_refused(address)
            environment = {**os.environ, "DATABASE_URL": url, "SPINE_MIGRATIONS": "migrations"}
            submit = [sys.executable, "-c", COMMAND, "run", "otc_normalize", "--no-wait"]
            subprocess.run(submit, cwd=REPO, env=environment, check=True, capture_output=True)
            api.go()
            with pytest.raises(subprocess.TimeoutExpired):
                api.process.wait(1)
        assert api.process.wait(30) == -signal.SIGTERM
    with postgres.connect(url) as connection:
        found = connection.execute("SELECT pipeline, status FROM executions ORDER BY id").fetchall()
    assert found == [("slow", "succeeded"), ("otc_normalize", "queued")]
    postgres.drop_database(url)


def test_handlers_only_enqueue(tmp_path: Path) -> None:
    """With a backend that does nothing, nothing is done; and the API says that it is not ready."""
    add(tmp_path, "backends", "deaf", BACKEND)
    url = postgres.new_database()
    with serving(tmp_path, url, SPINE_BACKEND="deaf") as api:
        answer = api.http.get("/readyz")
        assert (answer.status_code, "retry-after" in answer.headers) == (503, True)
        assert "no worker" in answer.json()["detail"]
        assert api.get("/livez") == {"status": "alive"}
        execution = api.submit("otc_backfill_range", start_date="2025-11-24", end_date="2025-12-05")
        assert api.get("/executions")["items"] == [execution]
        events = api.get(f"/executions/{execution['id']}/events")["items"]
        assert [event["kind"] for event in events] == ["submitted"]
        assert (
            api.http.post(f"/executions/{execution['id']}/cancel").json()["status"] == "cancelled"
        )
    # What is submitted while there is no worker is found by the next one.
    with serving(tmp_path, url, SPINE_BACKEND="deaf") as api:
        waiting = api.submit("otc_normalize")
    with serving(tmp_path, url) as api:
        assert api.follow(waiting["id"])["status"] == "succeeded"
        assert api.get("/readyz") == {"database": "ok", "migrations": "ok", "worker": "ok"}
    postgres.drop_database(url)


def test_another_that_holds_the_run_lock_is_no_worker(tmp_path: Path) -> None:
    """An import, say; the worker of this API waits for it."""
    url = postgres.new_database()
    with postgres.connect(url) as importing:
        importing.execute("SELECT pg_advisory_lock(hashtextextended('market_spine run lock', 0))")
        with serving(tmp_path, url) as api:
            answer = api.http.get("/readyz")
            assert (answer.status_code, "no worker" in answer.text) == (503, True)
    postgres.drop_database(url)


def test_the_api_knows_nothing_of_what_does_the_work() -> None:
    """Neither the runner is loaded, nor a service beyond the queries."""
    script = """
import sys
from market_spine.api.app import create_app
create_app().openapi()
found = [name for name in sys.modules if name.startswith("market_spine.")]
print(sorted(n for n in found if "runner" in n or n.startswith("market_spine.services.otc.")))
"""
    found = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert found.stdout.strip() == "['market_spine.services.otc.queries']"


def test_an_endpoint_is_one_new_module(tmp_path: Path) -> None:
    url = postgres.new_database()
    add(tmp_path, "backends", "deaf", BACKEND)
    add(tmp_path, "routes", "more", ENDPOINTS)
    with serving(tmp_path, url, SPINE_BACKEND="deaf") as api:
        assert api.get("/more") == {"more": 1}
        assert api.http.get("/more?n=x").headers["content-type"] == PROBLEM
        documented = api.get("/openapi.json")["paths"]["/more"]["get"]["responses"]["422"]
        assert [*documented["content"]] == [PROBLEM]
        answer = api.http.get("/fails")
        assert (answer.status_code, answer.headers["content-type"]) == (500, PROBLEM)
        assert answer.json()["type"] == "urn:market-spine:internal-error"
        assert "zero" not in answer.text
        api.expect_in_log("ZeroDivisionError: division by zero")
    postgres.drop_database(url)
