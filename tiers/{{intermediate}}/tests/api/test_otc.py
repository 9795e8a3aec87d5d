"""The README's backfill through the API, and what it has computed."""

import csv
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest

from tests.api.serving import Api
from tests.support import REPO

RANGE = {"start_date": "2025-11-24", "end_date": "2025-12-05"}
DAYS = {"start": "2025-11-24", "end": "2025-12-05"}


def expected() -> dict[str, list[dict[str, Any]]]:
    """The days of each symbol, as the oracle has computed them."""
    found: dict[str, list[dict[str, Any]]] = {}
    with (REPO / "tests" / "expected" / "otc_metrics_daily.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            numbers = {
                name: int(text) if name.endswith("_count") else text or None
                for name, text in row.items()
            }
            found.setdefault(row["symbol"], []).append(numbers)
    return found


@pytest.fixture(scope="module")
def filled(shared: Api) -> Api:
    """The API after the backfill of the README."""
    shared.run("otc_backfill_range", captured_at="2025-12-06T12:00:00Z", **RANGE)
    return shared


def test_a_backfill_is_followed_to_its_end(filled: Api) -> None:
    (parent,) = filled.get("/executions", pipeline="otc_backfill_range")["items"]
    assert (parent["status"], parent["result"]) == ("succeeded", {"days": 9})
    children = filled.get("/executions", parent_id=parent["id"])["items"]
    assert len(children) == 9
    assert {child["status"] for child in children} == {"succeeded"}
    assert {child["root_id"] for child in children} == {parent["id"]}
    events = filled.get(f"/executions/{parent['id']}/events")["items"]
    assert [event["kind"] for event in events] == ["submitted", "started", "waiting", "succeeded"]


def test_the_metrics_equal_the_oracles_to_the_digit(filled: Api) -> None:
    for symbol, days in expected().items():
        found = filled.get("/otc/metrics/daily", symbol=symbol, **DAYS)["items"]
        for day in found:
            assert datetime.fromisoformat(day.pop("computed_at")).tzinfo == UTC
        assert found == days


def test_as_of_answers_what_was_known(filled: Api) -> None:
    (symbol, days), *_ = expected().items()
    query = {"symbol": symbol, **DAYS}
    later = filled.get("/otc/metrics/daily", as_of="2025-12-06T13:00:00+01:00", **query)
    assert [{**day, "computed_at": None} for day in days] == later["items"]
    earlier = filled.get("/otc/metrics/daily", as_of="2025-12-06T11:59:59Z", **query)
    assert earlier["items"] == []


def pages(api: Api, **query: object) -> Iterator[list[dict[str, Any]]]:
    page = api.get("/otc/trades", **query)
    yield page["items"]
    while page["next_cursor"]:
        page = api.get("/otc/trades", cursor=page["next_cursor"], **query)
        yield page["items"]


def test_trades_are_paged_in_the_order_of_time(filled: Api) -> None:
    query = {"symbol": "ALDRF", **DAYS}
    (whole,) = pages(filled, limit=1000, **query)
    assert len(whole) > 800
    order = [(trade["trade_date"], trade["trade_ts"], trade["source_seq"]) for trade in whole]
    assert order == sorted(order)
    assert len({(trade["source"], trade["trade_id"]) for trade in whole}) == len(whole)
    for limit in (97, 450, len(whole) - 1, len(whole)):
        cut = [*pages(filled, limit=limit, **query)]
        assert [len(page) for page in cut[:-1]] == [limit] * (len(cut) - 1)
        assert [trade for page in cut for trade in page] == whole
    one = filled.get(
        "/otc/trades", symbol="ALDRF", start="2025-11-25", end="2025-11-25", limit=1000
    )
    assert one["items"] == [trade for trade in whole if trade["trade_date"] == "2025-11-25"]


def test_trades_carry_exact_numbers_and_utc_instants(filled: Api) -> None:
    for trade in filled.get("/otc/trades", symbol="ALDRF", limit=1000, **DAYS)["items"]:
        for name in ("price", "size", "notional"):
            whole, _, decimals = trade[name].partition(".")
            assert whole.isdigit()
            assert len(decimals) == 6
        assert trade["trade_ts"].endswith("Z")


def test_a_symbol_that_was_never_seen_is_not_found(filled: Api) -> None:
    for path in ("/otc/metrics/daily", "/otc/trades"):
        answer = filled.http.get(path, params={"symbol": "NOBODY", **DAYS})
        assert answer.status_code == 404
        assert "NOBODY" in answer.json()["detail"]
        assert "ALDRF" in answer.json()["detail"]


def test_a_year_is_the_longest_range(filled: Api) -> None:
    query = {"symbol": "ALDRF", "start": "2025-01-01"}
    assert filled.get("/otc/metrics/daily", end="2026-01-01", **query)["items"]
    for path in ("/otc/metrics/daily", "/otc/trades"):
        answer = filled.http.get(path, params={**query, "end": "2026-01-02"})
        assert answer.status_code == 422
        assert [fault["field"] for fault in answer.json()["errors"]] == ["end"]


def test_rejected_records_are_dead_letters(filled: Api) -> None:
    letters = filled.get("/dead-letters", kind="record", limit=1000)["items"]
    assert {letter["field"] for letter in letters} >= {"price", "size", "conditions", "symbol"}
    assert all(letter["payload"] and letter["reason"] for letter in letters)
    page = filled.get("/dead-letters", kind="record", limit=len(letters) - 1)
    rest = filled.get("/dead-letters", kind="record", cursor=page["next_cursor"])
    assert page["items"] + rest["items"] == letters
    assert rest["next_cursor"] is None
