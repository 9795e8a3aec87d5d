"""run_pipeline: one way through, all of the output or nothing, and children that are waited for."""

import pytest
from uuid_utils.compat import uuid7

from market_spine import database, dispatcher, ledger, runner
from market_spine.ledger import Execution
from market_spine.schema import dead_letters, execution_events, executions, otc_stale_days
from tests.support import Ended, Spine

WRITE = (
    "from datetime import date",
    "from sqlalchemy import insert",
    "from market_spine.schema import otc_stale_days",
    "row = {'symbol': f'S{params.n}', 'trade_date': date(2025, 11, 24)}",
    "context.connection.execute(insert(otc_stale_days), row)",
)


def tree(spine: Spine, root: Ended) -> dict[str, str]:
    """The state of each execution below a root, and of the root, by pipeline and n."""
    return {
        f"{execution['pipeline']} {execution['params'].get('n', '')}".strip(): execution["status"]
        for execution in spine.executions()
        if execution["root_id"] == root.json["id"]
    }


def test_output_and_success_are_one_transaction(spine: Spine) -> None:
    spine.pipeline("works", *WRITE, "context.stage_done('computed', {'n': params.n})", "return {}")
    execution = spine.run("works", n=7)
    assert [row["symbol"] for row in spine.rows(otc_stale_days)] == ["S7"]
    shown = spine.json("executions", "show", execution["id"])
    assert [(event["kind"], event["data"]) for event in shown["events"][1:]] == [
        ("started", {}),
        ("computed", {"n": 7}),
        ("succeeded", {}),
    ]
    assert execution["params"] == {"n": 7}
    spine.check_ledger()


def test_what_fails_leaves_nothing_but_a_letter(spine: Spine) -> None:
    spine.pipeline("breaks", *WRITE, "context.stage_done('computed', {})", "return {'r': 1 // 0}")
    failed = spine.submit("breaks", n=1)
    failed.fails(1, "ZeroDivisionError", "division")
    assert "Traceback" not in failed.err
    assert spine.rows(otc_stale_days) == []
    (letter,) = spine.letters()
    assert letter["execution_id"] == failed.json["id"]
    events = spine.json("executions", "show", failed.json["id"])["events"]
    assert [event["kind"] for event in events] == ["submitted", "started", "failed"]
    assert "1 // 0" in events[-1]["data"]["traceback"], "the traceback is kept for who asks"
    assert "1 // 0" in spine.ok("executions", "show", failed.json["id"]).out
    spine.check_ledger()


def test_an_error_that_is_meant_for_people_has_no_traceback(spine: Spine) -> None:
    spine.pipeline("refuses", "raise SourceError('the tape is torn')")
    failed = spine.submit("refuses")
    failed.fails(1, "the tape is torn")
    (event,) = spine.json("executions", "show", failed.json["id"])["events"][2:]
    assert event["data"] == {"error": "the tape is torn"}


@pytest.mark.parametrize("result", ["{'r': object()}", "{1: 2}"])
def test_a_result_that_cannot_be_kept_fails(result: str, spine: Spine) -> None:
    spine.pipeline("odd", *WRITE, f"return {result}")
    spine.submit("odd").fails(1, "Type")
    assert spine.rows(otc_stale_days) == []
    spine.check_ledger()


def test_an_error_of_many_lines_is_told_in_one(spine: Spine) -> None:
    spine.pipeline("breaks", r"raise ValueError('one\ntwo\nthree')")
    failed = spine.submit("breaks")
    failed.fails(1, "ValueError", "one")
    events = spine.json("executions", "show", failed.json["id"])["events"]
    assert "three" in events[-1]["data"]["traceback"]


def test_an_interrupt_cancels(spine: Spine) -> None:
    spine.pipeline("stops", *WRITE, "raise KeyboardInterrupt")
    assert spine.submit("stops").code == 130
    (execution,) = spine.executions()
    assert execution["status"] == "cancelled"
    assert spine.rows(otc_stale_days) == []
    assert spine.letters() == []
    spine.check_ledger()


@pytest.mark.parametrize("place", ["_work", "dispatcher.enqueue"])
def test_an_interrupt_behind_a_parent_s_commit_cancels_its_children(
    spine: Spine, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    spine.pipeline("child", "return {}")
    spine.pipeline("parent", *["context.spawn('child', {})"] * 2, "return {}")
    works, enqueues = runner._work, dispatcher.enqueue

    def work(execution: Execution) -> list[Execution]:
        works(execution)
        raise KeyboardInterrupt

    def enqueue(execution: Execution) -> Execution:
        if execution.parent_id:
            raise KeyboardInterrupt
        return enqueues(execution)

    monkeypatch.setattr(f"market_spine.runner.{place}", work if place == "_work" else enqueue)
    assert spine.submit("parent").code == 130
    monkeypatch.undo()
    assert {row["status"] for row in spine.executions()} == {"cancelled"}
    assert spine.letters() == []
    spine.check_ledger()


def test_a_cancel_is_met_at_the_next_checkpoint(spine: Spine) -> None:
    spine.pipeline(
        "long",
        *WRITE,
        "ledger.request_cancel(context.connection, context.execution.id)",
        "context.checkpoint('half', 1, 2)",
        "return {}",
    )
    ended = spine.submit("long")
    assert (ended.code, ended.json["status"]) == (1, "cancelled")
    assert spine.rows(otc_stale_days) == []
    assert spine.letters() == []
    spine.check_ledger()


def test_a_cancel_before_children_are_named_lets_none_begin(spine: Spine) -> None:
    spine.pipeline("child", "return {}")
    spine.pipeline(
        "parent",
        "ledger.request_cancel(context.connection, context.execution.id)",
        "context.spawn('child', {})",
        "return {}",
    )
    assert spine.submit("parent").json["status"] == "cancelled"
    assert {execution["pipeline"] for execution in spine.executions()} == {"parent"}


def test_running_again_late_or_by_an_unknown_id_is_harmless(spine: Spine) -> None:
    spine.pipeline("works", *WRITE, "return {}")
    execution = dispatcher.submit("works", {})
    before = spine.rows(execution_events), spine.rows(executions)
    runner.run_pipeline(execution.id)
    runner.run_pipeline(uuid7())
    assert (spine.rows(execution_events), spine.rows(executions)) == before


def test_a_pipeline_that_is_gone_when_it_is_run_fails(spine: Spine) -> None:
    spine.pipeline("leaves", "return {}")
    with database.transaction() as connection:
        execution = dispatcher.submit_in(connection, "leaves", {})
    (spine.folder / "pipelines" / "leaves.py").unlink()
    spine.restart()
    spine.ok("executions", "list")
    with database.snapshot() as connection:
        ended = ledger.get(connection, execution.id)
    assert ended.status == "failed"
    assert "no pipeline 'leaves'" in str(ended.error)


# --- children ----------------------------------------------------------------------------------

CHILDREN = ("for n in range(params.n):", "    context.spawn('child', {'n': n})", "return {}")


def test_a_parent_ends_with_its_last_child(spine: Spine) -> None:
    spine.pipeline("child", *WRITE, "return {}")
    spine.pipeline("parent", *CHILDREN)
    ended = spine.submit("parent", n=3)
    assert ended.json["status"] == "succeeded"
    assert tree(spine, ended) == {f"child {n}": "succeeded" for n in range(3)} | {
        "parent 3": "succeeded"
    }
    assert len(spine.rows(otc_stale_days)) == 3
    shown = spine.json("executions", "show", ended.json["id"])
    assert [child["params"] for child in shown["children"]] == [{"n": n} for n in range(3)]
    assert [event["kind"] for event in shown["events"]] == [
        "submitted",
        "started",
        "waiting",
        "succeeded",
    ]
    spine.check_ledger()


def test_a_parent_without_children_succeeds_at_once(spine: Spine) -> None:
    spine.pipeline("child", "return {}")
    spine.pipeline("parent", *CHILDREN)
    assert spine.run("parent", n=0)["version"] == 3


def test_a_failed_child_fails_its_parent_and_the_others_go_through(spine: Spine) -> None:
    spine.pipeline(
        "child", *WRITE, "if params.n == 1:", "    raise SourceError('torn')", "return {}"
    )
    spine.pipeline("parent", *CHILDREN)
    ended = spine.submit("parent", n=3)
    ended.fails(1, "1 of 3 children did not succeed")
    assert tree(spine, ended) == {
        "parent 3": "failed",
        "child 0": "succeeded",
        "child 1": "failed",
        "child 2": "succeeded",
    }
    assert [row["symbol"] for row in spine.rows(otc_stale_days)] == ["S0", "S2"]
    (letter,) = spine.letters()
    assert letter["reason"] == "torn", "the parent has no letter of its own"
    spine.check_ledger()


def test_the_retry_of_a_child_is_a_root_and_leaves_the_parent_as_it_ended(spine: Spine) -> None:
    spine.pipeline("child", "if params.n == 1:", "    raise SourceError('torn')", "return {}")
    spine.pipeline("parent", *CHILDREN)
    parent = spine.submit("parent", n=2)
    (letter,) = spine.letters()
    spine.pipeline("child", "return {'mended': True}")
    spine.restart()
    retried = spine.json("dead-letters", "retry", letter["id"])
    assert retried["retry_of"] == letter["execution_id"]
    assert (retried["root_id"], retried["parent_id"]) == (retried["id"], None)
    assert (retried["status"], retried["params"]) == ("succeeded", {"n": 1})
    assert spine.json("executions", "show", parent.json["id"])["status"] == "failed"
    assert spine.letters() == []
    spine.check_ledger()


def test_children_may_have_children(spine: Spine) -> None:
    spine.pipeline("leaf", "if params.n == 3:", "    raise SourceError('torn')", "return {}")
    spine.pipeline("child", "context.spawn('leaf', {'n': params.n + 2})", "return {}")
    spine.pipeline("parent", *CHILDREN)
    ended = spine.submit("parent", n=2)
    assert tree(spine, ended) == {
        "parent 2": "failed",
        "child 0": "succeeded",
        "child 1": "failed",
        "leaf 2": "succeeded",
        "leaf 3": "failed",
    }
    assert len(spine.rows(dead_letters)) == 1
    spine.check_ledger()


@pytest.mark.parametrize("child", ["'nobody', {}", "'child', {'x': 1}", "'child', {'n': 'many'}"])
def test_a_child_that_cannot_be_submitted_fails_the_parent(child: str, spine: Spine) -> None:
    spine.pipeline("child", "return {}")
    spine.pipeline(
        "parent", *WRITE, "context.spawn('child', {})", f"context.spawn({child})", "return {}"
    )
    ended = spine.submit("parent", n=1)
    ended.fails(1, child.split("'")[1])
    assert tree(spine, ended) == {"parent 1": "failed"}
    assert spine.rows(otc_stale_days) == []
    assert len(spine.letters()) == 1
    spine.check_ledger()
