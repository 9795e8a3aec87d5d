"""Many submissions at once, over HTTP: all of them, or none."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests import postgres
from tests.api.serving import PROBLEM, Api, add
from tests.api.test_keys import over_new_database
from tests.test_concurrency import at_once

WORK: dict[str, Any] = {"pipeline": "otc_normalize"}
DAYS = {"start_date": "2025-11-24", "end_date": "2025-11-25"}
LATER = {"start_date": "2025-12-01", "end_date": "2025-12-02"}
LOCKS = "SELECT FROM pg_locks WHERE locktype = 'advisory' AND granted"
# A second resource, and a pipeline that claims it.
CLAIMS = """
from market_spine.guard import over_days
from market_spine.pipelines import DateRange, Pipeline

PIPELINE = Pipeline(
    name="claims",
    description="A test's.",
    lane="backfill",
    params=DateRange,
    run=lambda context, params: {},
    claims=lambda params: over_days("a", None, params.start_date, params.end_date),
)
"""


@pytest.fixture
def narrow(tmp_path: Path) -> Iterator[Api]:
    """The API over an empty database; little may wait, and what is submitted waits for ever."""
    add(tmp_path, "pipelines", "claims", CLAIMS)
    settings = {
        "SPINE_QUEUE_LIMIT": "10 backfill=2000",
        "SPINE_BACKEND": "celery",
        "REDIS_URL": f"redis+socket://{tmp_path}/nobody",
    }
    with over_new_database(tmp_path, **settings) as found:
        yield found


def submit(api: Api, *items: dict[str, Any]) -> httpx.Response:
    return api.http.post("/executions/bulk", json={"items": items})


def backfill(days: dict[str, str] = DAYS, **more: str | None) -> dict[str, Any]:
    return {"pipeline": "otc_backfill_range", "params": days, **more}


def total(api: Api) -> int:
    return len(api.get("/executions", limit=100)["items"])


def test_all_of_it_is_submitted_in_its_order(narrow: Api) -> None:
    answer = submit(narrow, backfill(idempotency_key="b"), WORK, {**WORK, "idempotency_key": "w"})
    assert answer.status_code == 202, answer.text
    items = answer.json()["items"]
    assert [one["pipeline"] for one in items] == ["otc_backfill_range", *["otc_normalize"] * 2]
    assert [one["idempotency_key"] for one in items] == ["b", None, "w"]
    assert {one["trigger_source"] for one in items} == {"api"}
    for one in items:
        assert narrow.get(f"/executions/{one['id']}")["status"] == "queued"
    again = submit(narrow, {**WORK, "idempotency_key": "w"}, backfill(idempotency_key="b"))
    assert [one["id"] for one in again.json()["items"]] == [items[2]["id"], items[0]["id"]]
    assert total(narrow) == 3


FAULTS: dict[str, tuple[dict[str, Any], int, str, str | None]] = {
    "no such pipeline": ({"pipeline": "x"}, 422, "invalid-request", "items.1.pipeline"),
    "a param that is wrong": (
        backfill({**DAYS, "end_date": "soon"}),
        422,
        "invalid-request",
        "items.1.params.end_date",
    ),
    "a key of something else": (
        {**WORK, "idempotency_key": "b"},
        422,
        "idempotency-key-reused",
        "items.1.idempotency_key",
    ),
    "a claim of one before it": (backfill(LATER), 409, "conflict", "items.1"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_one_that_is_at_fault_is_named_and_nothing_is_written(narrow: Api, name: str) -> None:
    wrong, status, kind, field = FAULTS[name]
    assert submit(narrow, backfill(idempotency_key="b")).status_code == 202
    first = backfill(LATER)
    answer = submit(narrow, first, wrong, WORK)
    assert (answer.status_code, answer.headers["content-type"]) == (status, PROBLEM), answer.text
    problem = answer.json()
    assert problem["type"] == f"urn:market-spine:{kind}"
    assert [fault["field"] for fault in problem["errors"]] == [field]
    assert "items.1" in problem["detail"]
    assert total(narrow) == 1


def test_where_it_has_no_room_none_of_it_is_written(narrow: Api) -> None:
    assert submit(narrow, WORK).status_code == 202
    refused = submit(narrow, backfill(), *[WORK] * 10)
    assert (refused.status_code, refused.headers["content-type"]) == (429, PROBLEM)
    assert int(refused.headers["retry-after"]) > 0
    assert refused.json()["type"] == "urn:market-spine:lane-full"
    assert "lane 'default'" in refused.json()["detail"]
    assert total(narrow) == 1
    assert submit(narrow, backfill(), *[WORK] * 9).status_code == 202
    single = narrow.http.post("/executions", json=WORK)
    assert (single.status_code, single.headers["content-type"]) == (429, PROBLEM)
    assert int(single.headers["retry-after"]) > 0
    assert total(narrow) == 11


def test_what_never_has_room_is_not_worth_repeating(narrow: Api) -> None:
    refused = submit(narrow, *[WORK] * 11)
    assert (refused.status_code, refused.headers["content-type"]) == (422, PROBLEM)
    assert "retry-after" not in refused.headers
    assert "submit fewer" in refused.json()["detail"]
    assert total(narrow) == 0


@pytest.mark.parametrize("keys", [("a", "z"), (None, None)])
def test_two_at_once_do_not_wait_for_each_other_in_a_circle(
    narrow: Api, keys: tuple[str | None, str | None]
) -> None:
    """Whether they meet at their keys, or at what they claim."""
    for number in range(20):
        for_a, for_z = (key and f"{key}{number}" for key in keys)
        one = backfill(on_conflict="queue", idempotency_key=for_z)
        other = {**one, "pipeline": "claims", "idempotency_key": for_a}
        there, back = partial(submit, narrow, one, other), partial(submit, narrow, other, one)
        assert [answer.status_code for answer in at_once(there, back)] == [202, 202]


def test_they_take_turns_and_leave_others_locks(narrow: Api) -> None:
    """Postgres has some thousands, and each key takes one."""

    def send(name: str) -> int:
        many = [backfill(on_conflict="queue", idempotency_key=f"{name}{n}") for n in range(200)]
        return submit(narrow, *many).status_code

    most = 0
    with ThreadPoolExecutor() as pool, postgres.connect(narrow.database) as connection:
        sent = [pool.submit(send, name) for name in "abcd"]
        while not all(one.done() for one in sent):
            most = max(most, len(connection.execute(LOCKS).fetchall()))
    assert [one.result() for one in sent] == [202] * 4
    assert 100 < most < 300


def test_it_takes_a_thousand_and_no_more(narrow: Api) -> None:
    many = [backfill(on_conflict="queue", idempotency_key=f"{n}") for n in range(1000)]
    assert submit(narrow, *many, backfill()).status_code == 422
    assert submit(narrow).status_code == 422
    answer = submit(narrow, *many)
    assert answer.status_code == 202
    assert len({one["id"] for one in answer.json()["items"]}) == 1000
