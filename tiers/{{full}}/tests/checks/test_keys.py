"""The doctor says when nobody can call the API."""

import pytest

from tests.support import Spine


def found(spine: Spine) -> list[str]:
    """What the check of the keys has found."""
    told = spine("doctor", "--json").json
    return [one["what"] for one in told if one["check"] == "keys"]


def test_an_api_that_refuses_whoever_calls_it(
    spine: Spine, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert found(spine) == []
    monkeypatch.setenv("SPINE_API_HOST", "0.0.0.0")
    spine.restart()
    (what,) = found(spine)
    assert ("0.0.0.0" in what, "no key was ever made" in what) == (True, True)
    spine.ok("keys", "make", "ann", "--scope", "read")
    assert found(spine) == []
    spine.ok("keys", "revoke", "ann")
    monkeypatch.delenv("SPINE_API_HOST")
    spine.restart()
    (what,) = found(spine)
    assert "revoked" in what
