"""Migrations: the chain makes what the models say, in full or not at all, whoever is at work."""

import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlalchemy import Column, Table, Text

from market_spine import migrations
from market_spine.schema import Word, metadata
from tests import postgres
from tests.postgres import Other
from tests.support import REPO, Spine
from tests.tape import trade

# The last of each branch, this repo's own included, which may have grown.
HEADS = sorted(
    max(path.stem.split("_")[:2] for path in branch.glob("*_*.py"))
    for branch in (REPO / "migrations").iterdir()
    if branch.is_dir() and branch.name != "__pycache__"
)
UPGRADED = f"upgraded to {', '.join('_'.join(head) for head in HEADS)}\n"
OWN = int(dict(HEADS)["own"])
LAST, NEXT, THEN = (f"own_{OWN + more:04}" for more in range(3))

HEAD = f"""
import sqlalchemy as sa
from alembic import op

revision = "{NEXT}"
down_revision = "{LAST}"
branch_labels = None
depends_on = "intermediate_0001"


def upgrade() -> None:
"""


@pytest.fixture(scope="module")
def store() -> str:
    """SQLite makes its own tables."""
    return "postgresql"


@pytest.fixture
def empty(spine: Spine, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The command line over a database without a table; its URL."""
    url = postgres.new_database(template="template0")
    monkeypatch.setenv("DATABASE_URL", url)
    spine.restart()
    yield url
    spine.restart()
    postgres.drop_database(url)


@pytest.fixture
def chain(spine: Spine, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the migrations, to add to."""
    folder = spine.folder / "migrations"
    shutil.copytree(REPO / "migrations", folder)
    monkeypatch.setenv("SPINE_MIGRATIONS", "migrations")
    spine.restart()
    return folder


def add(chain: Path, *body: str) -> None:
    """Write a migration of this repo's own."""
    lines = "\n".join(f"    {line}" for line in body)
    (chain / "own" / f"{NEXT}_more.py").write_text(f"{HEAD}{lines}\n")


# --- upgrading ---------------------------------------------------------------------------------


def test_an_empty_database_is_brought_up_to_date_once(spine: Spine, empty: str) -> None:
    assert spine.ok("db", "upgrade").out == UPGRADED
    assert spine.ok("db", "upgrade").out == "up to date\n"
    assert "agree" in spine.ok("db", "check").out
    spine.take(trade())
    assert spine.day()["trade_count"] == 1
    with postgres.connect(empty) as connection:
        assert (LAST,) in connection.execute("SELECT version_num FROM alembic_version").fetchall()


@pytest.mark.usefixtures("empty")
def test_upgrades_at_the_same_time_are_one(spine: Spine) -> None:
    with ThreadPoolExecutor(3) as pool:
        found = [*pool.map(lambda _: spine.process("db", "upgrade"), range(3))]
    assert [(one.code, one.err) for one in found] == [(0, "")] * 3
    expected = ["up to date\n", "up to date\n", UPGRADED]
    assert sorted(one.out for one in found) == expected


@pytest.mark.parametrize(
    ("fault", "culprit"),
    [
        ("1 / 0", "ZeroDivisionError"),
        ("op.execute('SELECT no_such_function()')", "no_such_function"),
        ("op.create_index('x', 'otc_trades', ['no_such_column'])", "no_such_column"),
    ],
)
def test_an_upgrade_that_fails_leaves_the_old_schema_working(
    fault: str,
    culprit: str,
    spine: Spine,
    chain: Path,
    other: Other,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    versions = other.execute("SELECT version_num FROM alembic_version").fetchall()
    table = "op.create_table('notes', sa.Column('symbol', sa.String(collation='C')))"
    add(chain, "op.drop_column('otc_trades', 'venue')", table, fault)
    failed = spine.process("db", "upgrade")
    assert failed.code != 0
    assert culprit in failed.err
    assert other.execute("SELECT version_num FROM alembic_version").fetchall() == versions
    assert other.execute("SELECT to_regclass('notes')").fetchone() == (None,)
    monkeypatch.setenv("SPINE_MIGRATIONS", str(REPO / "migrations"))
    spine.restart()
    assert "agree" in spine.ok("db", "check").out
    spine.take(trade())
    assert spine.day()["trade_count"] == 1


def test_an_upgrade_does_not_wait_behind_a_busy_table(
    spine: Spine, chain: Path, other: Other, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(migrations, "PATIENCE", "200ms")
    add(chain, "op.execute('ALTER TABLE otc_trades ADD COLUMN note text')")
    with other.transaction():
        other.execute("SELECT 1 FROM otc_trades")
        spine("db", "upgrade").fails(3, "busy", "try again")
    assert spine.ok("db", "upgrade").out == f"upgraded to {NEXT}\n"


def test_a_database_of_another_version_is_named(spine: Spine, other: Other) -> None:
    other.execute("INSERT INTO alembic_version VALUES ('theirs_0002')")
    for args in (["executions"], ["db", "upgrade"], ["db", "check"]):
        spine(*args).fails(3, "another version", "theirs_0002")


def test_what_was_added_is_asked_for(spine: Spine, chain: Path) -> None:
    add(chain, "pass")
    spine("executions", "list").fails(3, NEXT, "spine db upgrade")
    spine("db", "check").fails(3, NEXT, "spine db upgrade")
    spine.ok("db", "upgrade")
    spine.ok("executions", "list")


def test_a_folder_without_migrations_is_named(
    spine: Spine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPINE_MIGRATIONS", "nowhere")
    spine.restart()
    for args in (["executions", "list"], ["db", "upgrade"], ["db", "revision", "x"]):
        spine(*args).fails(3, "SPINE_MIGRATIONS", "nowhere")


# --- migrations of one's own -------------------------------------------------------------------


def test_a_migration_of_one_s_own_comes_after_those_of_the_tiers(spine: Spine, chain: Path) -> None:
    notes = Table("notes", metadata, Column("symbol", Word, primary_key=True), Column("note", Text))
    try:
        assert "notes" in spine("db", "check").out
        said = spine.ok("db", "revision", "a note for a symbol").out
        path = chain / "own" / f"{NEXT}_a_note_for_a_symbol.py"
        assert said.startswith(f"{path.relative_to(spine.folder)}: ")
        with path.open("a") as file:
            file.write(
                "    op.create_table('notes',\n"
                "        sa.Column('symbol', sa.String(collation='C'), nullable=False),\n"
                "        sa.Column('note', sa.Text()),\n"
                "        sa.PrimaryKeyConstraint('symbol', name='pk_notes'))\n"
            )
        spine.restart()
        assert spine.ok("db", "upgrade").out == f"upgraded to {NEXT}\n"
        assert "agree" in spine.ok("db", "check").out
        spine.restart()
        spine.ok("db", "revision", "another")
        assert (chain / "own" / f"{THEN}_another.py").is_file()
    finally:
        metadata.remove(notes)
    spine.restart()
    spine("db", "check").fails(3, THEN)


# --- the models and the database ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "culprits"),
    [
        ("ALTER TABLE executions DROP COLUMN lane", ["executions", "lane"]),
        ("ALTER TABLE executions ADD COLUMN more integer", ["executions", "column more"]),
        ("ALTER TABLE executions ALTER lane DROP NOT NULL", ["column lane", "NOT NULL"]),
        ("ALTER TABLE executions ALTER lane SET DEFAULT 'x'", ["column lane", "DEFAULT"]),
        ('ALTER TABLE executions ALTER lane TYPE varchar COLLATE "POSIX"', ["lane", "POSIX"]),
        ("ALTER TABLE otc_trades ALTER price TYPE numeric(30, 6)", ["price", "numeric(30,6)"]),
        ("ALTER TABLE otc_trades DROP CONSTRAINT known_in_order", ["constraint known_in_order"]),
        ("ALTER TABLE otc_trades ADD CHECK (price > 1)", ["otc_trades", "price > "]),
        ("ALTER TABLE dead_letters DROP CONSTRAINT fk_dead_letters_execution_id", ["fk_dead"]),
        ("ALTER INDEX ix_otc_trades_day RENAME TO day", ["index day", "index ix_otc_trades_day"]),
        ("DROP INDEX one_open_letter_per_record", ["index one_open_letter_per_record"]),
        ("DROP TRIGGER execution_events_refuse_changes ON execution_events", ["refuse_changes"]),
        ("ALTER TABLE execution_events DISABLE TRIGGER USER", ["refuse_changes"]),
        ("CREATE TABLE notes (symbol text)", ["notes"]),
        ("DROP TABLE otc_stale_days", ["otc_stale_days"]),
    ],
)
def test_a_difference_is_named(
    change: str, culprits: list[str], spine: Spine, other: Other
) -> None:
    other.execute(change.encode())
    checked = spine("db", "check")
    assert (checked.code, checked.err) == (1, "")
    for culprit in culprits:
        assert culprit in checked.out
    assert other.execute("SELECT to_regnamespace('spine_check')").fetchone() == (None,)


def test_the_body_of_a_trigger_is_compared_too(spine: Spine, other: Other) -> None:
    (body,) = other.execute(
        "SELECT prosrc FROM pg_proc WHERE proname = 'refuse_changes'"
    ).fetchall()
    weaker = str(body[0]).replace("'on'", "'yes'")
    other.execute(
        "CREATE OR REPLACE FUNCTION refuse_changes() RETURNS trigger LANGUAGE plpgsql AS "
        f"$$ {weaker} $$".encode()
    )
    assert "refuse_changes" in spine("db", "check").out


def test_an_upgrade_is_for_postgres(spine: Spine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "sqlite:///spine.db")
    spine.restart()
    for args in (["upgrade"], ["check"], ["import", "sqlite:///spine.db"]):
        spine("db", *args).fails(2, "sqlite:///spine.db", "is no Postgres")
