"""The sample from end to end, against what an independent oracle expects of it."""

import csv
import shutil
from pathlib import Path

import pytest

from market_spine.schema import otc_captures, otc_trades_raw
from tests.support import REPO, spine_in

EXPECTED = REPO / "tests" / "expected" / "otc_metrics_daily.csv"
RANGE = {"start_date": "2025-11-24", "end_date": "2025-12-05"}
DAYS = [f"2025-11-{day}" for day in (24, 25, 26, 28)] + [f"2025-12-0{day}" for day in range(1, 6)]


def with_sample(folder: Path) -> Path:
    (folder / "data").mkdir()
    shutil.copy(REPO / "data" / "otc_sample.csv", folder / "data")
    return folder


@pytest.fixture(scope="module")
def staged(store: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder whose store was filled stage by stage."""
    folder = with_sample(tmp_path_factory.mktemp("staged"))
    with spine_in(folder, store) as spine:
        spine.run("otc_ingest")
        spine.settle()
    return folder


def expected() -> dict[tuple[str, str], dict[str, object]]:
    rows = {}
    with EXPECTED.open(newline="") as file:
        for row in csv.DictReader(file):
            key = row.pop("symbol"), row.pop("date")
            rows[key] = {
                name: int(text) if name.endswith("_count") else text or None
                for name, text in row.items()
            }
    return rows


def test_the_metrics_equal_those_of_the_oracle(staged: Path, store: str) -> None:
    with spine_in(staged, store) as spine:
        assert spine.gold() == expected()


def test_every_kind_of_fault_of_the_sample_is_a_letter(staged: Path, store: str) -> None:
    with spine_in(staged, store) as spine:
        fields = [field for field, _ in spine.faults()]
        assert {*fields} == {
            *("row", "trade_id", "source_seq", "event", "symbol", "trade_ts", "reported_at"),
            *("price", "size", "notional", "side", "venue", "conditions"),
        }
        spine.check_ledger()


def test_everything_twice_adds_a_capture_and_changes_nothing(staged: Path, store: str) -> None:
    with spine_in(staged, store) as spine:
        before, rows = spine.state(), spine.count(otc_trades_raw)
        letters = spine.letters()
        captures = spine.count(otc_captures)
        spine.run("otc_ingest")
        result = spine.run("otc_normalize")["result"]
        assert spine.run("otc_compute_daily_metrics")["result"]["days_computed"] == 0
        assert result["new_versions"] == 0
        assert spine.count(otc_captures) == captures + 1
        assert spine.count(otc_trades_raw) == rows // captures * (captures + 1)
        assert spine.state() == before
        assert spine.letters() == letters
        assert spine.letters(closed=True) == []


def test_a_backfill_gives_the_same_gold(tmp_path: Path, store: str) -> None:
    with spine_in(with_sample(tmp_path), store) as spine:
        parent = spine.run("otc_backfill_range", **RANGE)
        assert spine.gold() == expected()
        assert parent["result"] == {"days": len(DAYS)}
        shown = spine.json("executions", "show", parent["id"])
        assert [child["params"]["day"] for child in shown["children"]] == DAYS
        assert {child["status"] for child in shown["children"]} == {"succeeded"}
        assert {child["trigger_source"] for child in shown["children"]} == {"parent"}
        assert {child["parent_id"] for child in shown["children"]} == {parent["id"]}
        assert [event["kind"] for event in shown["events"]] == [
            "submitted",
            "started",
            "waiting",
            "succeeded",
        ]
        assert shown["events"][-1]["data"]["children"] == {"succeeded": len(DAYS)}
        for child in shown["children"]:
            events = spine.json("executions", "show", child["id"])["events"]
            assert [event["kind"] for event in events] == [
                *("submitted", "started", "captured", "normalized", "computed", "succeeded")
            ]
            assert events[2]["data"]["records"] == child["result"]["records"] > 0
        spine.check_ledger()
        before = spine.state()
        spine.run("otc_backfill_range", **RANGE)
        assert spine.state() == before


def test_days_may_be_filled_in_any_order(tmp_path: Path, store: str) -> None:
    with spine_in(with_sample(tmp_path), store) as spine:
        for day in reversed(DAYS):
            spine.run("otc_backfill_day", day=day)
        assert spine.gold() == expected()


def test_a_backfill_of_some_symbols_is_their_part(tmp_path: Path, store: str) -> None:
    with spine_in(with_sample(tmp_path), store) as spine:
        spine.run("otc_backfill_range", **RANGE, symbols="ALDRF,TWLE")
        gold = {key: day for key, day in expected().items() if key[0] in ("ALDRF", "TWLE")}
        assert spine.gold() == gold
