"""The recurring ingest: no record is skipped or read twice, whatever happens in between."""

import os
import signal
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from market_spine import database, dispatcher, runner
from market_spine.schema import ingest_cursors, otc_captures, otc_trades_raw
from market_spine.services.otc import cursors
from tests.support import REPO, Spine, spine_in
from tests.tape import Row, trade
from tests.test_concurrency import at_once
from tests.test_crashes import die, statements


def rows(count: int) -> list[Row]:
    return [trade(f"T{number}") for number in range(count)]


def ingest(spine: Spine, path: str = "tape.csv", cursor: str = "c", **params: object) -> Any:
    return spine.run("otc_ingest_next", cursor=cursor, path=path, **params)["result"]


def read(spine: Spine) -> list[tuple[str, int]]:
    """What bronze has, in the order in which it came."""
    found = sorted(spine.rows(otc_trades_raw), key=lambda row: row["raw_id"])
    return [(row["source_file"], row["source_row"]) for row in found]


def position(spine: Spine) -> int:
    (cursor,) = spine.rows(ingest_cursors)
    found: int = cursor["position"]
    return found


def test_batches_follow_each_other_until_there_is_no_more(spine: Spine) -> None:
    spine.tape(*rows(5))
    told = [ingest(spine, batch_size=2) for _ in range(4)]
    assert [(one["records"], one["position"]) for one in told] == [(2, 2), (2, 4), (1, 5), (0, 5)]
    assert read(spine) == [("tape.csv", number) for number in range(1, 6)]
    assert spine.count(otc_captures) == 3, "nothing new is no capture"
    spine.tape(*rows(6))
    assert ingest(spine)["records"] == 1
    assert read(spine)[-1] == ("tape.csv", 6)
    spine.settle()
    assert {*spine.silver()} == {f"T{number}" for number in range(6)}


def test_the_sample_in_batches_is_the_sample(spine: Spine) -> None:
    sample = str(REPO / "data/otc_sample.csv")
    at = "2025-12-08T12:00:00Z"
    while ingest(spine, sample, batch_size=1500, captured_at=at)["records"]:
        spine.settle()
    in_batches = spine.gold(), spine.rejected()
    with spine_in(Path(spine.folder / "whole").resolve(), "sqlite") as whole:
        whole.run("otc_ingest", path=sample, captured_at=at)
        whole.settle()
        assert (whole.gold(), whole.rejected()) == in_batches


@pytest.mark.parametrize("change", ["cut", "replaced", "edited", "other", "before"])
def test_a_source_that_is_another_is_refused(change: str, spine: Spine) -> None:
    folder = spine.folder / "source"
    folder.mkdir()
    spine.tape(*rows(4), name="source/b.csv")
    ingest(spine, "source", batch_size=3)
    match change:
        case "cut":
            spine.tape(*rows(2), name="source/b.csv")
        case "replaced":
            spine.tape(*[trade(f"U{number}") for number in range(9)], name="source/b.csv")
        case "edited":
            edited = [*rows(2), trade("T2", price="11"), *rows(9)[3:]]
            spine.tape(*edited, name="source/b.csv")
        case "other":
            (folder / "b.csv").rename(folder / "c.csv")
        case "before":
            spine.tape(*rows(1), name="source/a.csv")
    failed = spine.submit("otc_ingest_next", cursor="c", path="source")
    failed.fails(1, "cursor 'c'", "3 records", "another name")
    assert position(spine) == len(read(spine)) == 3
    ingest(spine, "source", cursor="d")
    assert len(read(spine)) > 3


def test_what_comes_behind_may_change_and_the_folder_may_move(spine: Spine) -> None:
    (spine.folder / "source").mkdir()
    spine.tape(*rows(2), name="source/a.csv")
    assert ingest(spine, "source")["position"] == 2
    spine.tape(*rows(2), name="source/b.csv")
    (spine.folder / "source").rename(spine.folder / "moved")
    assert ingest(spine, "moved")["position"] == 4
    assert read(spine)[2:] == [("b.csv", 1), ("b.csv", 2)]


def test_a_source_that_cannot_be_read_moves_nothing(spine: Spine) -> None:
    spine.tape(*rows(3))
    ingest(spine, batch_size=2)
    text = (spine.folder / "tape.csv").read_bytes()
    (spine.folder / "tape.csv").write_bytes(text + b"\xff\xfe,\n")
    spine.submit("otc_ingest_next", cursor="c", path="tape.csv").fails(1, "tape.csv", "UTF-8")
    assert position(spine) == len(read(spine)) == 2
    (spine.folder / "tape.csv").write_bytes(text)
    assert ingest(spine)["position"] == 3


@pytest.mark.parametrize("given", [{}, {"cursor": ""}, {"cursor": "c", "batch_size": 0}])
def test_wrong_params_are_refused(given: dict[str, object], spine: Spine) -> None:
    spine.submit("otc_ingest_next", **given).fails(2, [*given, "cursor"][-1])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs processes that fork")
def test_a_kill_at_any_statement_moves_both_or_neither(spine: Spine) -> None:
    spine.tape(*rows(40))
    ingest(spine, batch_size=3)
    stop = statements(spine, lambda: None)
    ingest(spine, batch_size=3)
    sent = stop()
    assert sent > 8
    for number in range(1, sent + 1):
        before = position(spine)
        kill(spine, number)
        assert position(spine) == len(read(spine)) in (before, before + 3)
    while ingest(spine, batch_size=3)["records"]:
        pass
    assert read(spine) == [("tape.csv", number) for number in range(1, 41)]


def kill(spine: Spine, at: int) -> None:
    """Ingest in a process that is killed at its n-th statement."""
    spine.restart()
    child = os.fork()
    if not child:
        statements(spine, die, at)
        try:
            spine.submit("otc_ingest_next", cursor="c", path="tape.csv", batch_size=3)
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) in (0, -signal.SIGKILL)


def test_many_at_once_skip_nothing_and_read_nothing_twice(
    spine: Spine, store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if store == "sqlite":
        pytest.skip("one process runs one execution at a time")
    monkeypatch.setenv("SPINE_BACKEND", "thread")  # whose worker is not begun here
    spine.restart()
    spine.tape(*rows(30))
    params = {"cursor": "c", "path": "tape.csv", "batch_size": 4}
    queued = [dispatcher.submit("otc_ingest_next", params).id for _ in range(8)]
    at_once(*[partial(runner.run_pipeline, one) for one in queued])
    while position(spine) < 30:  # some found the cursor in use, and left it to those behind them
        runner.run_pipeline(dispatcher.submit("otc_ingest_next", params).id)
    assert read(spine) == [("tape.csv", number) for number in range(1, 31)]
    assert {row["status"] for row in spine.executions()} == {"succeeded"}


def test_a_cursor_that_is_in_use_is_not_waited_for(spine: Spine, store: str) -> None:
    """A source may take its time, and a tick of each minute would take a worker."""
    if store == "sqlite":
        pytest.skip("one process runs one execution at a time")
    spine.tape(*rows(4))
    ingest(spine, batch_size=2)
    with database.transaction() as connection:
        assert cursors.take(connection, "c")
        assert ingest(spine, batch_size=2) == {"records": 0, "cursor": "in use"}
    assert ingest(spine, batch_size=2)["position"] == 4
