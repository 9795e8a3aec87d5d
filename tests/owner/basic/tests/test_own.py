"""The desk's own: each thing that it added works."""

import subprocess
from datetime import datetime
from decimal import Decimal

import pytest
from sqlalchemy import insert, select

from market_spine import database
from market_spine.errors import HouseError
from market_spine.schema import own_notes
from market_spine.settings import settings
from tests.support import REPO, Spine

NOTE = {
    "symbol": "OWN",
    "note": "ours",
    "user": "me",
    "end": datetime(2025, 11, 24, 12, 0, 0, 1),
    "worth": Decimal("1234567890.50"),
}


def test_own_records_go_through_and_the_house_is_no_venue(spine: Spine) -> None:
    spine.run("otc_ingest", connector="own_prints", source="own")
    spine.settle()
    assert spine.run("own_largest")["result"] == {"OWN": "10000.000000"}
    days = ("--start", "2025-11-25", "--end", "2025-11-25")
    (day,) = spine.json("metrics", "daily", "OWN", *days)
    assert (day["trade_count"], day["vwap"], day["venue_count"]) == (2, "50.00000000", 0)


def test_own_command(spine: Spine) -> None:
    assert spine.ok("own", 1234567).out == "1,234,567\n"


def test_own_table(spine: Spine) -> None:
    spine.ok("executions")
    with database.transaction() as connection:
        connection.execute(insert(own_notes), NOTE)
        assert dict(connection.execute(select(own_notes)).mappings().one()) == NOTE


def test_own_setting(spine: Spine, monkeypatch: pytest.MonkeyPatch) -> None:
    assert settings().own_desk == "Rates"
    monkeypatch.setenv("OWN_DESK", "Credit")
    spine.restart()
    assert settings().own_desk == "Credit"


def test_own_error() -> None:
    assert HouseError.exit_code == 4


def test_own_target() -> None:
    command = ["make", "--no-print-directory", "own"]
    said = subprocess.run(command, cwd=REPO, capture_output=True, text=True, check=True)
    assert said.stdout.endswith("The desk's own.\n")
