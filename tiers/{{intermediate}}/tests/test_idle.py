"""A server that drops its connections: noticed before the work, or at its first statement."""

from collections.abc import Callable

import pytest
from sqlalchemy import Connection, text

from market_spine import database, idle
from market_spine.errors import StoreUnavailableError
from tests import postgres
from tests.support import Spine


@pytest.fixture(params=["postgresql"])
def store(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def drop_all(spine: Spine) -> Callable[[], int]:
    """Have the server drop every connection of the pool; returns how many there were."""

    def drop() -> int:
        with postgres.connect(postgres.database_of(spine.folder)) as connection:
            dropped = connection.execute(
                "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
            return len(dropped.fetchall())

    return drop


def works() -> bool:
    with database.transaction() as connection:
        return connection.execute(text("SELECT true")).scalar_one() is True


def two_connections() -> tuple[Connection, Connection]:
    with database.engine().connect() as first, database.engine().connect() as second:
        return first, second


def test_what_was_lost_while_idle_is_replaced(
    drop_all: Callable[[], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(idle, "IDLE_SECONDS", 0)
    two_connections()
    assert drop_all() >= 2
    assert works()
    assert works()


def test_what_is_lost_between_two_uses_is_an_outage_of_one_transaction(
    drop_all: Callable[[], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(idle, "IDLE_SECONDS", 3600)
    two_connections()
    assert drop_all() >= 2
    with pytest.raises(StoreUnavailableError):
        works()
    assert works()  # the other one is replaced without having been tried
    assert works()
