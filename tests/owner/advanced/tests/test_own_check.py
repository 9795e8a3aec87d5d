"""The doctor makes the desk's own check, too."""

import pytest
from sqlalchemy import insert

from market_spine import database
from market_spine.schema import own_notes
from tests.support import Spine


@pytest.fixture
def store() -> str:
    """Where the doctor looks."""
    return "postgresql"


def test_own_check(spine: Spine) -> None:
    with database.transaction() as connection:
        connection.execute(insert(own_notes), {"symbol": "own", "note": "ours"})
    found = [row["what"] for row in spine("doctor", "--json").json if row["check"] == "own"]
    assert found == ["a note is on own"]
