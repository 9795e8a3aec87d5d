"""While a release is rolled out, the schema is ahead of the code that is yet to be replaced."""

import shutil
from pathlib import Path

import pytest

from tests.api.serving import serving
from tests.postgres import Other, database_of
from tests.support import REPO, Spine
from tests.tape import trade

OURS = str(REPO / "migrations")


@pytest.fixture(scope="module")
def store() -> str:
    """SQLite makes its own tables."""
    return "postgresql"


@pytest.fixture
def revised(spine: Spine, monkeypatch: pytest.MonkeyPatch) -> None:
    """A release whose schema has one migration more, which has not been applied."""
    shutil.copytree(OURS, spine.folder / "migrations")
    monkeypatch.setenv("SPINE_MIGRATIONS", "migrations")
    spine.restart()
    path = spine.folder / spine.ok("db", "revision", "a note for an execution").out.split()[-1]
    with path.open("a") as file:
        file.write('    op.execute("ALTER TABLE executions ADD COLUMN note text")\n')
    spine.restart()


@pytest.fixture
def released(spine: Spine, revised: None, monkeypatch: pytest.MonkeyPatch) -> str:  # noqa: ARG001
    """A later release has upgraded the schema; the revision it came to."""
    said = spine.ok("db", "upgrade").out
    monkeypatch.setenv("SPINE_MIGRATIONS", OURS)
    spine.restart()
    return said.split()[-1]


def test_the_release_before_works_on_the_schema_of_the_next(
    spine: Spine, released: str, tmp_path: Path
) -> None:
    assert released.startswith("own_")
    spine.take(trade())
    assert spine.day()["trade_count"] == 1
    with serving(tmp_path, database_of(spine.folder)) as api:
        assert api.get("/readyz")["migrations"] == "ok"


@pytest.mark.usefixtures("released")
def test_a_release_that_comes_back_has_nothing_to_upgrade(spine: Spine) -> None:
    assert spine.ok("db", "upgrade").out == "up to date\n"
    spine.ok("wait")


@pytest.mark.usefixtures("revised")
def test_a_release_beside_it_that_lacks_some_of_the_schema_is_refused(
    spine: Spine, other: Other
) -> None:
    """As one that was rolled back and then mended, with a migration of its own."""
    later = "UPDATE alembic_version SET version_num = 'full_9999' WHERE version_num LIKE 'full%'"
    assert other.execute(later).rowcount == 1
    for args in (["db", "upgrade"], ["executions", "list"]):
        spine(*args).fails(3, "another version", "full_9999")
