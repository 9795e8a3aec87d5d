"""What a person meets who chooses an engine: before it is installed, reached or named."""

import pytest

from market_spine import backends
from market_spine.backends import celery
from tests.support import Spine

EXTRAS = ["dagster", "dbos", "prefect", "temporal"]


@pytest.fixture
def store() -> str:
    return "postgresql"


@pytest.fixture(params=EXTRAS)
def extra(request: pytest.FixtureRequest, spine: Spine, monkeypatch: pytest.MonkeyPatch) -> str:
    """A backend whose library is not in this environment, and whose server is not named."""
    monkeypatch.setenv("SPINE_BACKEND", request.param)
    spine.restart()
    return str(request.param)


def test_none_is_chosen_but_by_its_name(spine: Spine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SPINE_BACKEND")
    spine.restart()
    in_use: object = backends.chosen()
    assert in_use is celery


def test_a_worker_says_where_its_library_is(
    extra: str, spine: Spine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPINE_BACKEND_URL", "http://127.0.0.1:1")
    spine.restart()
    spine("worker").fails(2, "SPINE_BACKEND", f"backends/{extra}.lock")


@pytest.mark.usefixtures("extra")
def test_a_submit_is_kept_whatever_is_missing(spine: Spine) -> None:
    submitted = spine.json("run", "otc_normalize", "--no-wait")
    assert spine.json("executions", "show", submitted["id"])["status"] == "queued"


@pytest.mark.usefixtures("extra")
def test_the_doctor_asks_for_redis_where_it_is_used(
    spine: Spine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REDIS_URL", "redis://127.0.0.1:1")
    spine.restart()
    assert "broker does not answer" not in spine("doctor").out
    monkeypatch.setenv("SPINE_BACKEND", "celery")
    spine.restart()
    assert "broker does not answer" in spine("doctor").out
