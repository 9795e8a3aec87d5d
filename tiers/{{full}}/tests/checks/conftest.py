"""The checks of the doctor look at Postgres."""

import pytest


@pytest.fixture(scope="module")
def store() -> str:
    """The only one with a doctor."""
    return "postgresql"
