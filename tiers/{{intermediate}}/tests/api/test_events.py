"""The events of an execution: all at once, or as they happen."""

import asyncio
import json
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest

from market_spine import database, dispatcher, ledger
from market_spine.api import streams
from tests import postgres
from tests.api.serving import Api, add
from tests.pipeline_file import pipeline_text

STREAM = {"Accept": "text/event-stream"}


def test_callers_are_shown_no_code(api: Api) -> None:
    fails = pipeline_text("fails", ["return {'secret': 1 // 0}"])
    add(api.folder, "pipelines", "fails", fails)
    failed = api.follow(api.submit("fails")["id"])
    assert (failed["status"], "ZeroDivisionError" in failed["error"]) == ("failed", True)
    events = api.get(f"/executions/{failed['id']}/events")["items"]
    with stream(api, failed["id"]) as streamed:
        assert [*streamed] == events
    assert [*events[-1]["data"]] == ["error"]


@contextmanager
def stream(api: Api, execution_id: str, **headers: str) -> Iterator[Iterator[dict[str, Any]]]:
    """The events of a stream, each checked to carry its seq as its id."""
    path = f"/executions/{execution_id}/events"
    with api.http.stream("GET", path, headers={**STREAM, **headers}) as answer:
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/event-stream")
        assert answer.headers["cache-control"] == "no-cache"
        yield _events(answer)


def _events(answer: httpx.Response) -> Iterator[dict[str, Any]]:
    fields: dict[str, str] = {}
    for line in answer.iter_lines():
        if line.startswith(":"):
            continue
        if line:
            name, _, value = line.partition(": ")
            assert name not in fields
            fields[name] = value
        elif fields:
            event = json.loads(fields["data"])
            assert fields["id"] == str(event["seq"])
            yield event
            fields = {}


def listed(api: Api, execution_id: str, **headers: str) -> Any:
    answer = api.http.get(f"/executions/{execution_id}/events", headers=headers)
    assert answer.status_code == 200
    return answer.json()["items"]


def test_events_are_listed_in_their_order(api: Api) -> None:
    ended = api.run("otc_backfill_day", day="2025-11-24")
    events = listed(api, ended["id"])
    assert [event["seq"] for event in events] == [*range(1, ended["version"] + 1)]
    assert [event["kind"] for event in events] == [
        *("submitted", "started", "captured", "normalized", "computed", "succeeded")
    ]
    assert events[2]["data"]["records"] == ended["result"]["records"] > 0
    assert listed(api, ended["id"], **{"Last-Event-ID": "4"}) == events[4:]


def test_a_stream_follows_an_execution_to_its_end(api: Api) -> None:
    execution = api.submit("slow")
    with stream(api, execution["id"]) as events:
        assert [next(events)["kind"] for _ in range(2)] == ["submitted", "started"]
        api.go()
        assert [event["kind"] for event in events] == ["succeeded"]
    with stream(api, execution["id"]) as events:
        assert [*events] == listed(api, execution["id"])


def test_a_stream_is_resumed_behind_what_was_received(api: Api) -> None:
    execution = api.submit("slow")
    with stream(api, execution["id"]) as events:
        last = [next(events) for _ in range(2)][-1]["seq"]
    with stream(api, execution["id"], **{"Last-Event-ID": str(last)}) as events:
        api.go()
        assert [event["seq"] for event in events] == [last + 1]
    path = f"/executions/{execution['id']}/events"
    over = api.http.get(path, headers={**STREAM, "Last-Event-ID": str(last + 1)})
    assert (over.status_code, over.content) == (204, b"")


@pytest.mark.parametrize("last", ["-1", "x", "1.5", "9" * 30, ""])
def test_a_last_event_that_cannot_be_is_refused(shared: Api, last: str) -> None:
    execution = shared.submit("otc_normalize")
    path = f"/executions/{execution['id']}/events"
    answer = shared.http.get(path, headers={**STREAM, "Last-Event-ID": last})
    assert answer.status_code == 422
    assert [fault["field"] for fault in answer.json()["errors"]] == ["Last-Event-ID"]


def test_many_streams_hold_neither_threads_nor_connections(api: Api) -> None:
    """More streams than there are threads: another request is answered, and none is lost."""
    execution = api.submit("slow")
    answers = []
    client = httpx.Client(base_url=api.url, limits=httpx.Limits(max_connections=100), timeout=30)
    with client:
        path = f"/executions/{execution['id']}/events"
        for _ in range(60):
            request = client.build_request("GET", path, headers=STREAM)
            answers.append(client.send(request, stream=True))
        started = time.monotonic()
        assert api.get("/executions")
        assert time.monotonic() - started < 5
        with postgres.connect(api.database) as connection:
            query = "SELECT pid FROM pg_stat_activity WHERE datname = current_database()"
            connections = connection.execute(query).fetchall()
        assert len(connections) < 30
        api.go()
        kinds = {tuple(event["kind"] for event in _events(answer)) for answer in answers}
    assert kinds == {("submitted", "started", "succeeded")}


@pytest.mark.usefixtures("spine")
def test_a_silent_stream_says_that_it_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(streams, "POLLS_IN_SILENCE", 2)
    with database.transaction() as connection:
        execution = dispatcher.submit_in(connection, "otc_normalize", {})
        events = ledger.events_of(connection, execution.id)

    async def begin() -> list[bytes]:
        stopping = asyncio.Event()
        seen = []
        async for sent in streams.follow(execution.id, events, 0, stopping):
            seen.append(sent)
            if len(seen) == 4:
                stopping.set()
        return seen

    first, *rest = asyncio.run(begin())
    assert b'"kind":"submitted"' in first
    assert rest == [b": waiting\n\n"] * 3


def test_streams_end_when_the_server_stops(api: Api) -> None:
    execution = api.submit("slow")
    with stream(api, execution["id"]) as events:
        assert [next(events)["kind"] for _ in range(2)] == ["submitted", "started"]
        api.process.send_signal(signal.SIGTERM)
        assert [*events] == []  # although the execution goes on
    assert api.process.poll() is None
    api.go()
    assert api.process.wait(30) == -signal.SIGTERM
