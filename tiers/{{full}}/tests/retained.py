"""A store that keeps everything for 30 days, and its archive."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from pyarrow import parquet  # type: ignore[import-untyped]
from sqlalchemy import Table, text

from market_spine import database
from market_spine.schema import (
    dead_letters,
    execution_events,
    executions,
    metadata,
    otc_captures,
    otc_trades_raw,
)
from tests.support import REPO, Spine, spine_in

LEDGER = (executions, execution_events, dead_letters)
BRONZE = (otc_captures, otc_trades_raw)
POLICIES = ("BRONZE", "EVENTS", "EXECUTIONS", "DEAD_LETTERS")
DAYS = {"start_date": "2025-11-24", "end_date": "2025-11-25"}
# What tells of an age.
INSTANTS = {
    "executions": ("created_at", "started_at", "finished_at"),
    "dead_letters": ("created_at", "closed_at"),
    "otc_captures": ("captured_at", "normalized_at"),
    "otc_trades_raw": ("captured_at",),
    "otc_trades": ("known_from", "known_to"),
}


class Keeper:
    """The command line in a folder with such a store."""

    def __init__(self, spine: Spine) -> None:
        self.spine = spine
        self.archive = spine.folder / "archive"

    # --- what is in it -------------------------------------------------------------------------

    def fill(self) -> None:
        """A backfill, with records that were rejected; a failure, and its retry; all long over."""
        self.spine.pipeline("fails", "raise ZeroDivisionError('by zero')")
        self.spine.run("otc_backfill_range", path=REPO / "data/otc_sample.csv", **DAYS)
        self.spine.run("otc_compute_daily_metrics")
        self.spine.submit("fails")
        (failed,) = (row for row in self.spine.letters() if row["kind"] == "execution")
        self.spine("dead-letters", "retry", failed["id"])
        self.age()
        self.close_letters()

    def age(self, days: int = 100) -> None:
        """Let everything be so much older."""
        with database.transaction() as connection:
            for table, names in INSTANTS.items():
                older = ", ".join(
                    f"{name} = {name} - make_interval(days => :days)" for name in names
                )
                connection.execute(text(f"UPDATE {table} SET {older}"), {"days": days})

    def close_letters(self) -> None:
        """Let every letter have been closed, long ago."""
        closed = "UPDATE dead_letters SET closed_at = now() - interval '90 days'"
        with database.transaction() as connection:
            connection.execute(text(closed))

    def everything(self) -> dict[str, list[str]]:
        """Every row of every table, as Postgres writes it, to the letter."""
        with database.snapshot() as connection:
            return {
                name: sorted(
                    connection.execute(text(f"SELECT one::text FROM {name} AS one")).scalars()
                )
                for name in metadata.tables
            }

    def numbers(self, *tables: Table) -> dict[str, int]:
        """How many rows each table has."""
        return {table.name: self.spine.count(table) for table in tables or (*BRONZE, *LEDGER)}

    # --- what goes -----------------------------------------------------------------------------

    def removed(self, *args: str) -> dict[str, int]:
        """How many rows of each table go."""
        return {row["table"]: row["rows"] for row in self.spine.json("retention", *args)}

    def held(self, table: Table = executions) -> int:
        """How many rows of a table are old, and stay."""
        found = {row["table"]: row["held"] for row in self.spine.json("retention")}
        return int(found[table.name])

    def batches(self) -> list[Path]:
        """The batches that the archive has."""
        return sorted(one for one in self.archive.iterdir() if not one.name.startswith("."))

    def keys(self) -> dict[str, set[tuple[object, ...]]]:
        """The keys of all rows that are in the store, or in the archive, or in both."""
        found: dict[str, set[tuple[object, ...]]] = {}
        for table in (*BRONZE, *LEDGER):
            names = [column.name for column in table.primary_key]
            there = {tuple(row[name] for name in names) for row in self.spine.rows(table)}
            for batch in self.batches():
                file = batch / f"{table.name}.parquet"
                if file.exists():
                    rows = parquet.read_table(file, columns=names).to_pylist()
                    there |= {tuple(row[name] for name in names) for row in rows}
            found[table.name] = there
        return found


@contextmanager
def keeper_in(folder: Path) -> Iterator[Keeper]:
    """Such a store in a folder."""
    with spine_in(folder, "postgresql") as spine, pytest.MonkeyPatch.context() as patch:
        (folder / "archive").mkdir()
        patch.setenv("SPINE_ARCHIVE", "archive")
        for policy in POLICIES:
            patch.setenv(f"SPINE_RETAIN_{policy}_DAYS", "30")
        spine.restart()
        yield Keeper(spine)
