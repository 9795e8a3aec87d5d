"""The doctor says when a limit is one of no lane."""

import pytest

from tests.support import Spine


def test_a_limit_of_no_lane_is_named(spine: Spine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPINE_QUEUE_LIMIT", "500 backfill=20 bakcfill=20")
    monkeypatch.setenv("SPINE_QUEUE_SECONDS", "500 backfill=20")
    spine.restart()
    (found,) = (one for one in spine("doctor", "--json").json if one["check"] == "lanes")
    assert found["what"] == "SPINE_QUEUE_LIMIT names lane 'bakcfill', which no pipeline has"
    assert "one of backfill, default" in found["todo"]
