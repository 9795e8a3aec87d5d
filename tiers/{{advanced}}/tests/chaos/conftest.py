"""Which rounds: `make chaos ROUNDS=50 SEED=7` has those with the seeds from 7 to 56."""

import os
from collections.abc import Iterator

import pytest

from tests.house import new_folder
from tests.servers import Postgres


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "seed" in metafunc.fixturenames:
        first, rounds = int(os.environ.get("SEED") or 1), int(os.environ.get("ROUNDS") or 2)
        metafunc.parametrize("seed", range(first, first + rounds))


@pytest.fixture(autouse=True)
def _says_how_to_repeat_it(request: pytest.FixtureRequest) -> None:
    """Shown when the round fails."""
    if "seed" in request.fixturenames:
        print(f"again: make chaos ROUNDS=1 SEED={request.getfixturevalue('seed')}")


@pytest.fixture(scope="session")
def server() -> Iterator[Postgres]:
    """A Postgres that can be stopped and killed, since no other test uses it."""
    with new_folder() as home:
        found = Postgres(home)
        yield found
        found.stop()
