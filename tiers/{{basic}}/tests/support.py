"""What the tests share: the command line, in a folder with a store of its own.

`Spine` is what a person has: commands, and what they print. It also reads the tables, because a
store is judged by its rows; ids and clock columns are left out where two stores are compared.
"""

import io
import json
import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from importlib import invalidate_caches
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from hypothesis import settings
from sqlalchemy import Table, select

import market_spine
from market_spine import database, ledger, pipelines
from market_spine.cli import main
from market_spine.schema import (
    dead_letters,
    otc_metrics_daily,
    otc_trades,
)
from market_spine.settings import Settings
from tests.pipeline_file import pipeline_text
from tests.tape import Row, csv_text

REPO = Path(__file__).parents[1]
PACKAGE = str(Path(str(market_spine.__file__)).parent)
FIRST_CAPTURE = "2025-12-08T12:00:00Z"


def scaled(examples: int) -> int:
    """How many examples a slow property gets: few, unless a slow profile was asked for."""
    return examples if settings().derandomize else settings().max_examples


@dataclass(frozen=True)
class Ended:
    """A command that has ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    def fails(self, code: int, *culprits: str) -> "Ended":
        """Check that it failed as it should: one clear line that names the culprit."""
        assert self.code == code, (self.code, self.out, self.err)
        lines = [line for line in self.err.splitlines() if not line.startswith("see: spine ")]
        assert len(lines) == 1, self.err
        assert lines[0].startswith("error: ")
        for culprit in culprits:
            assert culprit in lines[0], (culprit, lines[0])
        return self


class Spine:
    """The command line in one folder, and the store that it keeps there."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store = folder / "spine.db"

    # --- commands ------------------------------------------------------------------------------

    def __call__(self, *args: object) -> Ended:
        """Run a command in this process."""
        out, err = io.StringIO(), io.StringIO()
        code: object = 0
        with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
            patch.setattr(sys, "argv", ["spine", *map(str, args)])
            try:
                main()
            except SystemExit as end:
                code = end.code or 0
        assert isinstance(code, int), code
        return Ended(code, out.getvalue(), err.getvalue())

    def ok(self, *args: object) -> Ended:
        """Run a command that must succeed."""
        ended = self(*args)
        assert ended.code == 0, (args, ended)
        return ended

    def json(self, *args: object) -> Any:
        """What a command that must succeed prints as JSON."""
        return self.ok(*args, "--json").json

    def submit(self, pipeline: str, **params: object) -> Ended:
        """Run a pipeline, whatever becomes of it."""
        given = [text for name, value in params.items() for text in ("-p", f"{name}={value}")]
        return self("run", pipeline, *given, "--json")

    def run(self, pipeline: str, **params: object) -> dict[str, Any]:
        """Run a pipeline that must succeed; returns the execution."""
        ended = self.submit(pipeline, **params)
        assert ended.code == 0, (pipeline, params, ended)
        found: dict[str, Any] = ended.json
        return found

    def start(self, *args: object, **options: Any) -> subprocess.Popen[str]:
        """Start a command in a process of its own."""
        command = shutil.which("spine", path=sysconfig.get_path("scripts"))
        assert command is not None
        return subprocess.Popen(
            [command, *map(str, args)],
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=options.pop("stderr", subprocess.PIPE),
            text=True,
            **options,
        )

    def process(self, *args: object) -> Ended:
        """Run a command in a process of its own, where every warning is an error."""
        return ended(self.start(*args, env={**os.environ, "PYTHONWARNINGS": "error"}))

    def restart(self) -> None:
        """Forget what this process knows of settings and store, as a new process would."""
        forget()

    # --- the pipelines -------------------------------------------------------------------------

    def tape(self, *rows: Row | str, name: str = "tape.csv") -> str:
        """Write a file of the standard layout; returns its name."""
        (self.folder / name).write_text(csv_text(*rows))
        return name

    def capture(
        self, *rows: Row | str, at: str = FIRST_CAPTURE, name: str = "tape.csv", **params: object
    ) -> str:
        """Ingest rows; returns the capture's id."""
        path = self.tape(*rows, name=name)
        execution = self.run("otc_ingest", path=path, captured_at=at, **params)
        capture_id: str = execution["id"]
        return capture_id

    def take(self, *rows: Row | str, at: str = FIRST_CAPTURE, name: str = "tape.csv") -> None:
        """Ingest, normalize and compute rows."""
        self.capture(*rows, at=at, name=name)
        self.settle()

    def settle(self) -> None:
        """Normalize and compute what is pending."""
        self.run("otc_normalize")
        self.run("otc_compute_daily_metrics")

    def pipeline(self, name: str, *body: str) -> None:
        """Add a pipeline as a user does, by a file; `body` is its function, after the signature."""
        (self.folder / "pipelines" / f"{name}.py").write_text(pipeline_text(name, body))
        invalidate_caches()

    # --- the store -----------------------------------------------------------------------------

    def rows(self, table: Table, *, without: tuple[str, ...] = ()) -> list[dict[str, Any]]:
        """The rows of a table, decimals, dates and ids as text."""
        columns = [column for column in table.columns if column.name not in without]
        with database.snapshot() as connection:
            found = connection.execute(select(*columns)).all()
        return [{str(name): plain(value) for name, value in row._mapping.items()} for row in found]

    def count(self, table: Table) -> int:
        return len(self.rows(table))

    def gold(self) -> dict[tuple[str, str], dict[str, Any]]:
        """Gold by symbol and date, without the clock column."""
        rows = self.rows(otc_metrics_daily, without=("computed_at",))
        return {(row.pop("symbol"), row.pop("date")): row for row in rows}

    def day(self, symbol: str = "ACME", day: str = "2025-11-24") -> dict[str, Any]:
        """Gold of one day."""
        return self.gold()[symbol, day]

    def versions(self) -> list[dict[str, Any]]:
        """Silver with its history, without ids and clock columns, in a fixed order."""
        own = ("version_id", "raw_id", "capture_id", "ingested_at")
        return sorted(
            self.rows(otc_trades, without=own), key=lambda row: sorted(map(str, row.items()))
        )

    def silver(self) -> dict[str, dict[str, Any]]:
        """The version of each trade that stands, by trade id."""
        return {row["trade_id"]: row for row in self.versions() if row["known_to"] is None}

    def letters(self, *, closed: bool = False) -> list[dict[str, Any]]:
        """The dead letters that are open, or that are closed, oldest first."""
        rows = sorted(self.rows(dead_letters), key=lambda row: row["id"])
        return [row for row in rows if (row["closed_at"] is not None) is closed]

    def faults(self) -> list[tuple[str, str]]:
        """The field and the reason of each open letter of a record."""
        return sorted((row["field"], row["reason"]) for row in self.letters() if row["field"])

    def rejected(self) -> list[tuple[str, str]]:
        """The record and the field of each open letter of a record."""
        letters = [row for row in self.letters() if row["kind"] == "record"]
        return sorted((row["record_hash"], row["field"]) for row in letters)

    def state(self) -> tuple[object, ...]:
        """All that the pipelines have made: silver, gold and the open letters of records."""
        return self.versions(), self.gold(), self.rejected()

    def executions(self) -> list[dict[str, Any]]:
        """The executions, oldest first."""
        found: list[dict[str, Any]] = self.json("executions", "list", "--limit", 1000)
        return found[::-1]

    def check_ledger(self) -> None:
        """Check that the events of every execution amount to its row, and each failure's letter."""
        with database.snapshot() as connection:
            for execution in ledger.list_executions(connection, limit=1000):
                events = ledger.events_of(connection, execution.id)
                assert [event.seq for event in events] == [*range(1, execution.version + 1)]
                assert ledger.fold(events) == {
                    "status": execution.status,
                    "version": execution.version,
                    "attempt": execution.attempt,
                    "cancel_requested": execution.cancel_requested,
                    "error": execution.error,
                    "finished": execution.finished_at is not None,
                }
        letters = [
            row["execution_id"] for row in self.rows(dead_letters) if row["kind"] == "execution"
        ]
        assert len(letters) == len(set(letters))


def ended(process: subprocess.Popen[str], within: float = 60) -> Ended:
    """What became of a process."""
    out, err = process.communicate(timeout=within)
    return Ended(process.returncode, out, err)


def plain(value: object) -> object:
    """A value of a row as text, unless it is a number or nothing."""
    match value:
        case Decimal():
            return f"{value:f}"
        case datetime():
            return value.isoformat()
        case date() | UUID():
            return str(value)
        case _:
            return value


@contextmanager
def spine_in(folder: Path) -> Iterator[Spine]:
    """The command line in a folder, with its own SQLite store and its own copy of the mappings."""
    shutil.copytree(REPO / "mappings", folder / "mappings", dirs_exist_ok=True)
    (folder / "pipelines").mkdir(exist_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipelines, "__path__", [*pipelines.__path__, str(folder / "pipelines")])
        for name in Settings.model_fields:
            patch.delenv(name.upper(), raising=False)
        patch.setenv("DATABASE_URL", "sqlite:///spine.db")
        patch.setenv("SPINE_BACKEND", "inline")
        patch.chdir(folder)
        forget()
        try:
            yield Spine(folder)
        finally:
            forget()


def forget() -> None:
    """Close the engine, and drop what a module has cached and the modules that a test has added."""
    if database.engine.cache_info().currsize:
        database.engine().dispose()
    for name, module in list(sys.modules.items()):
        if name.startswith("market_spine"):
            if not str(getattr(module, "__file__", None)).startswith(PACKAGE):
                del sys.modules[name]
            for value in vars(module).values():
                if hasattr(value, "cache_clear"):
                    value.cache_clear()
