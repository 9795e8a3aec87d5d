"""spine keys: a secret is told once, and a name belongs to one live key."""

import re
from datetime import UTC, datetime
from uuid import uuid4

import pytest
from sqlalchemy import insert

from market_spine import database
from market_spine.schema import api_keys
from tests.house import until
from tests.postgres import Other
from tests.support import Spine, ended


def test_a_secret_is_told_once_and_kept_nowhere(spine: Spine) -> None:
    secret = spine.ok("keys", "make", "ann", "--scope", "submit", "--scope", "read").out.strip()
    assert re.fullmatch(r"spine_[\w-]{43}", secret)
    (row,) = spine.json("keys", "list")
    assert (row["name"], row["scopes"]) == ("ann", "read, submit")
    assert secret not in str(spine.rows(api_keys)) + spine.ok("keys", "list").out
    assert spine.ok("keys", "make", "bob", "--scope", "read").out.strip() != secret


def test_a_name_belongs_to_one_live_key(spine: Spine) -> None:
    spine.ok("keys", "make", "ann", "--scope", "read")
    spine("keys", "make", "ann", "--scope", "read").fails(2, "'ann'", "revoke")
    spine.ok("keys", "revoke", "ann")
    assert spine.json("keys", "list") == []
    spine("keys", "revoke", "ann").fails(2, "'ann'")
    spine.ok("keys", "make", "ann", "--scope", "operate")
    assert [row["scopes"] for row in spine.json("keys", "list")] == ["operate"]
    assert spine.count(api_keys) == 2  # what was revoked is kept: events name it


@pytest.mark.parametrize("name", ["", " ", "a\nb", "x" * 101])
def test_a_name_can_be_printed(spine: Spine, name: str) -> None:
    spine("keys", "make", name, "--scope", "read").fails(2, "name")
    assert spine.count(api_keys) == 0


def test_a_scope_is_one_of_three(spine: Spine) -> None:
    spine("keys", "make", "ann", "--scope", "write").fails(2, "read, submit, operate")
    assert spine("keys", "make", "ann").code == 2
    assert spine.count(api_keys) == 0


@pytest.mark.parametrize("store", ["postgresql"], scope="module")
def test_of_two_who_make_a_name_at_once_one_is_refused(spine: Spine, other: Other) -> None:
    row = {"id": uuid4(), "name": "ann", "scopes": ["read"], "secret_hash": "x"}
    asked = "SELECT FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
    asked += " AND datname = current_database()"
    with database.transaction() as connection:
        connection.execute(insert(api_keys), {**row, "created_at": datetime.now(UTC)})
        second = spine.start("keys", "make", "ann", "--scope", "read")
        until(lambda: other.execute(asked.encode()).fetchone() is not None)
    ended(second).fails(2, "'ann'", "revoke")
    assert spine.count(api_keys) == 1
