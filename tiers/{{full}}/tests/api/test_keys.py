"""Keys of the API: who needs one, what it opens, how often, and that events name it."""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest

from market_spine.security import is_loopback
from market_spine.security.access import AT_ONCE, FRESH_SECONDS
from tests import postgres
from tests.api.serving import PROBLEM, Api, add, serving
from tests.api.test_events import STREAM
from tests.api.test_faults import Server
from tests.api.test_openapi import ATTACK, ENDPOINTS, operations
from tests.api.test_operations import fail
from tests.house import new_folder
from tests.support import REPO

EVERYWHERE = {"SPINE_API_HOST": "0.0.0.0", "SPINE_API_HOSTS": "*"}
RAISES = """
from fastapi import APIRouter

router = APIRouter()

@router.get("/raises")
def raises() -> None:
    raise ValueError("as it should be")
"""
SUBMITTING = {"POST /executions", "POST /executions/bulk"}


@contextmanager
def over_new_database(folder: Path, **settings: str) -> Iterator[Api]:
    url = postgres.new_database()
    try:
        with serving(folder, url, **settings) as found:
            yield found
    finally:
        postgres.drop_database(url)


@pytest.fixture(scope="module")
def anywhere(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    """The API, bound to every network."""
    folder = tmp_path_factory.mktemp("anywhere")
    add(folder, "routes", "raises", RAISES)
    with over_new_database(folder, **EVERYWHERE, SPINE_API_RATE="1000000") as found:
        yield found


def spine(api: Api, *words: str) -> str:
    """What a command over the same database prints."""
    code = "from market_spine.cli import main; main()"
    command = [sys.executable, "-c", code, *words]
    at_home = {
        "DATABASE_URL": api.database,
        "REDIS_URL": "redis://127.0.0.1:1/0",  # or one would be embedded in the folder, for good
        "SPINE_MIGRATIONS": str(REPO / "migrations"),
    }
    ended = subprocess.run(
        command, env={**os.environ, **at_home}, cwd=api.folder, capture_output=True, text=True
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout.strip()


def status_becomes(api: Api, status: int, headers: dict[str, str] | None = None) -> None:
    deadline = time.monotonic() + 30
    while api.http.get("/executions", headers=headers).status_code != status:
        assert time.monotonic() < deadline
        time.sleep(0.1)


def key(api: Api, *scopes: str) -> dict[str, str]:
    """The headers of whoever has a new key, once it is let in."""
    named = [word for scope in scopes for word in ("--scope", scope)]
    secret = spine(api, "keys", "make", "-".join(scopes) + uuid4().hex, *named)
    held = {"Authorization": f"Bearer {secret}"}
    status_becomes(api, 200 if "read" in scopes else 403, held)
    return held


# --- who needs one -------------------------------------------------------------------------------


def test_who_has_no_key_is_refused_all_but_the_probes(anywhere: Api) -> None:
    for name in (*ENDPOINTS, "GET /openapi.json", "GET /docs", "GET /nowhere", "PUT /executions"):
        method, path = name.split()
        refused = anywhere.http.request(method, path)
        if path in ("/livez", "/readyz"):
            assert refused.status_code == 200, name
        else:
            assert (refused.status_code, refused.headers["content-type"]) == (401, PROBLEM), name
            assert refused.headers["www-authenticate"] == 'Bearer realm="market-spine"'
            assert "spine keys make" in refused.json()["detail"]
    held = key(anywhere, "read")["Authorization"]
    for wrong in (held[:-1], held.replace("Bearer", "Basic"), "Bearer", "Bearer é"):
        refused = anywhere.http.get("/executions", headers={b"Authorization": wrong.encode()})
        assert refused.status_code == 401, wrong
        assert 'error="invalid_token"' in refused.headers["www-authenticate"]
    lower_case = {"Authorization": held.replace("Bearer", "bearer")}
    assert anywhere.http.get("/executions", headers=lower_case).status_code == 200
    assert anywhere.http.get("/executions?key=" + held[7:]).status_code == 401


def test_at_home_none_is_needed_until_there_was_one(tmp_path: Path) -> None:
    with over_new_database(tmp_path) as api:
        assert "asks nobody for a key" in api.log  # before anybody has asked
        status_becomes(api, 200)
        status_becomes(api, 401, {"X-Forwarded-For": "192.0.2.1"})
        assert api.get("/openapi.json")["paths"]["/executions"]["get"]["security"] == [
            {"key": ["read"]},
            {},
        ]
        spine(api, "keys", "make", "ann", "--scope", "read")
        status_becomes(api, 401)
        spine(api, "keys", "revoke", "ann")
        (tmp_path / "again").mkdir()
        with serving(tmp_path / "again", api.database) as again:
            assert again.http.get("/executions").status_code == 401
            assert "key" not in again.log
        assert api.http.get("/executions").status_code == 401


def test_an_address_of_no_name_is_every_network(tmp_path: Path) -> None:
    with over_new_database(tmp_path, SPINE_API_HOST="") as api:
        port = api.url.rpartition(":")[2]
        answer = api.http.get(f"http://127.0.0.1:{port}/executions")
        assert (answer.status_code, "asks nobody" in api.log) == (401, False)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "[::1]", "localhost"])
def test_what_is_reached_from_this_machine_alone(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize("host", ["", "0.0.0.0", "::", "[::]", "10.0.0.1", "127.1", "example.com"])
def test_what_may_be_reached_from_others(host: str) -> None:
    assert not is_loopback(host)


# --- what it opens -------------------------------------------------------------------------------


def test_a_key_opens_what_its_scopes_name_until_it_is_revoked(anywhere: Api) -> None:
    secret = spine(anywhere, "keys", "make", "ann", "--scope", "read", "--scope", "submit")
    held = {"Authorization": f"Bearer {secret}"}
    status_becomes(anywhere, 200, held)
    submitted = anywhere.http.post("/executions", headers=held, json={"pipeline": "slow"})
    assert submitted.status_code == 202, submitted.text
    cancelled = anywhere.http.post(f"{submitted.headers['location']}/cancel", headers=held)
    assert cancelled.status_code == 403
    assert "'ann' lacks the scope operate (it has: read, submit)" in cancelled.json()["detail"]
    assert 'scope="operate"' in cancelled.headers["www-authenticate"]
    anywhere.go()
    with anywhere.http.stream(
        "GET", f"{submitted.headers['location']}/events", headers={**held, **STREAM}
    ) as events:
        assert "succeeded" in events.read().decode()
    assert secret not in spine(anywhere, "keys", "list", "--json") + anywhere.log
    spine(anywhere, "keys", "revoke", "ann")
    status_becomes(anywhere, 401, held)


def test_each_endpoint_takes_the_scope_that_its_document_names(anywhere: Api) -> None:
    held = {scope: key(anywhere, scope) for scope in ("read", "submit", "operate")}
    document = anywhere.http.get("/openapi.json", headers=held["read"]).json()
    for name, operation in operations(document):
        method, path = name.split()
        needed = "read" if method == "GET" else "submit" if name in SUBMITTING else "operate"
        if path in ("/livez", "/readyz"):
            assert operation["security"] == []
            continue
        assert operation["security"] == [{"key": [needed]}], name
        assert operation["responses"].keys() >= {"401", "403", "429", "503"}, name
        there = path.replace("{role}", "worker").replace("{execution_id}", str(uuid4()))
        there = there.replace("{letter_id}", str(uuid4())).replace("/raises", "/executions")
        for scope, headers in held.items():
            answer = anywhere.http.request(method, there, headers=headers)
            assert answer.status_code != 401
            assert (answer.status_code == 403) is (needed != scope), (name, scope, answer.text)


def test_its_document_is_true(anywhere: Api, tmp_path: Path) -> None:
    """Schemathesis, which also leaves the key out and makes others up."""
    held = key(anywhere, "read", "submit", "operate")
    document = anywhere.http.get("/openapi.json", headers=held).json()
    assert document["components"]["securitySchemes"]["key"]["scheme"] == "bearer"
    config = tmp_path / "schemathesis.toml"
    config.write_text(ATTACK)
    attack = subprocess.run(
        [
            *(sys.executable, "-m", "schemathesis.cli", "--config-file", str(config)),
            *("run", f"{anywhere.url}/openapi.json", "--checks", "all", "--max-examples", "3"),
            *("--phases", "examples,fuzzing", "--exclude-path", "/raises"),
            *("--header", f"Authorization: {held['Authorization']}"),
            *("--generation-deterministic", "--continue-on-failure", "--no-color"),
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert attack.returncode == 0, attack.stdout[-10_000:] + attack.stderr


def test_a_key_opens_as_soon_as_it_is_shown(anywhere: Api) -> None:
    known = key(anywhere, "read")
    for number in range(3):
        assert anywhere.http.get("/executions", headers=known).status_code == 200
        secret = spine(anywhere, "keys", "make", f"new-{number}-{uuid4().hex}", "--scope", "read")
        held = {"Authorization": f"Bearer {secret}"}
        assert anywhere.http.get("/executions", headers=held).status_code == 200


# --- how often -----------------------------------------------------------------------------------


def test_each_key_has_a_rate(tmp_path: Path) -> None:
    with over_new_database(tmp_path, **EVERYWHERE, SPINE_API_RATE="60") as api:
        held, other = key(api, "read"), key(api, "read")
        answers = [api.http.get("/executions?limit=1", headers=held) for _ in range(150)]
        refused = answers[-1]
        allowed = [answer.status_code for answer in answers].count(200)
        assert (refused.status_code, 50 < allowed < 120) == (429, True), allowed
        assert "60 times a minute (SPINE_API_RATE)" in refused.json()["detail"]
        assert refused.headers["retry-after"] == "1"
        assert api.http.get("/executions", headers=other).status_code == 200
        assert api.http.get("/livez").status_code == 200
        time.sleep(1)
        assert api.http.get("/executions", headers=held).status_code == 200


def test_a_key_has_so_many_streams_at_once(tmp_path: Path) -> None:
    unlimited = httpx.Limits(max_connections=None)
    with over_new_database(tmp_path, **EVERYWHERE) as api, ExitStack() as open_streams:
        held, other = key(api, "read", "submit"), key(api, "read")
        body = {"pipeline": "slow", "params": {}}
        slow = api.http.post("/executions", headers=held, json=body).json()["id"]
        events = f"{api.url}/executions/{slow}/events"
        own = httpx.Client(limits=unlimited, timeout=60, trust_env=False)
        client = open_streams.enter_context(own)
        for _ in range(AT_ONCE - 1):
            stream = client.stream("GET", events, headers={**STREAM, **other})
            assert open_streams.enter_context(stream).status_code == 200
        with client.stream("GET", events, headers={**STREAM, **other}) as last:
            assert last.status_code == 200
            refused = api.http.get("/executions", headers=other)
            assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
            assert f"{AT_ONCE} requests at once" in refused.json()["detail"]
            assert api.http.get("/executions", headers=held).status_code == 200
        status_becomes(api, 200, other)
        api.go()


def test_a_flood_of_refusals_does_not_reach_the_store(anywhere: Api) -> None:
    time.sleep(FRESH_SECONDS)
    began = time.monotonic()
    statuses = [anywhere.http.get("/executions").status_code]  # for which the keys were read
    with postgres.connect(anywhere.database) as other, other.transaction():
        other.execute("LOCK TABLE api_keys IN ACCESS EXCLUSIVE MODE")
        while time.monotonic() < began + FRESH_SECONDS / 2:
            statuses.append(anywhere.http.get("/executions").status_code)
    assert ({*statuses}, len(statuses) > 10) == ({401}, True)


# --- while the store is away ---------------------------------------------------------------------


def test_without_the_store_nobody_is_let_in(tmp_path: Path) -> None:
    with new_folder() as folder, ExitStack() as ended:
        server = Server(folder / "server")
        ended.callback(server.stop)
        postgres.upgrade(server.url)
        with serving(tmp_path, server.url, **EVERYWHERE, SPINE_QUERY_SECONDS="1") as api:
            held = key(api, "read")
            with server.frozen(), ThreadPoolExecutor(30) as pool:
                time.sleep(2)
                began = time.monotonic()
                asked = [pool.submit(api.http.get, "/executions", headers=held) for _ in range(30)]
                assert {one.result().status_code for one in asked} == {503}
                assert time.monotonic() - began < 6
            status_becomes(api, 200, held)
            server.stop()
            time.sleep(2)
            for headers in ({}, held):
                refused = api.http.get("/executions", headers=headers)
                assert (refused.status_code, refused.headers["retry-after"]) == (503, "2")
            assert api.http.get("/livez").status_code == 200
            server.start()
            status_becomes(api, 200, held)


# --- who it was ----------------------------------------------------------------------------------


def test_events_name_who_submitted_cancelled_and_retried(tmp_path: Path) -> None:
    with over_new_database(tmp_path, **EVERYWHERE) as api:
        for name in ("ann", "bob"):
            scopes = [
                word for scope in ("read", "submit", "operate") for word in ("--scope", scope)
            ]
            held = f"Bearer {spine(api, 'keys', 'make', name, *scopes)}"
            status_becomes(api, 200, {"Authorization": held})
            if name == "ann":
                api.http.headers["Authorization"] = held
        running = api.submit("slow")["id"]
        first, second = fail(api, "a"), fail(api, "b")
        api.http.headers["Authorization"] = held
        one = api.http.post(f"/dead-letters/{first['id']}/retry").json()["id"]
        (both,) = api.http.post("/dead-letters/retry", json={}).json()["items"]
        assert both["dead_letter_id"] == second["id"]
        assert api.http.post(f"/executions/{running}/cancel").status_code == 202
        assert api.follow(running)["status"] == "cancelled"
        for execution_id in (one, both["execution_id"]):
            api.follow(execution_id)
            assert who(api, execution_id) == {"submitted": "bob", "started": None, "failed": None}
        assert who(api, running) == {
            "submitted": "ann",
            "started": None,
            "cancel_requested": "bob",
            "cancelled": None,
        }
        told = json.loads(spine(api, "run", "otc_ingest", "--no-wait", "--json"))
        assert who(api, told["id"])["submitted"] is None  # whoever has the command line has it all


def who(api: Api, execution_id: str) -> dict[str, Any]:
    """By whose key each event came about."""
    events = api.get(f"/executions/{execution_id}/events")["items"]
    return {event["kind"]: event["data"].get("by") for event in events}


# --- what browsers are told ----------------------------------------------------------------------


def test_every_answer_has_the_security_headers(anywhere: Api) -> None:
    held = key(anywhere, "read", "submit")
    asked = [
        (200, anywhere.http.get("/executions", headers=held)),
        (200, anywhere.http.get("/livez")),
        (401, anywhere.http.get("/executions")),
        (403, anywhere.http.post("/dead-letters/retry", headers=held)),
        (404, anywhere.http.get("/nowhere", headers=held)),
        (405, anywhere.http.get("/dead-letters/retry", headers=held)),
        (413, anywhere.http.post("/executions", headers=held, content=b" " * 2_000_000)),
        (415, anywhere.http.post("/executions", headers=held, content=b"{}")),
        (500, anywhere.http.get("/raises", headers=held)),
    ]
    anywhere.expect_in_log("ValueError: as it should be")
    for status, answer in asked:
        assert answer.status_code == status
        assert answer.headers["x-content-type-options"] == "nosniff", status
        assert answer.headers["x-frame-options"] == "DENY", status
        assert answer.headers["cache-control"] == "no-store", status
        assert "strict-transport-security" not in answer.headers
    host, _, port = anywhere.url.removeprefix("http://").rpartition(":")
    with socket.create_connection((host, int(port))) as raw:
        raw.sendall(b"no HTTP\r\n\r\n")
        assert b"X-Content-Type-Options: nosniff" in raw.recv(65_536)
