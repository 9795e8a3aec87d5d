"""Lanes: one that is flooded stops no other, on the whole way from the submit to the worker."""

from pathlib import Path

import pytest

from market_spine import dispatcher, relay
from market_spine.errors import LaneFullError
from tests import postgres
from tests.fleet import fleet_in
from tests.test_admission import MANY
from tests.test_fleet import WRITES


def test_a_flooded_lane_stops_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is full, the broker was told of nothing, and one process works for all lanes."""
    with fleet_in(tmp_path) as fleet, postgres.connect(fleet.database) as other:
        monkeypatch.setenv("SPINE_QUEUE_LIMIT", "5000")
        fleet.spine.restart()
        fleet.spine.pipeline("writes", *WRITES)
        other.execute(MANY)
        with pytest.raises(LaneFullError, match="'default'"):
            dispatcher.submit("writes", {})
        fleet.broker.stop()
        urgent = dispatcher.submit("writes", {}, "backfill")
        assert fleet.get(urgent.id).dispatched_at is None
        fleet.broker.start()
        fleet.relay()
        told = "SELECT count(*) FROM executions WHERE dispatched_at IS NOT NULL"
        fleet.until(lambda: fleet.get(urgent.id).dispatched_at)
        assert fleet.one(told) <= 2 * relay.BATCH
        fleet.until(lambda: fleet.one(told) > relay.BATCH)  # its message has many before it
        fleet.worker(processes=1)
        fleet.until(lambda: fleet.get(urgent.id).status == "succeeded")
        assert fleet.one("SELECT count(*) FROM executions WHERE status <> 'queued'") < 100
