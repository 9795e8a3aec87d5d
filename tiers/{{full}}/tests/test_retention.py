"""Retention: what is old leaves for the archive, whole, and comes back as it was."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pyarrow import parquet  # type: ignore[import-untyped]
from sqlalchemy import Table, text

from market_spine import database, dispatcher
from market_spine.schema import (
    dead_letters,
    execution_events,
    executions,
    metadata,
    otc_captures,
    otc_trades_raw,
)
from tests.postgres import Other
from tests.support import REPO, Spine, spine_in
from tests.tape import trade

DAYS = {"start_date": "2025-11-24", "end_date": "2025-11-26"}
LEDGER = (executions, execution_events, dead_letters)
BRONZE = (otc_captures, otc_trades_raw)
POLICIES = ("BRONZE", "EVENTS", "EXECUTIONS", "DEAD_LETTERS")
FAILS = "raise ZeroDivisionError('by zero')"
BAD = trade("BAD", trade_ts="2025-11-24T15:00:00")  # without a zone


@pytest.fixture(scope="module")
def store() -> str:
    """Only Postgres lets events go."""
    return "postgresql"


@pytest.fixture
def kept(spine: Spine, monkeypatch: pytest.MonkeyPatch) -> Spine:
    """The command line, with a policy of 30 days for every table, and an archive."""
    (spine.folder / "archive").mkdir()
    monkeypatch.setenv("SPINE_ARCHIVE", "archive")
    for policy in POLICIES:
        monkeypatch.setenv(f"SPINE_RETAIN_{policy}_DAYS", "30")
    spine.restart()
    return spine


@pytest.fixture
def filled(kept: Spine) -> Spine:
    """With executions of every kind, all of which ended long ago."""
    kept.pipeline("fails", FAILS)
    kept.run("otc_backfill_range", path=REPO / "data/otc_sample.csv", **DAYS)
    kept.submit("fails")
    kept("dead-letters", "retry", kept.letters()[-1]["id"])
    kept.submit("otc_normalize", raw_id=1)
    (open_one,) = (row for row in kept.letters() if row["kind"] == "execution")
    kept("dead-letters", "retry", open_one["id"])
    age()
    return kept


def age(days: int = 100) -> None:
    """Let everything be so much older."""
    changes = {
        "executions": ("created_at", "started_at", "finished_at"),
        "dead_letters": ("created_at", "closed_at"),
        "otc_captures": ("captured_at",),
        "otc_trades_raw": ("captured_at",),
        "otc_trades": ("known_from", "known_to"),
    }
    with database.transaction() as connection:
        for table, names in changes.items():
            older = ", ".join(f"{name} = {name} - make_interval(days => :days)" for name in names)
            connection.execute(text(f"UPDATE {table} SET {older}"), {"days": days})


def close_letters() -> None:
    """Let every letter have been closed, long ago."""
    with database.transaction() as connection:
        connection.execute(text("UPDATE dead_letters SET closed_at = now() - interval '90 days'"))


def everything(spine: Spine) -> dict[str, list[dict[str, Any]]]:
    """Every row of every table, in a fixed order."""
    return {
        table.name: sorted(spine.rows(table), key=lambda row: sorted(map(str, row.items())))
        for table in metadata.sorted_tables
    }


def counted(spine: Spine, *args: str) -> dict[str, int]:
    """How many rows of each table go."""
    return {row["table"]: row["removed"] for row in spine.json("retention", *args)}


def numbers(spine: Spine, *tables: Table) -> dict[str, int]:
    return {table.name: spine.count(table) for table in tables}


def test_what_is_old_is_counted_then_removed_and_comes_back_as_it_was(filled: Spine) -> None:
    close_letters()
    before = everything(filled)
    expected = numbers(filled, *BRONZE, *LEDGER)
    assert all(expected.values()), expected
    assert counted(filled) == expected
    assert everything(filled) == before
    assert not [*(filled.folder / "archive").iterdir()]

    assert counted(filled, "--apply") == expected
    assert set(numbers(filled, *BRONZE, *LEDGER).values()) == {0}
    assert counted(filled, "--apply") == dict.fromkeys(expected, 0)
    restored = filled.json("retention", "restore")
    assert sum(row["new"] for row in restored) == sum(expected.values())
    assert everything(filled) == before
    again = filled.json("retention", "restore")
    assert {row["new"] for row in again} == {0}
    assert everything(filled) == before
    filled.check_ledger()
