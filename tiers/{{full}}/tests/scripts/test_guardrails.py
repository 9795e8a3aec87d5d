"""Each guard is content with this repo, and says what is wrong with one in which it was broken."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests import postgres
from tests.house import new_folder
from tests.support import REPO

TOOLS = Path(sysconfig.get_path("scripts"))
LEFT_OUT = shutil.ignore_patterns(".*cache*", ".git", ".hypothesis", ".spine", ".venv", "*.db*")
MIGRATION = """
import sqlalchemy as sa
from alembic import op

revision = "{number}"
down_revision = "{last}"
branch_labels = None
depends_on = "full_0001"


def upgrade() -> None:
    {body}
"""
EXPANDS = 'op.add_column("executions", sa.Column("note", sa.Text()))'
BREAKS = 'op.drop_column("executions", "retry_of")'


class Copy:
    """A copy of this repo, to break things in."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def run(self, *command: str | Path, **environment: str) -> tuple[int, str]:
        """The exit code, and all that was said."""
        done = subprocess.run(
            command,
            cwd=self.folder,
            env={**os.environ, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        return done.returncode, done.stdout

    def script(self, name: str, **environment: str) -> tuple[int, str]:
        return self.run(sys.executable, f"scripts/{name}.py", **environment)

    def migrate(self, body: str) -> str:
        """Add a migration of one's own; returns its revision."""
        own = self.folder / "migrations/own"
        last = max("_".join(path.stem.split("_")[:2]) for path in own.glob("own_*.py"))
        number = f"own_{int(last[4:]) + 1:04}"
        text = MIGRATION.format(number=number, last=last, body=body)
        (own / f"{number}_more.py").write_text(text)
        return number

    def replace(self, name: str, old: str, new: str) -> None:
        text = (self.folder / name).read_text()
        assert old in text
        (self.folder / name).write_text(text.replace(old, new, 1))

    def commit(self) -> str:
        git = ("git", "-c", "user.name=x", "-c", "user.email=x", "-c", "commit.gpgsign=0")
        for command in (["init", "-q"], ["add", "-A"], ["commit", "-q", "-m", "x"]):
            assert self.run(*git, *command) == (0, "")
        return self.run("git", "rev-parse", "HEAD")[1].strip()


@pytest.fixture
def copy() -> Iterator[Copy]:
    with new_folder() as folder:
        shutil.copytree(REPO, folder / "repo", ignore=LEFT_OUT)
        shutil.copytree(REPO / ".github", folder / "repo/.github", dirs_exist_ok=True)
        yield Copy(folder / "repo")


# --- migrations ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "rule"),
    [
        (BREAKS, "ban-drop-column"),
        ('op.alter_column("executions", "error", new_column_name="why")', "renaming-column"),
        ('op.create_index("x", "executions", ["lane"])', "require-concurrent-index-creation"),
        ('op.get_bind().execute(sa.text("SELECT 1")).scalar_one()', "not-sql"),
    ],
)
def test_a_migration_that_blocks_or_breaks_is_named(copy: Copy, body: str, rule: str) -> None:
    revision = copy.migrate(body)
    code, said = copy.script("lint_migrations")
    assert (code, f"{revision}: {rule}: " in said) == (1, True), said
    with (copy.folder / "migrations/excused.toml").open("a") as file:
        file.write(f'\n[[excused]]\nrevision = "{revision}"\nrule = "{rule}"\nreason = "so"\n')
    assert copy.script("lint_migrations") == (0, "")


def test_a_migration_that_expands_needs_no_excuse(copy: Copy) -> None:
    revision = copy.migrate(EXPANDS)
    assert copy.script("lint_migrations") == (0, "")
    with (copy.folder / "migrations/excused.toml").open("a") as file:
        file.write(f'\n[[excused]]\nrevision = "{revision}"\nrule = "x"\nreason = "so"\n')
    code, said = copy.script("lint_migrations")
    assert (code, f"{revision} needs no excuse for x" in said) == (1, True)


# --- a rollout ----------------------------------------------------------------------------------

SMOKE = {"TESTS": "tests/test_demo.py::test_the_metrics_equal_those_of_the_oracle"}


def test_old_code_runs_on_a_schema_that_expands_and_not_on_one_that_breaks_it(copy: Copy) -> None:
    server = {"DATABASE_URL": postgres.server()}
    code, said = copy.script("rollout")
    assert (code, said) == (0, "Rollout: no commit before has another schema.\n")
    base = copy.commit()
    copy.migrate(EXPANDS)
    code, said = copy.script("rollout", **SMOKE, **server)
    assert (code, f"the code of {base[:12]}" in said, " passed" in said) == (0, True, True), said
    copy.commit()  # what has been committed since is compared with the same
    copy.migrate(BREAKS)
    code, said = copy.script("rollout", BASE=base, **SMOKE, **server)
    assert (code, f"break the code of {base[:12]}" in said, "retry_of" in said) == (1, True, True)


def test_an_excuse_is_no_migration(copy: Copy) -> None:
    """It comes with the one that it excuses, or behind it, and hides none."""
    base = copy.commit()
    copy.migrate('op.drop_column("executions", "retry_of")')
    copy.commit()
    copy.replace("migrations/excused.toml", "# Your own", "# Mine\n# Your own")
    copy.commit()
    _, said = copy.script("rollout", TESTS="tests/test_cron.py")
    assert f"running the code of {base[:12]}" in said


def test_a_commit_that_does_not_exist_or_is_of_another_tier_is_not_run(copy: Copy) -> None:
    base = copy.commit()
    code, said = copy.script("rollout", BASE=base)
    assert (code, said) == (0, f"Rollout: {base[:12]} has the same migrations.\n")
    code, said = copy.script("rollout", BASE="nowhere")
    assert (code, "nowhere" in said, "Traceback" in said) == (1, True, False)
    (copy.folder / "migrations/higher").mkdir()
    (copy.folder / "migrations/higher/higher_0001.py").write_text("")
    code, said = copy.script("rollout")
    assert (code, "another tier" in said) == (0, True)


def test_tests_that_the_commit_before_lacks_are_not_taken_for_all_of_them(copy: Copy) -> None:
    base = copy.commit()
    copy.migrate(EXPANDS)
    code, said = copy.script("rollout", TESTS="tests/test_nothing.py tests/test_none.py::test_it")
    wanted = f"TESTS: {base[:12]} has none of: tests/test_nothing.py tests/test_none.py::test_it\n"
    assert (code, said) == (1, wanted)


# --- locks --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "old", "new", "complaint"),
    [
        ("pyproject.toml", '  "filelock",', '  "filelock>=9000",', "asks for filelock>=9000"),
        ("pyproject.toml", '  "filelock",', '  "filelock",\n  "unheard-of",', "lacks unheard-of"),
        ("pyproject.toml", '  "filelock",', "  ", "has filelock, which"),
        ("requirements.lock", "kombu==", "kombu==0.", "has not the kombu"),
        ("requirements.lock", "redis==", "rediss==", "lacks redis"),
        ("pyproject.toml", '["dbos"]', '["dbos>=9000"]', "dbos.lock: has dbos"),
        ("requirements-dev.lock", "alembic==", "--index-url x\nalembic==", "address of an index"),
    ],
)
def test_a_lock_that_does_not_match_is_named(
    copy: Copy, name: str, old: str, new: str, complaint: str
) -> None:
    assert copy.script("check_locks") == (0, "")
    copy.replace(name, old, new)
    code, said = copy.script("check_locks")
    assert (code, complaint in said, "make lock" in said) == (1, True, True), said


# --- what others made ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "name", "old", "new", "complaint"),
    [
        (
            ("bandit", "-q", "-c", "pyproject.toml", "-r", "src", "scripts", "migrations"),
            "src/market_spine/broker.py",
            "\n\n\n",
            "\n\n\nimport pickle\n\npickle.loads(b'')\n\n",
            "B301",
        ),
        (("hadolint", "Dockerfile"), "Dockerfile", ":3.13-slim", "", "DL3006"),
        (("hadolint", "Dockerfile"), "Dockerfile", "10001:10001", "root", "DL3002"),
        (
            ("zizmor", "-q", "--offline", ".github/workflows"),
            ".github/workflows/ci.yml",
            "actions/checkout@v6",
            "someone/checkout@v6",
            "unpinned-uses",
        ),
    ],
)
def test_a_tool_is_content_and_can_be_made_to_complain(
    copy: Copy, command: tuple[str, ...], name: str, old: str, new: str, complaint: str
) -> None:
    tool = TOOLS / command[0]
    assert copy.run(tool, *command[1:])[0] == 0
    copy.replace(name, old, new)
    code, said = copy.run(tool, *command[1:])
    assert (code != 0, complaint in said) == (True, True), said


def test_the_bill_of_materials_is_what_is_locked(copy: Copy) -> None:
    command = "requirements requirements.lock --pyproject pyproject.toml --output-reproducible"
    code, said = copy.run(TOOLS / "cyclonedx-py", *command.split(), "-o", "sbom.json")
    assert code == 0, said
    bill = json.loads((copy.folder / "sbom.json").read_text())
    locked = (copy.folder / "requirements.lock").read_text().splitlines()
    pins = {line.split(" ")[0] for line in locked if "==" in line and line[0].isalpha()}
    assert {f"{part['name']}=={part['version']}" for part in bill["components"]} == pins
    assert bill["metadata"]["component"]["name"] == "market-spine"


def test_the_workflow_runs_what_there_is() -> None:
    flow: dict[str, Any] = yaml.safe_load((REPO / ".github/workflows/ci.yml").read_text())
    assert flow["permissions"] == {"contents": "read"}
    steps = [step.get("run", "") for job in flow["jobs"].values() for step in job["steps"]]
    targets = {step.split()[1] for step in steps if step.startswith("make ")}
    makefiles = "".join(path.read_text() for path in [REPO / "Makefile", *REPO.glob("make/*.mk")])
    assert targets == {"setup", "test", "sbom", "audit"}
    assert all(f"\n{target}:" in makefiles for target in targets)
