"""A store that is stopped, or does not answer: 503 meanwhile, and then everything goes on."""

import shutil
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from market_spine import embedded
from tests import postgres
from tests.api.serving import PROBLEM, Api, serving
from tests.api.test_events import stream

DAYS = {"symbol": "ALDRF", "start": "2025-11-24", "end": "2025-12-05"}


def unavailable(answer: httpx.Response) -> str:
    """Check that an answer is what a store that cannot be used has; returns its detail."""
    assert answer.status_code == 503, answer.text
    assert answer.headers["content-type"] == PROBLEM
    assert int(answer.headers["retry-after"]) > 0
    assert answer.json()["type"] == "urn:market-spine:unavailable"
    return str(answer.json()["detail"])


class Server:
    """A Postgres of a test's own, which it may stop."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._running = ExitStack()
        self.start()

    def start(self) -> None:
        self.url = self._running.enter_context(embedded.server(self.folder, durable=False))

    def stop(self) -> None:
        self._running.close()

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """It takes connections and requests, and answers none."""
        with postgres.connect(self.url) as connection:
            main = psutil.Process(connection.info.backend_pid).parent()
        assert main is not None
        main.suspend()
        processes = [main, *main.children()]
        try:
            for process in processes:
                process.suspend()
            yield
        finally:
            for process in reversed(processes):
                process.resume()


@pytest.fixture
def server() -> Iterator[Server]:
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)  # for the user that root runs a server as
    found = Server(folder / "server")
    try:
        postgres.upgrade(found.url)
        yield found
    finally:
        found.stop()
        shutil.rmtree(folder)


def ready_again(api: Api) -> None:
    deadline = time.monotonic() + 30
    while api.http.get("/readyz").status_code != 200:
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_a_store_that_stops_and_starts_again(server: Server, tmp_path: Path) -> None:
    with serving(tmp_path, server.url) as api:
        running = api.submit("slow")
        api.follow(running["id"], "running")
        with stream(api, running["id"]) as events:
            assert [next(events)["kind"] for _ in range(2)] == ["submitted", "started"]
            server.stop()
            for _ in range(2):
                unavailable(api.http.get("/readyz"))
                unavailable(api.http.get("/executions"))
                unavailable(api.http.get(f"/executions/{running['id']}"))
                unavailable(api.http.get(f"/executions/{running['id']}/events"))
                unavailable(api.http.get("/dead-letters"))
                unavailable(api.http.get("/otc/trades", params=DAYS))
                unavailable(api.http.get("/otc/metrics/daily", params=DAYS))
                unavailable(api.http.post("/executions", json={"pipeline": "otc_normalize"}))
                unavailable(api.http.post(f"/executions/{running['id']}/cancel"))
                assert api.get("/livez") == {"status": "alive"}
            told = unavailable(api.http.get("/dead-letters"))
            assert ("postgres" in told, str(server.folder) in told) == (False, False)
            assert len(api.log.splitlines()) > 18  # it tells what callers are not told
            assert api.http.post("/executions", json={"pipeline": "nothing"}).status_code == 422
            server.start()
            ready_again(api)
            api.go()
            assert [event["kind"] for event in events][-1] == "succeeded"
        assert api.follow(running["id"])["status"] == "succeeded"
        assert api.run("otc_normalize")
        assert len(api.get("/executions")["items"]) == 2


def test_a_store_that_freezes(server: Server, tmp_path: Path) -> None:
    """With its connections open, and more requests than there are threads."""
    settings = {"SPINE_QUERY_SECONDS": "0.5", "SPINE_API_THREADS": "2"}
    with serving(tmp_path, server.url, **settings) as api:
        running = api.submit("slow")
        api.follow(running["id"], "running")
        submit = partial(
            api.http.post,
            "/executions",
            json={"pipeline": "otc_normalize"},
            headers={"Idempotency-Key": "frozen"},
        )
        look = partial(api.http.get, "/executions")
        asks = [submit, look, partial(api.http.get, "/readyz"), submit]
        with stream(api, running["id"]) as events, ThreadPoolExecutor(len(asks)) as callers:
            assert [next(events)["kind"] for _ in range(2)] == ["submitted", "started"]
            with server.frozen():
                for _ in range(3):
                    details = [*map(unavailable, callers.map(lambda ask: ask(), asks))]
                    repeatable = ["Idempotency-Key" in detail for detail in details]
                    assert repeatable == [True, False, False, True]
                    assert api.get("/livez") == {"status": "alive"}
            ready_again(api)
            api.go()
            assert [event["kind"] for event in events] == ["succeeded"]
        again = submit().json()
        assert api.follow(again["id"])["status"] == "succeeded"
        assert [found["id"] for found in look().json()["items"]] == [again["id"], running["id"]]


def test_a_schema_that_is_not_this_versions(tmp_path: Path) -> None:
    url = postgres.new_database()
    with serving(tmp_path, url) as api, postgres.connect(url) as connection:
        ready_again(api)
        taken = connection.execute("DELETE FROM alembic_version RETURNING version_num").fetchall()
        answer = api.http.get("/readyz")
        unavailable(answer)
        assert "spine db upgrade" in answer.json()["detail"]
        assert api.get("/livez") == {"status": "alive"}
        for row in taken:
            connection.execute("INSERT INTO alembic_version VALUES (%s)", row)
        assert api.get("/readyz")
    postgres.drop_database(url)


def test_a_query_that_takes_too_long(tmp_path: Path) -> None:
    url = postgres.new_database()
    requests: dict[str, dict[str, Any]] = {
        "/executions": {"pipeline": "otc_normalize"},
        "/dead-letters": {},
        "/otc/trades": DAYS,
        "/otc/metrics/daily": DAYS,
    }
    with serving(tmp_path, url, SPINE_QUERY_SECONDS="0.3") as api:
        api.run("otc_backfill_day", day="2025-11-24")
        with postgres.connect(url) as connection, connection.transaction():
            for table in ("executions", "dead_letters", "otc_trades"):
                connection.execute(f"LOCK TABLE {table}".encode())
            for path, query in requests.items():
                started = time.monotonic()
                unavailable(api.http.get(path, params=query))
                assert time.monotonic() - started < 5
            unavailable(api.http.post("/executions", json={"pipeline": "otc_normalize"}))
        for path, query in requests.items():
            assert api.get(path, **query)
        assert len(api.get("/executions")["items"]) == 1
    postgres.drop_database(url)
