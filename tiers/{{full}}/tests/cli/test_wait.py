"""spine wait: a process that is started early begins when it can."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import postgres
from tests.house import until
from tests.support import Spine, ended


@pytest.fixture
def empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Spine]:
    """The command line in a folder whose database has no tables."""
    url = postgres.new_database(template="template0")
    monkeypatch.setenv("DATABASE_URL", url)
    monkeypatch.setenv("SPINE_MIGRATIONS", str(postgres.REPO / "migrations"))
    yield Spine(tmp_path)
    postgres.drop_database(url)


def test_it_ends_when_the_schema_is_up_to_date(empty: Spine) -> None:
    waiting = empty.start("wait")
    assert waiting.stderr is not None
    assert "waiting: the schema of the store is not up to date" in waiting.stderr.readline()
    assert waiting.poll() is None
    assert empty.process("db", "upgrade").code == 0
    assert ended(waiting).code == 0


def test_it_can_be_ended_before(empty: Spine) -> None:
    waiting = empty.start("wait")
    assert waiting.stderr is not None
    waiting.stderr.readline()
    waiting.send_signal(signal.SIGTERM)
    ended(waiting).fails(3, "spine db upgrade")


def test_it_holds_no_connection_meanwhile(empty: Spine) -> None:
    name = os.environ["DATABASE_URL"].rpartition("/")[2].partition("?")[0]
    asked = "SELECT count(*) FROM pg_stat_activity WHERE datname = %s"
    waiting = empty.start("wait")
    try:
        assert waiting.stderr is not None
        waiting.stderr.readline()
        with postgres.connect(postgres.server()) as other:
            until(lambda: other.execute(asked, [name]).fetchone() == (0,))
    finally:
        waiting.kill()
        waiting.communicate()
