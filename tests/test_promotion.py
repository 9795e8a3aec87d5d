"""A living repo goes up: every pair of tiers, every version, with an owner's work in it.

Pairs come from copier.yml: a tier that is added there is tested here. The template is the working
tree, published under a tag, so that its address and version are those of the real thing.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from filecmp import cmp
from functools import cache
from itertools import combinations
from pathlib import Path
from typing import Any

import owner
import pytest
from steps import (
    BACKENDS,
    ROOT,
    TIERS,
    Answered,
    at_a_terminal,
    commit_all,
    environment,
    files_of,
    finish,
    free_port,
    lend,
    of_tiers,
    run,
)

PAIRS = [*combinations(TIERS, 2)]
ANSWERS = ".copier-answers.yml"
TOP = TIERS[-1]
TOOLS = ("-o", "setup", f"BIN={Path(sys.executable).parent}")


@pytest.fixture(scope="session")
def published(template: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The template as a git repo with a version; tests only read it."""
    folder = tmp_path_factory.mktemp("published") / "template"
    shutil.copytree(template, folder, symlinks=True)
    commit_all(folder)
    run("git", "tag", "v1.0.0", cwd=folder)
    return folder


@cache
def rendering(template: Path, tier: str) -> Path:
    """What users make of a template; tests only look at it."""
    repo = template.parent / f"made-{tier}"
    run("copier", "copy", "--defaults", "-d", f"tier={tier}", template, repo, cwd=repo.parent)
    return repo


def made(template: Path, repo: Path, tier: str) -> Path:
    """A repo of the tier, as users make it, without git."""
    return shutil.copytree(rendering(template, tier), repo)


def living(template: Path, repo: Path, tier: str) -> Path:
    """A repo of the tier under git, as it was made."""
    made(template, repo, tier)
    commit_all(repo)
    return repo


def own(repo: Path, tier: str) -> list[str]:
    """Do an owner's work in it; returns the files that have something at their ends."""
    ends = owner.add_at_ends(repo, files_of(repo))
    owner.work(repo, tier)
    lock_anew(repo)
    return ends


def with_work(fresh: Path, tier: str, ends: list[str]) -> dict[str, bytes]:
    """The files of a fresh repo after the work of a lower tier's owner, but for what is locked."""
    owner.work(fresh, tier)
    owner.add_at_ends(fresh, ends)
    return files_of(fresh)


def lock_anew(repo: Path) -> None:
    """Change every lock as `make lock` would, which one test runs."""
    for lock in repo.rglob("*.lock"):
        with lock.open("a", encoding="utf-8") as file:
            file.write(f"{owner.DEPENDENCY}==0 --hash=sha256:0\n")


def promote(repo: Path, tier: str, exit_code: int = 0, **more: str) -> Answered:
    """Run `make promote` with the tools at hand instead of a .venv of the repo's own."""
    return make(repo, "promote", f"TIER={tier}", exit_code=exit_code, **more)


def make(repo: Path, *target: str, exit_code: int = 0, **more: str) -> Answered:
    """Run a target, with a yes."""
    done = run("make", *TOOLS, *target, cwd=repo, exit_code=exit_code, **{"YES": "1", **more})
    assert "Traceback" not in done.stderr
    return done


def committed(repo: Path) -> dict[str, bytes]:
    """The files of a repo, after what is staged has been committed and nothing else is left."""
    run("git", "commit", "--quiet", "--message", "Promote", cwd=repo)
    assert run("git", "status", "--porcelain", cwd=repo).stdout == ""
    return files_of(repo)


@pytest.mark.parametrize(("lower", "higher"), PAIRS)
def test_a_promoted_repo_is_one_that_was_made_of_the_higher_tier(
    lower: str, higher: str, published: Path, tmp_path: Path
) -> None:
    repo = living(published, tmp_path / "repo", lower)
    promote(repo, higher)
    assert committed(repo) == files_of(made(published, tmp_path / "fresh", higher))


# --- a version of the template in between --------------------------------------------------------


@pytest.fixture(scope="session")
def moved_on(published: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same template with a second version: a file comes, two go, a partial has changed."""
    folder = tmp_path_factory.mktemp("moved-on") / "template"
    run("git", "clone", "--quiet", published, folder, cwd=published)
    layer = folder / "tiers/{{basic}}"
    (layer / "mappings/second.toml").write_text("# The second version brings this.\n")
    for gone in (
        "src/market_spine/services/otc/calendar.py",
        "tests/expected/otc_metrics_daily.csv.jinja",
    ):
        (layer / gone).unlink()
    partial = folder / "template/errors.py.jinja"
    text = partial.read_text("utf-8").replace("Base of all of them", "The base of all of them")
    partial.write_text(text, "utf-8")
    run("git", "add", "--all", cwd=folder)
    run("git", "commit", "--quiet", "--message", "Move on", cwd=folder)
    run("git", "tag", "v2.0.0", cwd=folder)
    return folder


@pytest.mark.parametrize("tier", TIERS)
def test_an_update_moves_the_version_and_not_the_tier(
    tier: str, published: Path, moved_on: Path, tmp_path: Path
) -> None:
    repo = living(published, tmp_path / "repo", tier)
    make(repo, "update", TEMPLATE=os.path.relpath(moved_on, repo))
    fresh = made(moved_on, tmp_path / "fresh", tier)
    assert committed(repo) == files_of(fresh), "which records an address that is not relative"
    assert "newest version" in make(repo, "update").stdout


def test_an_update_does_not_merge_what_its_owner_locked(
    published: Path, moved_on: Path, tmp_path: Path
) -> None:
    repo = made(published, tmp_path / "repo", TOP)
    lock_anew(repo)
    (repo / "poetry.lock").write_text("of the owner's own\n")
    commit_all(repo)
    said = make(repo, "update", TEMPLATE=os.path.relpath(moved_on, repo)).stdout
    assert "1. make lock" in said
    updated = committed(repo)
    assert updated.pop("poetry.lock") == b"of the owner's own\n"
    assert updated == files_of(made(moved_on, tmp_path / "fresh", TOP))


@pytest.mark.parametrize(("lower", "higher"), PAIRS)
def test_an_owner_s_work_outlives_a_promotion_and_then_an_update(
    lower: str, higher: str, published: Path, moved_on: Path, tmp_path: Path
) -> None:
    repo = made(published, tmp_path / "repo", lower)
    ends = own(repo, lower)
    commit_all(repo)
    said = promote(repo, higher, TEMPLATE=str(moved_on)).stdout
    promoted = committed(repo)
    assert b"_commit: v1.0.0\n" in promoted[ANSWERS], "the tier moves alone"

    fresh = made(published, tmp_path / "fresh", higher)
    assert promoted == {**with_work(fresh, lower, ends), ANSWERS: promoted[ANSWERS]}
    assert "1. make lock" in said
    edited = said.partition("these were edited here:")[2].partition("\n\n")[0].split()
    assert "pyproject.toml" in edited
    assert "src/market_spine/ledger.py" in edited
    assert "src/market_spine/services/otc/bronze.py" not in edited, "no tier changes it"

    said = make(repo, "update").stdout
    kept = "src/market_spine/services/otc/calendar.py"
    assert f"has them no longer:\n  {kept}\n\n" in said
    updated = committed(repo)
    assert b"The desk adds here" in updated[kept], "the owner's edit has saved it"

    fresh = made(moved_on, tmp_path / "fresh of the second version", higher)
    shutil.copy(repo / kept, fresh / kept)
    assert updated == with_work(fresh, lower, [path for path in ends if path != kept])


# --- refusals, and what is asked -----------------------------------------------------------------


@pytest.mark.parametrize(("lower", "higher"), PAIRS)
def test_there_is_no_way_down(lower: str, higher: str, published: Path, tmp_path: Path) -> None:
    repo = living(published, tmp_path / "repo", higher)
    refused = promote(repo, lower, exit_code=2).stderr
    assert f"error: there is no way down from {higher} to {lower}" in refused
    assert untouched(repo)


@pytest.fixture
def repo(published: Path, tmp_path: Path) -> Path:
    """A repo of the lowest tier."""
    return living(published, tmp_path / "repo", TIERS[0])


def untouched(repo: Path) -> bool:
    return run("git", "status", "--porcelain", cwd=repo).stdout == ""


def refused(repo: Path, tier: str = TOP, **more: str) -> str:
    """The one line in which a promotion is refused."""
    before = files_of(repo)
    lines = promote(repo, tier, exit_code=2, **more).stderr.splitlines()
    assert files_of(repo) == before
    assert lines[-1].startswith("make: *** ")
    (line,) = lines[:-1]
    assert line.startswith("error: ")
    return line


def test_a_tier_must_be_one_of_the_template_s(repo: Path) -> None:
    for tier in ("platinum", ""):
        assert f"no tier '{tier}': the tiers of version v1.0.0 are basic < " in refused(repo, tier)
    assert "this repo is basic already" in refused(repo, TIERS[0])


def test_what_is_not_committed_is_not_risked(repo: Path) -> None:
    (repo / "notes.txt").write_text("new\n")
    assert "uncommitted changes: commit or stash" in refused(repo)
    (repo / "notes.txt").unlink()
    (repo / "README.md").write_text("changed\n")
    assert "uncommitted changes: commit or stash" in refused(repo)


def test_git_is_needed(published: Path, repo: Path, tmp_path: Path) -> None:
    bare = made(published, tmp_path / "bare", TIERS[0])
    assert "git init, git add ., git commit" in refused(bare)
    run("git", "init", "--quiet", cwd=bare)
    assert "git init, git add ., git commit" in refused(bare)
    (repo / ANSWERS).unlink()
    assert f"no {ANSWERS} here" in refused(repo)


def test_a_template_that_cannot_be_reached_is_named(repo: Path, tmp_path: Path) -> None:
    nowhere = str(tmp_path / "nowhere")
    for address in (nowhere, f"file://{nowhere}", "nobody@localhost.invalid:template.git"):
        assert f"cannot be reached at {address} (" in refused(repo, TEMPLATE=address)
    run("git", "init", "--quiet", nowhere, cwd=tmp_path)
    (tmp_path / "nowhere/copier.yml").touch()
    commit_all(tmp_path / "nowhere")
    assert "has no version 'v1.0.0'" in refused(repo, TEMPLATE=nowhere)


def test_what_stands_in_the_way_is_named(repo: Path) -> None:
    with (repo / ".gitignore").open("a") as ignored:
        ignored.write("/make/\n/deploy/\n")
    run("git", "commit", "--quiet", "--all", "--message", "Ignore", cwd=repo)
    (repo / "deploy/compose").mkdir(parents=True)
    (repo / "deploy/compose/10-intermediate.yaml").write_text("mine\n")
    assert "deploy/compose/10-intermediate.yaml: already exists" in refused(repo)


def test_nothing_is_changed_without_a_yes(repo: Path) -> None:
    assert "nothing was changed: nobody is here to say yes; YES=1 says it" in refused(repo, YES="")
    terminal = at_a_terminal("make", *TOOLS, "promote", f"TIER={TOP}", cwd=repo)
    for shown in ("These files arrive:", "These change, as follows:", "+class StoreUnavail"):
        terminal.expect_exact(shown)
    for shown in ("New dependencies:", "New settings:", "What to type then:", "Go ahead? [y/N]"):
        terminal.expect_exact(shown)
    terminal.sendline("n")
    terminal.expect_exact("Nothing was changed.")
    finish(terminal)
    assert untouched(repo)


def test_an_address_that_leads_nowhere_is_asked_for_and_recorded(
    published: Path, tmp_path: Path
) -> None:
    repo = tmp_path / "repo"
    run("copier", "copy", "--defaults", ".", repo, cwd=published)
    commit_all(repo)
    assert "_src_path: .\n" in (repo / ANSWERS).read_text("utf-8")
    assert "give its address with TEMPLATE=" in refused(repo)
    terminal = at_a_terminal("make", *TOOLS, "promote", f"TIER={TOP}", cwd=repo)
    terminal.expect_exact("Its address: ")
    terminal.sendline(str(published))
    terminal.expect_exact("Go ahead? [y/N]")
    terminal.sendline("y")
    terminal.expect_exact("It is done")
    finish(terminal)
    fresh = made(published, tmp_path / "fresh", TOP)
    assert committed(repo) == files_of(fresh), "which records the address"


# --- conflicts ----------------------------------------------------------------------------------


def test_conflicts_are_listed_and_marked_and_end_with_an_error(repo: Path) -> None:
    (repo / "Dockerfile").write_text("FROM scratch\n")
    errors = repo / "src/market_spine/errors.py"
    text = errors.read_text("utf-8")
    errors.write_text(text.replace("class SupersededError(Ex", "class SupersededError(SpineEx"))
    commit_all(repo)
    before = files_of(repo)
    said = promote(repo, TOP, exit_code=2).stdout
    conflicts = ["Dockerfile", "src/market_spine/errors.py"]
    for title in ("CONFLICTS, which will be marked in:", "then git add them:"):
        assert "\n  ".join([title, *conflicts]) in said
    unmerged = run("git", "diff", "--name-only", "--diff-filter=U", cwd=repo).stdout.split()
    assert unmerged == conflicts
    assert "(SpineEx" in errors.read_text("utf-8")
    assert "class StoreUnavailableError" in errors.read_text("utf-8")
    run("git", "commit", "--quiet", "--message", "Too early", cwd=repo, exit_code=128)
    run("git", "reset", "--quiet", "--hard", cwd=repo)
    assert files_of(repo) == before


def test_a_repo_may_be_a_folder_of_a_larger_one(published: Path, tmp_path: Path) -> None:
    (tmp_path / "all/other").mkdir(parents=True)
    (tmp_path / "all/other/README.md").write_text("Another project.\n")
    repo = made(published, tmp_path / "all/spine", TIERS[0])
    commit_all(tmp_path / "all")
    promote(repo, TOP)
    assert committed(repo) == files_of(made(published, tmp_path / "fresh", TOP))


def test_work_that_lies_elsewhere_in_a_larger_repo_is_not_risked(
    published: Path, tmp_path: Path
) -> None:
    (tmp_path / "all").mkdir()
    repo = made(published, tmp_path / "all/spine", TIERS[0])
    commit_all(tmp_path / "all")
    (tmp_path / "all/notes.txt").write_text("new\n")
    assert "uncommitted changes: commit or stash" in refused(repo)


def test_how_its_owner_likes_git_to_look_does_not_matter(
    published: Path, repo: Path, tmp_path: Path
) -> None:
    liked = """
        [color]\nui = always
        [diff]\nnoprefix = true\nmnemonicPrefix = true\nexternal = false\nrenames = copies
        [status]\nshowUntrackedFiles = no\nshort = true\nbranch = true
        [commit]\ngpgsign = true
        [core]\npager = false
    """
    (tmp_path / "gitconfig").write_text(liked)
    promote(repo, TOP, GIT_CONFIG_GLOBAL=str(tmp_path / "gitconfig"))
    assert committed(repo) == files_of(made(published, tmp_path / "fresh", TOP))
    (repo / "notes.txt").write_text("new\n")
    said = make(repo, "update", exit_code=2, GIT_CONFIG_GLOBAL=str(tmp_path / "gitconfig")).stderr
    assert "uncommitted changes" in said


# --- what no pair of tiers shows -----------------------------------------------------------------

BLOCK = "begin\n  a\n  b\n  c\nend\n"
SMALL = {
    "copier.yml": "tier: {type: str, choices: [low, middle, high]}\n",
    "{{_copier_conf.answers_file}}.jinja": "{{ _copier_answers|to_nice_yaml -}}\n",
    "blocks.txt.jinja": f"start\n{{% if tier != 'low' %}}new\n{BLOCK}{{% endif %}}{BLOCK * 3}",
    "scripts/next/{% if tier != 'low' %}promote-10-middle.sh{% endif %}": "one\ntwo  # middle\n",
    "scripts/next/{% if tier == 'high' %}promote-20-high.sh{% endif %}": "one\nthree\n",
}


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A repo of the lowest of three tiers, so small that each line can be followed."""
    template = tmp_path / "small"
    for path, text in SMALL.items():
        (template / path).parent.mkdir(parents=True, exist_ok=True)
        (template / path).write_text(text, "utf-8")
    commit_all(template)
    repo = made(template, tmp_path / "low", "low")
    shutil.copy(ROOT / "tiers/{{basic}}/scripts/promote.py", repo)
    commit_all(repo)
    return repo


def test_a_tier_may_be_skipped_and_the_steps_of_both_come_once(small: Path) -> None:
    script = (sys.executable, "promote.py")
    said = run(*script, "high", cwd=small, YES="1").stdout
    steps = [line.split(". ", 1)[1] for line in said.rpartition("next:\n")[2].splitlines() if line]
    assert steps[:-2] == ["make setup", "one", "two  # middle", "three"]
    assert b"tier: high\n" in committed(small)[ANSWERS]
    down = run(*script, "middle", cwd=small, exit_code=1, YES="1").stderr
    assert "no way down from high to middle" in down
    assert "low < middle < high" in down


def test_an_edit_stays_in_its_place_where_lines_repeat(small: Path) -> None:
    edited = f"{BLOCK}{BLOCK.replace('b', 'B', 2)}{BLOCK}"
    (small / "blocks.txt").write_text(f"start\n{edited}", "utf-8")
    run("git", "commit", "--quiet", "--all", "--message", "Edit the second", cwd=small)
    run(sys.executable, "promote.py", "middle", cwd=small, YES="1")
    assert (small / "blocks.txt").read_text("utf-8") == f"start\nnew\n{BLOCK}{edited}"


# --- what lives in it ----------------------------------------------------------------------------

# Every row of every table, as Python reads it from whichever store is in use.
ROWS = """
import json
from sqlalchemy import select
from market_spine import database
from market_spine.schema import metadata

with database.snapshot() as connection:
    for table in metadata.sorted_tables:
        for row in connection.execute(select(table).order_by(*table.primary_key)):
            values = {name: str(value) for name, value in row._asdict().items()}
            print(json.dumps([table.name, values]))
"""
# A row of the owner's own table, in types that the template's tables do not have.
NOTE = """
from datetime import datetime
from decimal import Decimal
from sqlalchemy import insert
from market_spine import database
from market_spine.schema import own_notes

note = {"symbol": "OWN", "note": "ours", "user": "me", "end": datetime(2025, 11, 24, 12, 0, 0, 1)}
with database.transaction() as connection:
    connection.execute(insert(own_notes), {**note, "worth": Decimal("1234567890.50")})
"""
QUESTIONS = (
    ("metrics", "daily", "ALDRF", "--start", "2025-11-24", "--end", "2025-12-05", "--json"),
    ("metrics", "daily", "OWN", "--start", "2025-11-25", "--end", "2025-11-25", "--json"),
    ("dead-letters", "list", "--limit", "1000", "--json"),
)


def spine(repo: Path, *command: str, exit_code: int = 0, **more: str) -> str:
    """What the repo's own command line says."""
    return run(repo / ".venv/bin/spine", *command, cwd=repo, exit_code=exit_code, **more).stdout


def rows(repo: Path) -> list[tuple[str, dict[str, str]]]:
    """What is in the repo's store."""
    said = run(repo / ".venv/bin/python", "-c", ROWS, cwd=repo).stdout
    return [(table, row) for table, row in map(json.loads, said.splitlines())]


@of_tiers(TIERS[1:])
def test_a_living_repo_goes_up_with_its_data_and_passes_its_tests(
    tier: str, settled: Path, published: Path, tmp_path: Path
) -> None:
    lower = TIERS[TIERS.index(tier) - 1]
    repo = made(published, tmp_path / "repo", lower)
    owner.work(repo, lower)
    lend(settled / ".venv", repo)  # what it has and the lock has not does no harm
    run("make", "lock", cwd=repo)
    commit_all(repo)
    run("make", "demo", cwd=repo)
    spine(repo, "run", "otc_ingest", "--param", "connector=own_prints", "--param", "source=own")
    spine(repo, "run", "otc_normalize")
    spine(repo, "run", "otc_compute_daily_metrics")
    spine(repo, "run", "otc_ingest", "--param", "path=nowhere.csv", exit_code=1)
    for kind, ends in (("execution", 1), ("record", 0)):
        listed = spine(repo, "dead-letters", "list", "--kind", kind, "--limit", "1", "--json")
        spine(repo, "dead-letters", "retry", json.loads(listed)[0]["id"], exit_code=ends)
    run(repo / ".venv/bin/python", "-c", NOTE, cwd=repo)
    before, answers = rows(repo), [spine(repo, *question) for question in QUESTIONS]
    assert {"executions", "execution_events", "dead_letters", "otc_trades", "own_notes"} <= {
        t for t, _ in before
    }

    said = run("make", "promote", f"TIER={tier}", cwd=repo, YES="1").stdout
    steps = re.findall(r"^  \d+\. (.+)$", said.rpartition("What to type next:")[2], re.MULTILINE)
    owner.greet(repo, tier)
    if (repo / "deploy/kubernetes").is_dir():
        run("make", ".venv/kubernetes/.done", cwd=repo)  # or its tests would be skipped
    tested = {"PYTEST_ADDOPTS": " ".join(only_tested_here(repo, tier, published))}
    if tier == TOP:  # it takes longer than all others
        tested["PYTEST_XDIST_AUTO_NUM_WORKERS"] = "2"
    followed = run("sh", "-exc", "\n".join(steps), cwd=repo, exit_code=0, **tested)
    assert " passed" in followed.stdout
    assert "there is no" not in followed.stdout, "a tool is missing, and a test was skipped"
    assert run("git", "status", "--porcelain", cwd=repo).stdout == ""

    shown = [(table, row.keys()) for table, row in before]
    after = [(table, row) for table, row in rows(repo) if table in {table for table, _ in shown}]
    assert [
        (table, {name: row[name] for name in names})
        for (table, row), (_, names) in zip(after, shown, strict=True)
    ] == before
    assert [spine(repo, *question) for question in QUESTIONS] == answers
    old_id = next(row["id"] for table, row in before if table == "executions")
    assert json.loads(spine(repo, "executions", "show", old_id, "--json"))["id"] == old_id


ABOUT_FILES = ("tests/test_settings.py", "tests/test_architecture.py", "tests/test_demo.py")


def only_tested_here(repo: Path, tier: str, template: Path) -> list[str]:
    """Choose the tests of a repo that no higher tier has to the letter: the others are run there.

    And those that compare a repo's own files with each other. Of the highest tier these are all,
    but for those that `test_rendered_repo.py` runs meanwhile.
    """
    if tier == TOP:
        return ["-rs", f"--ignore={BACKENDS}"]
    above = rendering(template, TIERS[TIERS.index(tier) + 1])
    files = [path.relative_to(repo) for path in sorted(repo.glob("tests/**/test_*.py"))]
    return [
        str(path)
        for path in files
        if str(path) in ABOUT_FILES
        or not (above / path).exists()
        or not cmp(above / path, repo / path, shallow=False)
    ]


# Leaves an execution in its store as a kill does: it runs, and nobody runs it.
KILLED = """
from market_spine import database, dispatcher, ledger

with database.transaction() as connection:
    execution = dispatcher.submit_in(connection, "otc_normalize", {})
    ledger.claim(connection, execution.id)
    print(execution.id)
"""
WITHIN = 120  # seconds, for what takes five


@of_tiers(TIERS[2:])
def test_a_store_goes_up_more_than_one_tier_at_once(
    tier: str, settled: Path, published: Path, tmp_path: Path
) -> None:
    """It is read where it is, brought over, and what it had begun is ended by the higher tier."""
    repo = living(published, tmp_path / "repo", TIERS[0])
    lend(settled / ".venv", repo)
    run("make", "demo", cwd=repo)
    letters = ("dead-letters", "list", "--kind", "record", "--limit", "1000", "--json")
    asked = [QUESTIONS[0], letters]
    answers = [spine(repo, *question) for question in asked]
    killed = run(repo / ".venv/bin/python", "-c", KILLED, cwd=repo).stdout.strip()
    said = run("make", "promote", f"TIER={tier}", cwd=repo, YES="1").stdout
    steps = re.findall(r"^  \d+\. (.+)$", said.rpartition("What to type next:")[2], re.MULTILINE)

    shutil.copy(repo / "spine.db", repo / "copy.db")
    copy = "sqlite:///copy.db"
    assert [spine(repo, *question, DATABASE_URL=copy) for question in asked] == answers
    typed = [step for step in steps if step.split() != ["make", "test"]]
    run("sh", "-exc", "\n".join(typed), cwd=repo)
    assert [spine(repo, *question) for question in asked] == answers

    with started(repo, "dev", "--port", str(free_port())):
        deadline = time.monotonic() + WITHIN
        while (found := shown(repo, killed))["finished_at"] is None:
            assert time.monotonic() < deadline, found
            time.sleep(0.5)
    assert (found["status"], found["attempt"]) == ("succeeded", 2)


def shown(repo: Path, execution_id: str) -> dict[str, Any]:
    """An execution, as the repo's own command line shows it."""
    found: dict[str, Any] = json.loads(spine(repo, "executions", "show", execution_id, "--json"))
    return found


@contextmanager
def started(repo: Path, *command: str) -> Iterator[None]:
    """A command of the repo that runs meanwhile."""
    process = subprocess.Popen(
        [repo / ".venv/bin/spine", *command],
        cwd=repo,
        env=environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield
    finally:
        process.terminate()
        process.wait(WITHIN)
