"""The doctor finds what is wrong, says what to type, and mends what needs no person."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from market_spine import database, dispatcher, ledger
from market_spine.checks import store
from market_spine.guard import Claim, claim_for
from market_spine.schema import resource_claims
from tests import postgres
from tests.fleet import Fleet, fleet_in
from tests.support import spine_in
from tests.test_fleet import WRITES


@pytest.fixture(scope="module")
def well(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """A fleet with a worker and a relay, that has done something."""
    with fleet_in(tmp_path_factory.mktemp("well")) as fleet:
        fleet.spine.pipeline("writes", *WRITES)
        fleet.mended(workers=1, relays=1)
        dispatcher.submit("writes", {})
        fleet.until(fleet.is_at_rest)
        yield fleet


def found(fleet: Fleet, *args: str) -> tuple[int, list[dict[str, Any]]]:
    """The exit code, and what was found."""
    ended = fleet.spine("doctor", *args, "--json")
    return ended.code, ended.json


def test_all_is_well(well: Fleet) -> None:
    assert found(well) == (0, [])
    assert well.spine.ok("doctor").out == "all is well\n"
    assert well.spine("ready", "worker").code == 0
    assert well.spine("ready", "beat").code == 1


BROKEN = {
    "a row that was changed": (
        "UPDATE executions SET version = version + 1",
        "UPDATE executions SET version = version - 1",
        "amount to",
    ),
    "a letter that is missing": (
        "UPDATE executions SET status = 'failed', error = 'x'",
        "UPDATE executions SET status = 'succeeded', error = NULL",
        "no dead letter",
    ),
    "an event out of its place": (
        "SET session_replication_role = replica;"
        "UPDATE execution_events SET seq = 9 WHERE kind = 'started'",
        "UPDATE execution_events SET seq = 2 WHERE kind = 'started'",
        "amount to",
    ),
    "a letter of what succeeded": (
        "INSERT INTO dead_letters (id, kind, execution_id, reason, created_at)"
        "SELECT id, 'execution', id, 'x', created_at FROM executions",
        "DELETE FROM dead_letters",
        "did not fail",
    ),
    "a column that nobody knows": (
        "ALTER TABLE executions ADD COLUMN mine integer",
        "ALTER TABLE executions DROP COLUMN mine",
        "mine",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_somebody_wrote_to_the_tables_is_found(well: Fleet, name: str) -> None:
    change, back, told = BROKEN[name]
    with postgres.connect(well.database) as other:
        other.execute(change.encode())
        code, told_of = found(well, "--fix")
        other.execute(back.encode())
    assert code == 1
    assert any(told in one["what"] and not one["is_mended"] for one in told_of), told_of
    assert found(well) == (0, [])


# The database's own clock is an hour ahead for whoever looks there first.
AHEAD = """
CREATE SCHEMA ahead;
CREATE FUNCTION ahead.clock_timestamp() RETURNS timestamptz
    RETURN pg_catalog.clock_timestamp() + interval '1 hour'
"""


def test_a_clock_that_is_wrong_is_named(well: Fleet) -> None:
    with postgres.connect(well.database) as other:
        other.execute(AHEAD.encode())
    joint = "&" if "?" in well.database else "?"
    first = f"{well.database}{joint}options=-csearch_path%3Dahead,pg_catalog,public"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DATABASE_URL", first)
        well.spine.restart()
        code, told = found(well)
    well.spine.restart()
    assert code == 1
    (skew,) = [one for one in told if "clock" in one["what"]]
    assert skew["what"] == "this machine's clock is -3600 s ahead of the database's"
    assert "NTP" in skew["todo"]
    assert found(well) == (0, [])


def test_a_postgres_that_nobody_has_tried_is_named(
    well: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "OLDEST", 98)
    monkeypatch.setattr(store, "NEWEST", 99)
    code, (told,) = found(well)
    assert (code, told["todo"]) == (1, "use one from 98 to 99")


def test_a_lease_that_expired_long_ago_is_taken_back(tmp_path: Path) -> None:
    with fleet_in(tmp_path) as fleet:
        fleet.spine.pipeline("hangs", "import time", "time.sleep(3600)")
        fleet.worker(1)
        execution = dispatcher.submit("hangs", {})
        fleet.until(lambda: fleet.get(execution.id).status == "running")
        fleet.members[0].kill_all()
        with database.transaction() as connection:
            long_ago = "UPDATE executions SET lease_expires_at = '2025-11-24 12:00:00+00'"
            connection.execute(text(long_ago))
        mended = [one for one in found(fleet, "--fix")[1] if one["check"] == "ledger"]
        assert [one["is_mended"] for one in mended] == [True]
        assert "lease that expired" in mended[0]["what"]
        assert (fleet.get(execution.id).status, fleet.get(execution.id).attempt) == ("queued", 2)


def test_a_claim_that_was_left_is_let_go_of(well: Fleet) -> None:
    execution = dispatcher.submit("writes", {})
    well.until(lambda: well.get(execution.id).status in ledger.TERMINAL)
    day = well.get(execution.id).created_at.date()
    with database.transaction() as connection:
        claim_for(connection, execution.id, [Claim("days", "*", day, day)], "reject")
    assert found(well)[0] == 1
    code, (mended,) = found(well, "--fix")
    assert (code, mended["is_mended"]) == (0, True)
    assert well.spine.rows(resource_claims) == []
    assert found(well) == (0, [])


def test_a_broker_that_is_down_and_one_that_forgets_are_named(well: Fleet) -> None:
    with well.broker.client() as redis:
        redis.config_set("maxmemory-policy", "allkeys-lru")
        ((told,), code) = found(well)[1], found(well)[0]
        redis.config_set("maxmemory-policy", "noeviction")
    assert (code, told["check"]) == (1, "broker")
    assert "allkeys-lru" in told["what"]
    well.broker.stop()
    code, (told,) = found(well)
    well.broker.start()
    assert (code, told["check"]) == (1, "broker")
    assert "REDIS_URL" in told["todo"]


SETTINGS = {
    "a name that is none": ({"SPINE_LEASE_SECOND": "5"}, "SPINE_LEASE_SECOND is no setting"),
    "a folder that is not there": ({"SPINE_MAPPINGS": "nowhere"}, "SPINE_MAPPINGS: there is no"),
    "a token for nobody": ({"SPINE_HTTP_TOKEN": "x"}, "SPINE_HTTP_SOURCES names nothing"),
    "a file of schedules that is wrong": ({"SPINE_SCHEDULES": "wrong.toml"}, "wrong.toml: "),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_settings_that_cannot_be_meant_are_named(well: Fleet, name: str) -> None:
    given, told = SETTINGS[name]
    (well.folder / "wrong.toml").write_text("[ingest]\npipeline = 'otc_ingests'\n")
    with pytest.MonkeyPatch.context() as patch:
        for variable, value in given.items():
            patch.setenv(variable, value)
        well.spine.restart()
        code, findings = found(well)
    well.spine.restart()
    assert code == 1
    assert any(told in one["what"] for one in findings if one["check"] == "settings"), findings


def test_an_address_of_something_else_than_redis_is_refused_at_the_start(well: Fleet) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("REDIS_URL", "valkey://here")
        well.spine.restart()
        refused = well.spine("doctor")
    well.spine.restart()
    refused.fails(2, "error: setting REDIS_URL: must begin with redis://")


def test_a_misspelt_setting_in_the_file_is_named(well: Fleet) -> None:
    (well.folder / ".env").write_text("SPINE_QUERY_SECOND=1\n")
    code, (told,) = found(well)
    (well.folder / ".env").unlink()
    assert (code, told["what"]) == (1, "SPINE_QUERY_SECOND is no setting")


def test_who_is_missing_is_named(tmp_path: Path) -> None:
    with fleet_in(tmp_path) as fleet:
        code, told = found(fleet)
        assert code == 1
        assert {one["todo"] for one in told} == {"spine worker", "spine relay"}
        fleet.broker.stop()
        assert {one["check"] for one in found(fleet)[1]} == {"broker", "processes"}
        fleet.broker.start()


def test_what_could_not_be_mended_is_not_said_to_be(tmp_path: Path) -> None:
    with fleet_in(tmp_path) as fleet:
        fleet.broker.stop()
        dispatcher.submit("otc_normalize", {})
        with database.transaction() as connection:
            connection.execute(text("UPDATE executions SET created_at = '2025-11-24 12:00:00+00'"))
        code, told = found(fleet, "--fix")
        fleet.broker.start()
    assert code == 1
    (untold,) = [one for one in told if one["check"] == "ledger"]
    assert not untold["is_mended"]


def test_sqlite_is_no_patient(tmp_path: Path) -> None:
    with spine_in(tmp_path) as spine:
        for command in (("doctor",), ("ready", "worker"), ("relay",), ("beat",)):
            spine(*command).fails(2, "needs Postgres")
