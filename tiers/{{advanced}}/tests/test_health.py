"""Health is read from the ledger, and says what is there."""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from market_spine import database, dispatcher, health, leases, ledger
from market_spine.health import Health, Work
from tests.support import Spine, spine_in


@pytest.fixture
def spine(tmp_path: Path) -> Iterator[Spine]:
    with spine_in(tmp_path, "postgresql") as spine:
        yield spine


def now() -> Health:
    with database.snapshot() as connection:
        return health.health(connection)


def work_of(found: Health, pipeline: str) -> Work:
    (one,) = [work for work in found.work if work.pipeline == pipeline]
    return one


def test_it_counts_what_waits_runs_and_was_done(spine: Spine) -> None:
    assert now().work == []
    spine.pipeline("fails", "raise ZeroDivisionError('by zero')")
    spine.run("otc_normalize")
    spine.submit("fails")
    leases.hold()
    try:
        with database.transaction() as connection:
            waits = dispatcher.submit_in(connection, "otc_normalize", {})
            runs = dispatcher.submit_in(connection, "otc_normalize", {})
            assert ledger.claim(connection, runs.id)
    finally:
        leases.let_go()
    found = now()
    one = work_of(found, "otc_normalize")
    assert (one.queued, one.running, one.succeeded, one.failed) == (1, 1, 1, 0)
    assert one.past_lease == 0
    age = (datetime.now(UTC) - waits.created_at).total_seconds()
    assert one.oldest_queued_seconds == pytest.approx(age, abs=5)
    assert one.seconds_p50 == one.seconds_p99
    assert one.finished_per_minute == pytest.approx(1 / health.MINUTES)
    assert work_of(found, "fails").failed == 1
    assert found.open_dead_letters == {"execution": 1, "record": 0}
    assert found.processes["worker"] == 0


def test_prometheus_reads_the_same() -> None:
    work = Work('back"fill', "p", 3, 0, 0, 0, None, 1, 0, 0, 0.2, 1.5, 2.0, 2.0)
    at = datetime(2025, 12, 1, tzinfo=UTC)
    text = health.prometheus(Health(at, [work], {"record": 2}, {"worker": 1}))
    labels = r'lane="back\"fill",pipeline="p"'
    assert f'spine_executions{{{labels},status="queued"}} 3\n' in text
    assert f'spine_duration_seconds{{{labels},quantile="0.5"}} 1.5\n' in text
    assert 'spine_dead_letters_open{kind="record"} 2\n' in text
    assert 'spine_processes{role="worker"} 1\n' in text
    assert "oldest_queued_seconds{" not in text, "nothing is queued that long"
    for line in text.splitlines():
        assert line.startswith(("# HELP spine_", "# TYPE spine_", "spine_"))
