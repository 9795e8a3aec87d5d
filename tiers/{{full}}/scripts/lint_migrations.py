"""Lint the SQL of every migration with squawk: what blocks a table in use, or breaks who reads it.

Each migration is written as SQL, without a database; that one cannot be is a complaint as well.
`.squawk.toml` says by which rules; what one does on purpose stands with its reason in
`migrations/excused.toml`. An excuse that nothing needs any more is a complaint, too.
"""

import json
import subprocess
import sys
import sysconfig
import tomllib
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory

from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.operations import Operations
from alembic.script import ScriptDirectory

from market_spine.migrations import PATIENCE

FOLDER = Path("migrations")
EXCUSES = FOLDER / "excused.toml"
NOT_SQL = "not-sql"  # a rule of this script: what is not seen cannot be linted
IN_ONE = "Say what it does with data in one statement, such as UPDATE … FROM, without reading rows."
SQUAWK = Path(sysconfig.get_path("scripts")) / "squawk"


def main() -> int:
    """Print a line for each complaint; 1 if there is any."""
    excused = {
        (excuse["revision"], excuse["rule"])
        for excuse in tomllib.loads(EXCUSES.read_text("utf-8"))["excused"]
        if excuse["reason"].strip()
    }
    found = violations()
    complaints = [
        f"{name}: {rule}: {found[name, rule]} If it is meant so, say why in {EXCUSES}."
        for name, rule in sorted(found.keys() - excused)
    ]
    complaints += [
        f"{EXCUSES}: {name} needs no excuse for {rule} (any more): remove it."
        for name, rule in sorted(excused - found.keys())
    ]
    print("\n".join(complaints), end="\n" if complaints else "")
    return 1 if complaints else 0


def violations() -> dict[tuple[str, str], str]:
    """What squawk says, by the revision and the rule, and what it cannot be asked about."""
    found, files = {}, []
    with TemporaryDirectory() as name:
        for revision in revisions():
            try:
                sql = sql_of(revision)
            except AttributeError as error:  # of the answer to a query, which there is none of here
                found[revision, NOT_SQL] = f"It cannot be written as SQL ({error}). {IN_ONE}"
                continue
            files.append(Path(name) / f"{revision}.sql")
            # Each upgrade begins with this.
            files[-1].write_text(f"SET LOCAL lock_timeout = '{PATIENCE}';\n{sql}", "utf-8")
        command = [str(SQUAWK), "--config", ".squawk.toml", "--reporter", "json", *map(str, files)]
        done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode and not done.stdout:
        raise SystemExit(f"squawk: {done.stderr}")
    return found | {
        (Path(one["file"]).stem, one["rule_name"]): f"{one['message']} {one['help'] or ''}".strip()
        for one in json.loads(done.stdout or "[]")
    }


def revisions() -> list[str]:
    """Every revision of every branch."""
    return [script.revision for script in scripts().walk_revisions()]


def sql_of(revision: str) -> str:
    """What a migration would say to Postgres."""
    said = StringIO()
    options = {"as_sql": True, "output_buffer": said}
    context = MigrationContext.configure(dialect_name="postgresql", opts=options)
    with Operations.context(context):
        scripts().get_revision(revision).module.upgrade()
    return said.getvalue()


def scripts() -> ScriptDirectory:
    """The folder of the migrations, one folder a branch."""
    branches = sorted(path.as_posix() for path in FOLDER.iterdir() if any(path.glob("*.py")))
    config = Config()
    config.set_main_option("script_location", FOLDER.as_posix())
    config.set_main_option("path_separator", "newline")
    config.set_main_option("version_locations", "\n".join(branches))
    return ScriptDirectory.from_config(config)


if __name__ == "__main__":
    sys.exit(main())
