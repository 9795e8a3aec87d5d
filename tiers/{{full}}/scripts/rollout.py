"""Run the code of the commit before on the schema of now, as a rollout does for some minutes.

A rollout upgrades the schema first, and then replaces one process after the other: until the last
one, old code works on the new schema. So a migration only expands (new tables, new columns that may
stay empty), and what no code needs any more is taken away by a later release.

The commit before is BASE, the release that runs now; unset, the last one with other migrations.
Its files are laid in a folder of their own, with the migrations of now; then its own tests run
there, with what is installed here. If they fail, they run on its own schema as well, since the
migrations may not be to blame.
"""

import io
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from tempfile import TemporaryDirectory

MIGRATIONS = "migrations"
SCRIPTS = f":(glob){MIGRATIONS}/**/*.py"  # what else lies there, such as excuses, does nothing
# A backfill from end to end, and each endpoint; or which tests of that commit TESTS names.
TESTS = "tests/test_demo.py tests/api/test_executions.py tests/api/test_operations.py"


def main() -> int:
    """0 if the code works on the schema, or none can be meant; 1 if not; 2 if it cannot be told."""
    base = os.environ.get("BASE") or before()
    if base is None:
        print("Rollout: no commit before has another schema.")
        return 0
    with TemporaryDirectory(prefix="spine-", dir="/tmp") as name:
        folder = Path(name)
        folder.chmod(0o755)  # for the user that root runs a server as
        lay(base, folder)
        own, new = scripts(folder), scripts(Path.cwd())
        if branches(own) != branches(new):
            print(f"Rollout: {base[:12]} is of another tier, from which one goes up at a stop.")
            return 0
        if own == new:
            print(f"Rollout: {base[:12]} has the same migrations.")
            return 0
        tests = tests_of(base, folder)
        print(f"Rollout: running the code of {base[:12]} on the schema of now ...", flush=True)
        write(folder, new)
        if passes(folder, tests):
            return 0
        print("Rollout: and on its own schema, to see which is to blame ...", flush=True)
        write(folder, own)
        if passes(folder, tests):
            print(
                f"The migrations break the code of {base[:12]}, which works on the schema before "
                "them: only add to the schema now, and take away once no release needs it."
            )
            return 1
        print(f"The code of {base[:12]} fails on its own schema, too: this tells nothing.")
        return 2


def before() -> str | None:
    """The last commit whose migrations are others; None if there is none."""
    if git("status", "--porcelain", "--untracked-files=all", "--", SCRIPTS):
        return git("rev-parse", "--verify", "--quiet", "HEAD") or None
    changed = git("log", "-1", "--format=%H", "--", SCRIPTS)
    return (changed and git("rev-parse", "--verify", "--quiet", f"{changed}^")) or None


def git(*arguments: str) -> str:
    """What git says; nothing if it refuses, as where there is no repo or no commit."""
    return subprocess.run(["git", *arguments], capture_output=True, text=True).stdout.strip()


def lay(base: str, folder: Path) -> None:
    """Lay the files of a commit in a folder."""
    packed = subprocess.run(["git", "archive", base], capture_output=True)
    if packed.returncode:
        raise SystemExit(f"BASE: git cannot read '{base}': {packed.stderr.decode().strip()}")
    with tarfile.open(fileobj=io.BytesIO(packed.stdout)) as archive:
        archive.extractall(folder, filter="data")


def scripts(folder: Path) -> dict[str, str]:
    """The migrations of a repo, by their paths."""
    found = sorted((folder / MIGRATIONS).rglob("*.py"))
    return {path.relative_to(folder).as_posix(): path.read_text("utf-8") for path in found}


def branches(migrations: dict[str, str]) -> set[str]:
    """One for each tier up to a repo's, and its own."""
    return {Path(name).parent.name for name in migrations}


def write(folder: Path, migrations: dict[str, str]) -> None:
    """Give a repo these migrations and no others."""
    shutil.rmtree(folder / MIGRATIONS)
    for name, text in migrations.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, "utf-8")


def tests_of(base: str, folder: Path) -> list[str]:
    """Which tests of a commit to run: those of TESTS that it has, which may be newer."""
    named = (os.environ.get("TESTS") or TESTS).split()
    found = [test for test in named if (folder / test.partition("::")[0]).exists()]
    if not found:  # without a name, pytest would run every test
        raise SystemExit(f"TESTS: {base[:12]} has none of: {' '.join(named)}")
    return found


def passes(folder: Path, tests: list[str]) -> bool:
    """Whether a repo passes these tests on Postgres."""
    command = [sys.executable, "-m", "pytest", "-x", "--tb=short", "-k", "not sqlite", *tests]
    environment = {**os.environ, "PYTHONPATH": str(folder / "src")}
    return subprocess.run(command, cwd=folder, env=environment).returncode == 0


if __name__ == "__main__":
    sys.exit(main())
