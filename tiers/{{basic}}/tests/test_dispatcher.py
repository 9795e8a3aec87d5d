"""submit(): the only way in. A request is checked in full before anything is written."""

from typing import Any
from uuid import UUID

import pytest

from market_spine import dispatcher
from market_spine.errors import ConflictError, NotFoundError, RequestError
from market_spine.schema import execution_events, executions
from tests.support import Spine
from tests.tape import trade


@pytest.mark.parametrize(
    ("pipeline", "params", "culprits"),
    [
        ("otc_nothing", {}, ["no pipeline 'otc_nothing'", "otc_ingest"]),
        ("", {}, ["no pipeline ''"]),
        ("__init__", {}, ["no pipeline '__init__'"]),
        ("otc_ingest", {"tape": "x"}, ["otc_ingest", "tape", "path"]),
        ("otc_backfill_range", {"start_date": "2025-11-24"}, ["end_date"]),
        ("otc_backfill_day", {}, ["day"]),
        ("otc_ingest", {"start_date": "Monday"}, ["start_date"]),
        ("otc_ingest", {"start_date": "2025-02-30"}, ["start_date"]),
        ("otc_ingest", {"captured_at": "2025-11-24T15:00:00"}, ["captured_at"]),
        ("otc_ingest", {"captured_at": "NaN"}, ["captured_at"]),
        ("otc_ingest", {"captured_at": "9000-01-01T00:00:00Z"}, ["captured_at: ", "future"]),
        ("otc_ingest", {"symbols": ""}, ["symbols"]),
        ("otc_ingest", {"start_date": "2025-11-25", "end_date": "2025-11-24"}, ["end_date: "]),
        (
            "otc_backfill_range",
            {"start_date": "2025-11-25", "end_date": "2025-11-24"},
            ["end_date: ", "2025-11-25", "2025-11-24"],
        ),
        (
            "otc_backfill_range",
            {"start_date": "2020-01-01", "end_date": "2025-11-24"},
            ["end_date: ", "longer than 366 days"],
        ),
        (
            "otc_compute_daily_metrics",
            {"start_date": "2025-11-25", "end_date": "2025-11-24"},
            ["2025-11-25"],
        ),
        ("otc_compute_daily_metrics", {"symbol": ""}, ["symbol"]),
        ("otc_normalize", {"capture_id": "first"}, ["capture_id"]),
        ("otc_normalize", {"raw_id": "1.5"}, ["raw_id"]),
        (
            "otc_normalize",
            {"raw_id": "1", "capture_id": "01a2078f-9888-736d-bbb0-3a6be4ca9fd6"},
            ["not both"],
        ),
    ],
    ids=str,
)
def test_a_request_that_is_wrong_writes_nothing(
    pipeline: str, params: dict[str, str], culprits: list[str], spine: Spine
) -> None:
    spine.submit(pipeline, **params).fails(2, *culprits)
    assert spine.count(executions) == 0
    assert spine.count(execution_events) == 0
    with pytest.raises(RequestError):
        dispatcher.submit(pipeline, params)


def test_params_are_kept_as_the_model_says_them(spine: Spine) -> None:
    spine.capture(trade())
    given = {"symbols": " ACME , BOLT", "start_date": "2025-11-24"}
    execution = spine.run("otc_ingest", path="tape.csv", **given)
    assert execution["params"] == {
        "connector": "file",
        "source": "otc",
        "path": "tape.csv",
        "symbols": ["ACME", "BOLT"],
        "captured_at": None,
        "start_date": "2025-11-24",
        "end_date": None,
    }
    shown = spine.json("executions", "show", execution["id"])
    assert shown["events"][0]["data"]["params"] == execution["params"]


# --- idempotency keys --------------------------------------------------------------------------

RANGE = {"symbol": "ACME", "start_date": "2025-11-24"}


def test_the_same_key_and_request_is_the_same_execution(spine: Spine) -> None:
    first = dispatcher.submit("otc_compute_daily_metrics", RANGE, idempotency_key="k")
    again = dispatcher.submit("otc_compute_daily_metrics", {**RANGE}, idempotency_key="k")
    assert again == first
    assert first.status == "succeeded"
    assert spine.count(executions) == 1
    spine.check_ledger()


@pytest.mark.parametrize(
    ("pipeline", "params", "lane"),
    [
        ("otc_compute_daily_metrics", {"symbol": "BOLT"}, None),
        ("otc_compute_daily_metrics", {}, None),
        ("otc_normalize", {}, None),
        ("otc_compute_daily_metrics", RANGE, "other"),
    ],
)
def test_the_same_key_and_another_request_is_refused(
    pipeline: str, params: dict[str, str], lane: str | None, spine: Spine
) -> None:
    first = dispatcher.submit("otc_compute_daily_metrics", RANGE, idempotency_key="k")
    with pytest.raises(ConflictError, match=f"'k'.*{first.id}"):
        dispatcher.submit(pipeline, params, lane, idempotency_key="k")
    assert spine.count(executions) == 1


def test_another_key_and_no_key_are_other_executions(spine: Spine) -> None:
    keys = ["k", "l", None, None]
    found = {dispatcher.submit("otc_normalize", {}, idempotency_key=key).id for key in keys}
    assert len(found) == spine.count(executions) == 4


# --- retries -----------------------------------------------------------------------------------


def failing(spine: Spine) -> dict[str, Any]:
    """The letter of an ingest whose file is not there yet."""
    spine.submit("otc_ingest", path="late.csv").fails(1, "late.csv")
    (letter,) = spine.letters()
    return letter


def test_a_failed_execution_is_retried_as_a_new_one(spine: Spine) -> None:
    letter = failing(spine)
    spine.tape(trade(), name="late.csv")
    retried = spine.json("dead-letters", "retry", letter["id"])
    assert retried["status"] == "succeeded"
    assert retried["retry_of"] == letter["execution_id"]
    assert retried["trigger_source"] == "retry"
    assert retried["params"]["path"] == "late.csv"
    assert spine.letters() == []
    (closed,) = spine.letters(closed=True)
    assert closed["retried_as"] == retried["id"]
    spine.check_ledger()


def test_a_second_retry_is_the_same_execution(spine: Spine) -> None:
    letter = failing(spine)
    spine.tape(trade(), name="late.csv")
    first = spine.json("dead-letters", "retry", letter["id"])
    assert spine.json("dead-letters", "retry", letter["id"]) == first
    assert spine.count(executions) == 2


def test_a_retry_that_fails_has_a_letter_of_its_own(spine: Spine) -> None:
    letter = failing(spine)
    retried = spine("dead-letters", "retry", letter["id"]).fails(1, "late.csv")
    (successor,) = spine.letters()
    (closed,) = spine.letters(closed=True)
    assert closed["id"] == letter["id"]
    assert successor["execution_id"] == closed["retried_as"] != letter["execution_id"]
    assert successor["execution_id"] in retried.out
    spine("dead-letters", "retry", letter["id"]).fails(1, "late.csv")
    assert len(spine.letters()) == 1, "the same execution, and it has failed"
    spine.check_ledger()


def test_a_letter_that_is_not_there_cannot_be_retried(spine: Spine) -> None:
    unknown = "01a2078f-9888-736d-bbb0-3a6be4ca9fd6"
    spine("dead-letters", "retry", unknown).fails(2, unknown)
    with pytest.raises(NotFoundError):
        dispatcher.retry(UUID(unknown))


# --- retries of records ------------------------------------------------------------------------


def rejected_record(spine: Spine) -> dict[str, Any]:
    """The letter of a record whose side the mapping does not know."""
    spine.take(trade("GOOD"), trade("BAD", side="B"), trade("WORSE", side="S"))
    letter = next(letter for letter in spine.letters() if '"BAD"' in letter["payload"])
    assert letter["field"] == "side"
    return letter


def correct_the_mapping(spine: Spine, values: str) -> None:
    path = spine.folder / "mappings" / "otc.toml"
    rule = f'side = {{ column = "side", values = {{ "" = "", {values} }} }}'
    path.write_text(path.read_text().replace('side = "side"', rule))


def test_a_record_is_cured_by_correcting_the_mapping(spine: Spine) -> None:
    letter = rejected_record(spine)
    correct_the_mapping(spine, 'B = "buy"')
    retried = spine.json("dead-letters", "retry", letter["id"])
    assert retried["pipeline"] == "otc_normalize"
    assert retried["params"] == {"capture_id": None, "raw_id": letter["raw_id"]}
    assert retried["retry_of"] == letter["execution_id"]
    assert (retried["result"]["read"], retried["result"]["new_versions"]) == (1, 1)
    assert spine.silver()["BAD"]["side"] == "buy"
    (closed,) = spine.letters(closed=True)
    assert (closed["id"], closed["retried_as"]) == (letter["id"], retried["id"])
    assert len(spine.letters()) == 1, "the other record is still to be cured"
    spine.run("otc_compute_daily_metrics")
    assert spine.day()["trade_count"] == 2
    assert spine.json("dead-letters", "retry", letter["id"]) == retried


def test_a_record_that_is_rejected_again_has_a_successor(spine: Spine) -> None:
    letter = rejected_record(spine)
    retried = spine.json("dead-letters", "retry", letter["id"])
    assert retried["status"] == "succeeded"
    assert retried["result"]["rejected"] == 1
    (closed,) = spine.letters(closed=True)
    assert (closed["id"], closed["retried_as"]) == (letter["id"], retried["id"])
    successor = next(row for row in spine.letters() if row["record_hash"] == letter["record_hash"])
    assert successor["execution_id"] == retried["id"]
    assert successor["retried_as"] is None
    correct_the_mapping(spine, 'B = "buy"')
    spine.ok("dead-letters", "retry", successor["id"])
    assert "BAD" in spine.silver()
    assert len(spine.letters(closed=True)) == 2


def test_normalizing_the_capture_again_closes_letters_too(spine: Spine) -> None:
    letter = rejected_record(spine)
    correct_the_mapping(spine, 'B = "buy", S = "sell"')
    spine.run("otc_normalize", capture_id=letter["capture_id"])
    assert spine.letters() == []
    assert {closed["retried_as"] for closed in spine.letters(closed=True)} == {None}
    assert {*spine.silver()} == {"GOOD", "BAD", "WORSE"}
    spine("dead-letters", "retry", letter["id"]).fails(2, letter["id"], "closed")


def test_a_record_has_one_open_letter_whichever_capture_brings_it(spine: Spine) -> None:
    bad = trade("BAD", price="abc")
    for day in (8, 9, 10):
        spine.take(bad, at=f"2025-12-{day:02}T12:00:00Z")
    assert len(spine.letters()) == 1
    assert spine.letters(closed=True) == []


def test_a_loser_s_retry_is_rejected_again(spine: Spine) -> None:
    spine.take(trade(price="10"), trade(price="11", source_seq="2"))
    (letter,) = spine.letters()
    assert letter["field"] == "trade_id"
    before = spine.versions(), spine.gold()
    retried = spine.json("dead-letters", "retry", letter["id"])
    assert retried["result"]["rejected"] == 1
    (successor,) = spine.letters()
    assert successor["execution_id"] == retried["id"]
    assert (spine.versions(), spine.gold()) == before
