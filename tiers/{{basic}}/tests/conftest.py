"""Every test has a store of its own, in a folder of its own, and is alone there."""

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, settings
from sqlalchemy import Engine, event

from tests.support import Spine, spine_in

# The same examples in every run; `pytest --hypothesis-profile=thorough` looks further, for minutes.
WITHOUT_SHRINKING = (Phase.explicit, Phase.reuse, Phase.generate)
settings.register_profile(
    "quick",
    deadline=None,
    derandomize=True,
    database=None,
    phases=WITHOUT_SHRINKING,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.register_profile(
    "thorough",
    settings.get_profile("quick"),
    derandomize=False,
    max_examples=2000,
)
settings.load_profile("quick")


@event.listens_for(Engine, "connect")
def write_lazily(connection: object, _record: object) -> None:
    """Let a store outlive its process, but no loss of power: the tests are much quicker."""
    if isinstance(connection, sqlite3.Connection):
        connection.execute("PRAGMA synchronous = OFF")


@pytest.fixture
def spine(tmp_path: Path) -> Iterator[Spine]:
    """The command line in an empty folder that has the mappings, SQLite and the inline backend."""
    with spine_in(tmp_path) as found:
        yield found
