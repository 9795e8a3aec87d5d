"""One way in, one way through, one task; and whoever only accepts work needs nothing that does it.

The ways are read from the code, since no run can show that there is no second one. What a part may
import is for the contracts of pyproject.toml to say; here it is broken, and the rest must do.
"""

import ast
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.api.serving import PROBLEM, serving
from tests.fleet import Fleet, fleet_in
from tests.support import PACKAGE

# --- what is read from the code ------------------------------------------------------------------


def found(matches: Callable[[ast.AST], bool]) -> list[str]:
    """The functions, classes and names of modules in which something of the code matches."""
    return [
        ".".join([*file.relative_to(PACKAGE).with_suffix("").parts, name_of(statement)])
        for file in sorted(Path(PACKAGE).rglob("*.py"))
        for statement in ast.parse(file.read_text()).body
        if any(map(matches, ast.walk(statement)))
    ]


def name_of(statement: ast.stmt) -> str:
    match statement:
        case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
            return name
        case ast.Assign(targets=[ast.Name(id=name)]) | ast.AnnAssign(target=ast.Name(id=name)):
            return name
    return ast.unparse(statement)


def called(node: ast.AST) -> str:
    """The name of what a call calls, without where that comes from; nothing if it is no call."""
    return ast.unparse(node.func).rpartition(".")[2] if isinstance(node, ast.Call) else ""


def mentions(node: ast.AST, name: str) -> bool:
    return any(
        (isinstance(part, ast.Name) and part.id == name)
        or (isinstance(part, ast.Attribute) and part.attr == name)
        for part in ast.walk(node)
    )


def inserts_an_execution(node: ast.AST) -> bool:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return bool(
            re.search(r'\b(insert|merge|copy)\s+(into\s+)?"?executions\b', node.value, re.I)
        )
    return "insert" in called(node) and mentions(node, "executions")


def creates(node: ast.AST) -> bool:
    return called(node) == "create" and mentions(node, "ledger")


def calls_a_pipeline(node: ast.AST) -> bool:
    """Whether it calls what is named `run` with two things, which are a context and params."""
    return (
        called(node) == "run"
        and isinstance(node, ast.Call)
        and not node.keywords
        and len(node.args) == 2
    )


def test_an_execution_comes_into_being_in_one_function() -> None:
    """Beside `spine db import`, which brings over whole tables that were made so elsewhere."""
    assert found(inserts_an_execution) == ["ledger._CREATION"]
    assert found(lambda node: mentions(node, "_CREATION")) == ["ledger.create", "ledger._CREATION"]
    assert found(creates) == ["dispatcher.submit_in"]


def test_a_pipeline_is_called_from_one_function() -> None:
    assert found(calls_a_pipeline) == ["runner._work"]


def test_celery_has_one_task() -> None:
    script = """
from market_spine import worker
from market_spine.celery_app import app
print([name for name in app().tasks if not name.startswith("celery.")])
"""
    told = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert told.stdout.strip() == "['run_pipeline']"


# --- what is broken ------------------------------------------------------------------------------

LEAF = "otc_backfill_range"  # a pipeline from which no other one imports anything


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    with fleet_in(tmp_path) as made:
        yield made


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    """Where the code is in a state in which nothing that does work can be loaded, nor the leaf."""
    package = tmp_path / "broken" / "market_spine"
    shutil.copytree(PACKAGE, package)
    services = {*package.glob("services/*/**/*.py")}
    services -= {*package.rglob("__init__.py"), *package.rglob("queries.py")}
    assert len(services) > 10
    for file in (package / "runner.py", package / f"pipelines/{LEAF}.py", *services):
        file.write_text("def broken(:")
    return package.parent


def test_every_other_module_can_be_loaded_without(broken: Path) -> None:
    script = """
from importlib import import_module
from pkgutil import walk_packages
import market_spine

for module in walk_packages(market_spine.__path__, "market_spine."):
    if not module.name.endswith("__main__"):
        try:
            import_module(module.name)
        except SyntaxError:
            print(module.name.removeprefix("market_spine."))
"""
    told = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "PYTHONPATH": str(broken)},
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    names = [name for name in told.stdout.split() if not name.startswith("services.")]
    assert names == [f"pipelines.{LEAF}", "runner"]


def test_work_is_accepted_where_nothing_that_does_it_can_be_loaded(
    fleet: Fleet, broken: Path
) -> None:
    there = {"PYTHONPATH": str(broken), "SPINE_BACKEND": "celery", "REDIS_URL": fleet.broker.url}
    with serving(fleet.folder, fleet.database, **there) as api:
        accepted = [
            api.submit("otc_ingest", path="data/otc_sample.csv"),
            api.submit("otc_backfill_day", path="data/otc_sample.csv", day="2025-11-25"),
        ]
        refused = api.http.post("/executions", json={"pipeline": LEAF})
        assert (refused.status_code, refused.headers["content-type"]) == (422, PROBLEM)
        assert all(word in refused.json()["detail"] for word in (LEAF, "SyntaxError"))
        assert api.get("/executions")["items"] == accepted[::-1]
        assert api.get("/readyz")["database"] == "ok"

    def spine(*args: str) -> str:
        return subprocess.run(
            [sys.executable, "-c", "from market_spine.cli import main; main()", *args],
            cwd=fleet.folder,
            env={**os.environ, **there},
            check=True,
            stdout=subprocess.PIPE,
            text=True,
        ).stdout

    spine("run", "otc_normalize", "--no-wait")
    assert len(json.loads(spine("executions", "list", "--json"))) == 3
    listed = {row["name"]: row for row in json.loads(spine("pipelines", "--json"))}
    assert [name for name, row in listed.items() if "BROKEN" in row["description"]] == [LEAF]
    # A worker whose code is whole finds it all.
    fleet.worker(1)
    fleet.until(fleet.is_at_rest)
    assert fleet.statuses() == {"succeeded": 3}
