"""Every command: what it prints, its JSON, its exit code."""

import json
import re
from typing import Any

import pytest

from market_spine import __name__ as package
from tests.cli.conftest import columns
from tests.support import Spine
from tests.tape import trade

DAY = ("--start", "2025-11-24", "--end", "2025-11-24")
UNKNOWN = "01a2078f-9888-736d-bbb0-3a6be4ca9fd6"


def test_help_lists_the_commands(spine: Spine) -> None:
    for args in ([], ["--help"]):
        shown = spine(*args)
        for command in ("run", "pipelines", "executions", "dead-letters", "metrics", "trades"):
            assert re.search(rf"\b{command}\b", shown.out + shown.err)
    for command in ("run", "executions", "dead-letters", "metrics"):
        assert "--help" in spine.ok(command, "--help").out


def test_pipelines_lists_what_there_is(spine: Spine) -> None:
    found = {row["name"]: row for row in spine.json("pipelines")}
    assert {
        "otc_ingest",
        "otc_normalize",
        "otc_compute_daily_metrics",
        "otc_backfill_range",
        "otc_backfill_day",
    } <= found.keys()
    assert "start_date*" in found["otc_backfill_range"]["params"]
    assert "symbols" in found["otc_backfill_range"]["params"]
    table = columns(spine.ok("pipelines").out)
    assert table[0][0] == "pipeline"
    assert [row[0] for row in table[1:]] == sorted(found)


def test_run_tells_how_it_went(spine: Spine) -> None:
    path = spine.tape(trade())
    ended = spine.ok("run", "otc_ingest", "-p", f"path={path}", "--param", "source=otc")
    assert re.fullmatch(r"otc_ingest succeeded \([0-9a-f-]{36}\) .*records=1\n", ended.out)
    assert ended.err == ""
    execution = spine.json("run", "otc_normalize")
    assert execution["status"] == "succeeded"
    assert execution["lane"] == "default"


def test_run_points_to_the_execution_that_failed(spine: Spine) -> None:
    failed = spine("run", "otc_ingest", "-p", "path=nothing.csv")
    failed.fails(1, "nothing.csv")
    (execution,) = spine.executions()
    assert failed.err.splitlines()[-1] == f"see: spine executions show {execution['id']}"
    assert f"otc_ingest failed ({execution['id']})" in failed.out


@pytest.mark.parametrize(
    ("given", "culprit"),
    [
        (["-p", "path"], "path: write it as name=value"),
        (["-p", "=x"], "=x: write it as name=value"),
        (["-p", "path=a", "-p", "path=b"], "path: given twice"),
    ],
)
def test_run_refuses_params_that_are_not_name_and_value(
    given: list[str], culprit: str, spine: Spine
) -> None:
    spine("run", "otc_ingest", *given).fails(2, culprit)


def test_a_value_may_hold_an_equals_sign(spine: Spine) -> None:
    spine.tape(trade(), name="a=b.csv")
    assert spine.run("otc_ingest", path="a=b.csv")["params"]["path"] == "a=b.csv"


def test_executions_lists_the_newest_first(filled: Spine) -> None:
    found = filled.json("executions")
    assert found == filled.json("executions", "list")
    assert [row["pipeline"] for row in found] == [
        "otc_compute_daily_metrics",
        "otc_normalize",
        "otc_ingest",
    ]
    assert all(isinstance(row["seconds"], float) for row in found)
    table = columns(filled.ok("executions", "list").out)
    assert [row[0] for row in table] == ["execution", *(row["id"] for row in found)]


def test_executions_may_be_chosen(filled: Spine) -> None:
    filled.submit("otc_ingest", path="nothing.csv")

    def listed(*chosen: object) -> list[str]:
        return [row["pipeline"] for row in filled.json("executions", "list", *chosen)]

    assert listed("--status", "failed") == ["otc_ingest"]
    assert listed("--status", "running") == []
    assert listed("--pipeline", "otc_normalize") == ["otc_normalize"]
    assert listed("--limit", 1) == ["otc_ingest"]
    filled("executions", "list", "--status", "lost").fails(2, "--status lost", "queued")


def test_show_tells_the_events_as_a_timeline(filled: Spine) -> None:
    execution = filled.executions()[1]
    shown = filled.json("executions", "show", execution["id"])
    assert [event["seq"] for event in shown["events"]] == [1, 2, 3, 4]
    assert shown["children"] == []
    out = filled.ok("executions", "show", execution["id"]).out
    timeline = out.partition("timeline\n")[2].splitlines()
    assert [line.split("s  ")[1].split()[0] for line in timeline] == [
        *("submitted", "started", "normalized", "succeeded")
    ]
    assert "rejected=1" in timeline[2]


def test_show_lists_children(spine: Spine) -> None:
    dates = {"start_date": "2025-11-26", "end_date": "2025-11-28"}
    path = spine.tape(trade())
    parent = spine.run("otc_backfill_range", path=path, **dates)
    out = spine.ok("executions", "show", parent["id"]).out
    assert out.partition("children\n")[2].count("otc_backfill_day") == 2


def test_dead_letters_are_listed_and_shown(filled: Spine) -> None:
    filled.submit("otc_ingest", path="nothing.csv")
    found = filled.json("dead-letters")
    assert found == filled.json("dead-letters", "list")
    assert [row["kind"] for row in found] == ["execution", "record"]
    assert [row["kind"] for row in filled.json("dead-letters", "list", "--limit", 1)] == [
        "execution"
    ]
    (record,) = filled.json("dead-letters", "list", "--kind", "record")
    assert (record["field"], record["reason"]) == ("price", "'abc' is not a plain decimal number")
    shown = filled.json("dead-letters", "show", record["id"])
    assert shown == record
    assert json.loads(shown["payload"])["trade_id"] == "BAD"
    out = filled.ok("dead-letters", "show", record["id"]).out
    assert '"trade_id":"BAD"' in out
    table = columns(filled.ok("dead-letters", "list").out)
    assert [row[0] for row in table] == ["dead letter", *(row["id"] for row in found)]
    filled("dead-letters", "list", "--kind", "trade").fails(2, "--kind trade", "record")


def test_closed_letters_are_listed_only_if_asked_for(spine: Spine) -> None:
    spine.submit("otc_ingest", path="late.csv")
    (letter,) = spine.letters()
    spine.tape(trade(), name="late.csv")
    spine.ok("dead-letters", "retry", letter["id"])
    assert spine.json("dead-letters", "list") == []
    (closed,) = spine.json("dead-letters", "list", "--closed")
    assert closed["id"] == letter["id"]


@pytest.mark.parametrize(
    "args",
    [
        ["metrics", "daily", "ACME", "--start", "2024-01-01", "--end", "2024-01-02"],
        ["trades", "ACME", "--start", "2024-01-01", "--end", "2024-01-02"],
        ["executions", "list", "--status", "running"],
        ["dead-letters", "list", "--kind", "execution"],
    ],
)
def test_nothing_is_said_in_words_and_in_json(args: list[str], filled: Spine) -> None:
    assert filled.json(*args) == []
    assert filled.ok(*args).out.startswith("There are no ")


@pytest.mark.parametrize(
    ("args", "culprits"),
    [
        (["metrics", "daily", "NONE", *DAY], ["'NONE'", "ACME"]),
        (["trades", "NONE", *DAY], ["'NONE'", "ACME"]),
        (["metrics", "daily", "acme", *DAY], ["'acme'"]),
        (
            ["metrics", "daily", "ACME", "--start", "2025-11-25", "--end", "2025-11-24"],
            ["2025-11-25", "2025-11-24"],
        ),
        (["trades", "ACME", "--start", "2025-11-25", "--end", "2025-11-24"], ["2025-11-25"]),
        (["metrics", "daily", "ACME", "--start", "monday", "--end", "2025-11-24"], ["monday"]),
        (["trades", "ACME", "--start", "2025-11-24", "--end", "24/11/2025"], ["24/11/2025"]),
        (["metrics", "daily", "ACME", *DAY, "--as-of", "2025-11-24"], ["--as-of", "zone"]),
        (["metrics", "daily", "ACME", *DAY, "--as-of", "noon"], ["--as-of", "noon"]),
        (["executions", "show", UNKNOWN], [UNKNOWN]),
        (["dead-letters", "show", UNKNOWN], [UNKNOWN]),
        (["dead-letters", "retry", UNKNOWN], [UNKNOWN]),
    ],
    ids=lambda value: " ".join(value),
)
def test_what_cannot_be_answered_is_said_in_one_line(
    args: list[str], culprits: list[str], filled: Spine
) -> None:
    filled(*args).fails(2, *culprits)
    filled(*args, "--json").fails(2, *culprits)


@pytest.mark.parametrize(
    "args",
    [
        ["nothing"],
        ["run"],
        ["run", "otc_ingest", "--nothing"],
        ["executions", "show", "not-an-id"],
        ["executions", "list", "--limit", "0"],
        ["executions", "list", "--limit", "many"],
        ["metrics", "daily", "ACME", "--start", "2025-11-24"],
        ["trades"],
    ],
    ids=" ".join,
)
def test_a_wrong_command_ends_with_2_and_without_a_traceback(args: list[str], spine: Spine) -> None:
    refused = spine(*args)
    assert refused.code == 2
    assert refused.out == ""
    assert "Traceback" not in refused.err
    assert package not in refused.err


def test_a_folder_without_a_store_gets_an_empty_one(spine: Spine) -> None:
    assert spine.json("executions", "list") == []
    assert spine.json("dead-letters", "list") == []
    spine("metrics", "daily", "ACME", *DAY).fails(2, "'ACME'", "none yet")
    spine("trades", "ACME", *DAY).fails(2, "'ACME'", "none yet")
    assert spine.run("otc_normalize")["result"] == {"captures": 0}


def test_a_person_s_text_is_shown_as_it_is(spine: Spine) -> None:
    """Square brackets are markup to the library that prints the tables."""
    spine.take(trade("[bold]T[/bold]"), trade("[/x]", side="[/red]"))
    assert "[bold]T[/bold]" in spine.ok("trades", "ACME", *DAY).out
    (letter,) = spine.letters()
    assert "[/red]" in spine.ok("dead-letters", "list").out
    assert "[/red]" in spine.ok("dead-letters", "show", letter["id"]).out


def test_every_json_is_one_document_without_floats(filled: Spine) -> None:
    def floats(value: Any) -> list[Any]:
        match value:
            case dict():
                return [
                    f for name, item in value.items() if name != "seconds" for f in floats(item)
                ]
            case list():
                return [f for item in value for f in floats(item)]
            case _:
                return [value] if isinstance(value, float) else []

    (letter,) = filled.letters()
    for args in (
        ["pipelines"],
        ["executions", "list"],
        ["executions", "show", filled.executions()[0]["id"]],
        ["dead-letters", "list"],
        ["dead-letters", "show", letter["id"]],
        ["metrics", "daily", "ACME", *DAY],
        ["metrics", "daily", "ACME", *DAY, "--as-of", "2025-12-31T00:00:00Z"],
        ["trades", "ACME", *DAY],
        ["run", "otc_compute_daily_metrics"],
    ):
        assert floats(filled.json(*args)) == []
