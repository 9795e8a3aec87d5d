"""Submitting, looking, paging, cancelling."""

import asyncio
import json
import re
from collections.abc import AsyncIterator
from uuid import UUID

import httpx

from tests.api.serving import Api


def test_a_submit_is_accepted_and_carried_out(api: Api) -> None:
    answer = api.http.post("/executions", json={"pipeline": "otc_normalize"})
    assert answer.status_code == 202
    accepted = answer.json()
    assert answer.headers["location"] == f"/executions/{accepted['id']}"
    assert (accepted["status"], accepted["trigger_source"]) == ("queued", "api")
    assert UUID(accepted["id"]).version == 7
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT[\d:.]+Z", accepted["created_at"])
    ended = api.follow(accepted["id"])
    assert ended["status"] == "succeeded"
    assert {k for k in ended if ended[k] != accepted[k]} == {
        *("status", "version", "result", "started_at", "finished_at")
    }
    assert api.get("/executions")["items"] == [ended]


def test_a_failure_is_told_and_kept_as_a_letter(api: Api) -> None:
    ended = api.follow(api.submit("otc_ingest", path="data/nowhere.csv")["id"])
    assert ended["status"] == "failed"
    assert "nowhere.csv" in ended["error"]
    (letter,) = api.get("/dead-letters")["items"]
    assert (letter["kind"], letter["execution_id"]) == ("execution", ended["id"])
    assert letter["reason"] == ended["error"]
    assert api.get("/dead-letters", kind="record")["items"] == []


def test_the_same_key_and_body_are_one_execution(api: Api) -> None:
    first = api.submit("otc_normalize", key="once")
    api.follow(first["id"])
    again = api.submit("otc_normalize", key="once")
    assert (again["id"], again["status"]) == (first["id"], "succeeded")
    other_pipeline = {"pipeline": "otc_compute_daily_metrics"}
    params = {"raw_id": 1}
    other_params = {"pipeline": "otc_normalize", "params": params}
    for body in (other_pipeline, other_params):
        refused = api.http.post("/executions", json=body, headers={"Idempotency-Key": "once"})
        assert refused.status_code == 422
        problem = refused.json()
        assert problem["type"] == "urn:market-spine:idempotency-key-reused"
        assert [fault["field"] for fault in problem["errors"]] == ["Idempotency-Key"]
        assert first["id"] in problem["detail"]
    assert len(api.get("/executions")["items"]) == 1


def test_two_hundred_submits_at_once_with_one_key_are_one_execution(api: Api) -> None:
    """None is complete before all of them have begun."""
    params = {"day": "2025-11-24"}
    body = json.dumps({"pipeline": "otc_backfill_day", "params": params}).encode()
    headers = {"Idempotency-Key": "crowd", "Content-Type": "application/json"}

    async def submit_all() -> list[httpx.Response]:
        together = asyncio.Barrier(200)

        async def in_two_parts() -> AsyncIterator[bytes]:
            yield body[:-1]
            await together.wait()
            yield body[-1:]

        limits = httpx.Limits(max_connections=200)
        async with httpx.AsyncClient(
            base_url=api.url, limits=limits, timeout=60, trust_env=False
        ) as client:
            submits = [
                client.post("/executions", content=in_two_parts(), headers=headers)
                for _ in range(together.parties)
            ]
            return await asyncio.gather(*submits)

    answers = asyncio.run(submit_all())
    assert {answer.status_code for answer in answers} == {202}
    (only,) = {answer.json()["id"] for answer in answers}
    assert [row["id"] for row in api.get("/executions")["items"]] == [only]
    assert api.follow(only)["status"] == "succeeded"


def test_pages_follow_each_other_without_gap_or_overlap(api: Api) -> None:
    ids = [api.submit("otc_normalize")["id"] for _ in range(7)]
    ids += [api.submit("otc_compute_daily_metrics")["id"]]
    for execution_id in ids:
        api.follow(execution_id)
    found: list[str] = []
    sizes: list[int] = []
    query: dict[str, object] = {"pipeline": "otc_normalize", "status": "succeeded", "limit": 3}
    cursor: dict[str, object] = {}
    while True:
        page = api.get("/executions", **query, **cursor)
        found += [row["id"] for row in page["items"]]
        sizes.append(len(page["items"]))
        if page["next_cursor"] is None:
            break
        # What comes in meanwhile is newer than every page that follows.
        api.follow(api.submit("otc_normalize")["id"])
        cursor = {"cursor": page["next_cursor"]}
    assert sizes == [3, 3, 1]
    assert found == ids[6::-1]
    assert api.get("/executions", pipeline="otc_compute_daily_metrics")["next_cursor"] is None


def test_a_page_that_is_just_full_is_the_last(api: Api) -> None:
    for _ in range(2):
        api.submit("otc_normalize")
    page = api.get("/executions", limit=2)
    assert (len(page["items"]), page["next_cursor"]) == (2, None)


def test_a_running_execution_is_cancelled_at_its_checkpoint(api: Api) -> None:
    running = api.submit("slow")
    api.follow(running["id"], "running")
    answer = api.http.post(f"/executions/{running['id']}/cancel")
    assert answer.status_code == 202
    assert answer.json()["cancel_requested"]
    ended = api.follow(running["id"])
    assert ended["status"] == "cancelled"
    again = api.http.post(f"/executions/{running['id']}/cancel")
    assert (again.status_code, again.json()) == (202, ended)
    assert api.get("/dead-letters")["items"] == []


def test_what_is_not_there_is_not_found(api: Api) -> None:
    nothing = "019ac1f0-3a5e-7c41-9b12-6f0d2c8e4a01"
    for method, path in (("GET", ""), ("POST", "/cancel"), ("GET", "/events")):
        answer = api.http.request(method, f"/executions/{nothing}{path}")
        assert answer.status_code == 404
        assert nothing in answer.json()["detail"]
        assert answer.json()["instance"] == f"/executions/{nothing}{path}"
    stream = api.http.get(f"/executions/{nothing}/events", headers={"Accept": "text/event-stream"})
    assert stream.status_code == 404
    assert stream.headers["content-type"] == "application/problem+json"
