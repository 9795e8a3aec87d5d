"""How many rounds, and with which seed: `make chaos ROUNDS=100 SEED=7` repeats what it did."""

import os

import pytest


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "number" in metafunc.fixturenames:
        rounds = int(os.environ.get("ROUNDS") or 2)
        metafunc.parametrize("number", range(rounds))


@pytest.fixture(scope="session")
def seed() -> int:
    return int(os.environ.get("SEED") or 1)
