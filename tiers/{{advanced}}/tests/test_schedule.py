"""Schedules: what a file may say, and that beat submits each tick once."""

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import pytest

from market_spine import schedule
from market_spine.schedule import Schedule
from market_spine.schema import executions, processes
from tests import postgres
from tests.house import until
from tests.support import REPO, Ended, Spine, ended
from tests.test_concurrency import at_once

COMPUTE = "pipeline = 'otc_compute_daily_metrics'\n"
RARELY = 366 * 86_400  # seconds
NOON = datetime(2025, 11, 24, 12, tzinfo=UTC)


@pytest.fixture(scope="module")
def store() -> str:
    """SQLite has nobody beside the one who writes."""
    return "postgresql"


@pytest.fixture
def idle(spine: Spine, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is submitted waits for a worker, and there is none."""
    monkeypatch.setenv("SPINE_BACKEND", "thread")
    spine.restart()


def write(spine: Spine, text: str) -> None:
    (spine.folder / "schedules.toml").write_text(text)


def submitted(spine: Spine) -> list[str]:
    """The schedule and the tick of each execution."""
    return [row["idempotency_key"] for row in spine.rows(executions)]


@contextmanager
def beats(spine: Spine, count: int = 1) -> Iterator[list[subprocess.Popen[str]]]:
    """So many beats, which end in the end, as they should."""
    started = [spine.start("beat") for _ in range(count)]
    try:
        yield started
        for one in started:
            one.terminate()
            if one.poll() != -signal.SIGKILL:
                assert ended(one) == Ended(0, "", "")
    finally:
        for one in started:
            one.kill()
            one.communicate()


# --- the file ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "culprits"),
    [
        ("[a\n", ["not a TOML file", "line 1"]),
        ("a = 1", ["'a' belongs to no schedule"]),
        (f"{COMPUTE}interval = 1", ["'pipeline' belongs to no schedule"]),
        ("[a]\ninterval = 1", ["'a'", "pipeline: Field required"]),
        (f"[a]\n{COMPUTE}", ["'a'", "needs cron or interval"]),
        (f"[a]\n{COMPUTE}interval = 1\ncron = '* * * * *'", ["'a'", "not both"]),
        (f"[a]\n{COMPUTE}interval = 0", ["'a'", "interval", "greater than or equal to 1"]),
        (f"[a]\n{COMPUTE}interval = '60'", ["'a'", "interval", "valid integer"]),
        (f"[a]\n{COMPUTE}interval = true", ["'a'", "interval", "valid integer"]),
        (f"[a]\n{COMPUTE}interval = 99999999", ["'a'", "interval", "less than"]),
        (f"[a]\n{COMPUTE}interval = 1\ntimezone = 'UTC'", ["'a'", "timezone", "for cron"]),
        (f"[a]\n{COMPUTE}cron = '* *'", ["'a'", "cron", "five fields", "day of the week"]),
        (f"[a]\n{COMPUTE}cron = '0 25 * * *'", ["'a'", "cron: '0 25 * * *': bad hour"]),
        (f"[a]\n{COMPUTE}cron = '* * * * *'\ntimezone = 'New York'", ["'a'", "'New York'"]),
        (f"[a]\n{COMPUTE}cron = '* * * * *'\ntimezone = '../x'", ["'a'", "timezone", "'../x'"]),
        (f"[a]\n{COMPUTE}cron = '* * * * *'\ntimezone = 'America'", ["timezone", "'America'"]),
        (f"[a]\n{COMPUTE}interval = 1\nevery = 2", ["'a'", "every", "not permitted"]),
        (f"[a]\n{COMPUTE}interval = 1\nlane = ''", ["'a'", "lane"]),
        (f"[a]\n{COMPUTE}interval = 1\nparams = 3", ["'a'", "params"]),
        (f"[a]\n{COMPUTE}interval = 1\nname = 'b'", ["'a'", "name", "above"]),
        (f"['a b']\n{COMPUTE}interval = 1", ["'a b'", "name"]),
        ("[a]\npipeline = 'x'\ninterval = 1", ["'a'", "no pipeline 'x'", "otc_ingest_next"]),
        (
            f"[a]\n{COMPUTE}interval = 1\n[b]\n{COMPUTE}interval = 1\nparams.symbl = 'A'",
            ["'b'", "params.symbl", "the params of", "symbol"],
        ),
        (
            f"[a]\n{COMPUTE}interval = 1\nparams.start_date = 'soon'",
            ["'a'", "params.start_date"],
        ),
    ],
)
def test_a_wrong_file_is_refused_in_a_line(text: str, culprits: list[str], spine: Spine) -> None:
    write(spine, text)
    spine("schedules").fails(2, "schedules.toml", *culprits)


def test_beat_refuses_a_wrong_file(spine: Spine) -> None:
    write(spine, "[a]\ninterval = 1")
    spine.process("beat").fails(2, "schedules.toml", "'a'", "pipeline")
    assert spine.count(processes) == 0


def test_a_file_that_cannot_be_read_is_named(spine: Spine) -> None:
    (spine.folder / "schedules.toml").mkdir()
    spine("schedules").fails(2, "schedules.toml", "cannot be read")


def test_without_a_file_there_are_no_schedules(
    spine: Spine, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert spine.ok("schedules").out == "There are no schedules in schedules.toml.\n"
    write(spine, f"[a]\n{COMPUTE}interval = 60")
    monkeypatch.setenv("SPINE_SCHEDULES", "elsewhere.toml")
    spine.restart()
    assert spine.json("schedules") == []


def test_the_file_of_this_repo_is_right(spine: Spine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPINE_SCHEDULES", str(REPO / "schedules.toml"))
    spine.restart()
    for row in spine.json("schedules"):
        assert (row["last_tick"], row["execution_id"], row["status"]) == (None, None, None)


def test_what_is_due_when_is_listed(spine: Spine) -> None:
    write(
        spine,
        f"""
[close]
{COMPUTE}
cron = "30 16 * * mon-fri"
timezone = "America/New_York"
params.start_date = 2025-11-24
lane = "late"
[often]
{COMPUTE}
interval = 60
[often-2]
{COMPUTE}
interval = 60
""",
    )
    close, often, _ = schedule.load()
    before = close.ticks.following(datetime.now(UTC))
    for tick in (NOON, NOON + timedelta(seconds=60)):
        schedule.submit(often, tick)
    schedule.submit(close, NOON)
    found = {row["schedule"]: row for row in spine.json("schedules")}
    assert [*found] == ["close", "often", "often-2"]
    assert found["close"]["when"] == "30 16 * * mon-fri (America/New_York)"
    after = close.ticks.following(datetime.now(UTC))
    next_tick = datetime.fromisoformat(found["close"]["next_tick"])
    assert next_tick in (before, after)
    assert found["often"]["last_tick"] == "2025-11-24T12:01:00+00:00"
    assert found["often-2"]["last_tick"] is None
    first, second, third = spine.executions()
    assert found["often"]["execution_id"] == second["id"]
    assert (found["often"]["status"], found["often"]["when"]) == ("succeeded", "every 60 s")
    assert third["params"]["start_date"] == "2025-11-24"
    assert (first["trigger_source"], third["lane"]) == ("schedule", "late")
    assert first["id"] not in spine.ok("schedules").out


# --- ticks -------------------------------------------------------------------------------------


def made(**given: Any) -> Schedule:
    return Schedule(
        **{"name": "a", "pipeline": "otc_compute_daily_metrics", "interval": 60, **given}
    )


def test_a_tick_has_one_execution_however_often_it_is_submitted(spine: Spine) -> None:
    tick = partial(schedule.submit, made(), NOON)
    at_once(*[tick] * 20)
    assert submitted(spine) == ["schedule a 2025-11-24T12:00:00+00:00"]
    schedule.submit(made(), NOON + timedelta(seconds=60))
    schedule.submit(made(name="b"), NOON)
    assert spine.count(executions) == 3
    spine.check_ledger()


def test_a_schedule_that_was_changed_does_not_repeat_its_tick(
    spine: Spine, caplog: pytest.LogCaptureFixture
) -> None:
    schedule.submit(made(), NOON)
    schedule.submit(made(params={"symbol": "ACME"}), NOON)
    assert spine.count(executions) == 1
    assert not caplog.records


def test_a_pipeline_that_is_gone_stops_no_other(
    spine: Spine, caplog: pytest.LogCaptureFixture
) -> None:
    schedule.submit(made(pipeline="gone"), NOON)
    assert spine.count(executions) == 0
    assert "schedule 'a': there is no pipeline 'gone'" in caplog.text


CLAIMS = """
from datetime import date
from dataclasses import replace
from market_spine.guard import Claim

PIPELINE = replace(PIPELINE, claims=lambda _: [Claim("all", "*", date.min, date.max)])
"""


@pytest.mark.usefixtures("idle")
def test_a_tick_waits_for_what_the_one_before_it_claims(spine: Spine) -> None:
    spine.pipeline("claims", "return {}")
    with (spine.folder / "pipelines/claims.py").open("a") as file:
        file.write(CLAIMS)
    for seconds in (0, 60):
        schedule.submit(made(pipeline="claims"), NOON + timedelta(seconds=seconds))
    first, second = spine.rows(executions)
    assert first["not_before"] is None
    assert second["not_before"].startswith("9999")


# --- beat --------------------------------------------------------------------------------------


@pytest.mark.usefixtures("idle")
def test_two_beats_submit_each_tick_once_and_one_goes_on_alone(spine: Spine) -> None:
    write(spine, f"[a]\n{COMPUTE}interval = 1\n[b]\n{COMPUTE}cron = '* * * * *'")

    def both_are_seen() -> bool:
        return spine.count(processes) == 2

    with beats(spine, 2) as (killed, _):
        until(lambda: both_are_seen() and spine.count(executions) > 4)
        os.kill(killed.pid, signal.SIGKILL)
        killed.wait()
        so_far = spine.count(executions)
        until(lambda: spine.count(executions) > so_far + 2)
    keys = submitted(spine)
    assert len(keys) == len({*keys})
    assert {key.split()[1] for key in keys} == {"a", "b"}
    (left,) = spine.rows(processes)
    assert left["role"] == "beat", "the one that was killed said nothing"
    spine.check_ledger()


def test_of_the_ticks_that_were_missed_the_latest_is_submitted(spine: Spine) -> None:
    write(spine, f"[a]\n{COMPUTE}interval = {RARELY}")
    (rare,) = schedule.load()
    missed = rare.ticks.latest(datetime.now(UTC))
    schedule.submit(rare, missed - 2 * timedelta(seconds=RARELY))
    expected = f"schedule a {missed.isoformat()}"
    for _ in range(2):
        with beats(spine):
            until(lambda: spine.count(processes) == 1 and expected in submitted(spine))
    assert len(submitted(spine)) == 2
    assert spine.count(processes) == 0, "they have said that they end"


def test_beat_waits_for_a_store_that_is_gone(spine: Spine) -> None:
    write(spine, f"[a]\n{COMPUTE}interval = 1")
    name = postgres.database_of(spine.folder).rpartition("/")[2].partition("?")[0]
    process = spine.start("beat")
    try:
        until(lambda: spine.count(executions) > 0)
        spine.restart()
        with postgres.connect(postgres.server()) as other:
            other.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false".encode())
            other.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", [name]
            )
            assert process.stderr is not None
            assert any("beat waits for the store" in line for line in process.stderr)
            other.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true".encode())
        so_far = spine.count(executions)
        until(lambda: spine.count(executions) > so_far)
        process.terminate()
        assert ended(process).code == 0
    finally:
        process.kill()
        process.communicate()


def test_beat_is_not_for_sqlite(spine: Spine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "sqlite:///spine.db")
    spine.restart()
    spine.process("beat").fails(2, "Postgres", "DATABASE_URL")


def test_beat_without_schedules_says_so_and_lives(spine: Spine) -> None:
    process = spine.start("beat")
    try:
        until(lambda: spine.count(processes) == 1)
        process.terminate()
        assert ended(process) == Ended(0, "", "schedules.toml: there are no schedules\n")
    finally:
        process.kill()
        process.communicate()
