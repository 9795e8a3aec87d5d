"""How commands show things: tables for people, JSON for programs, progress only on a terminal."""

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import date, datetime
from decimal import Decimal
from typing import Annotated, Any
from uuid import UUID

import typer

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


def print_json(value: Any) -> None:
    """One JSON document; decimals are strings, so that no digit is lost."""
    import orjson

    option = orjson.OPT_INDENT_2 | orjson.OPT_NON_STR_KEYS
    print(orjson.dumps(value, default=_plain, option=option).decode())


def _plain(value: Any) -> Any:
    if isinstance(value, Decimal):
        return f"{value:f}"
    return dict(value) if isinstance(value, Mapping) else vars(value)


def print_rows(
    rows: Sequence[Mapping[str, Any]], columns: Mapping[str, str], *, as_json: bool, empty: str
) -> None:
    """Rows as a table under the given headings (heading by field), or whole as JSON."""
    if as_json:
        print_json(rows)
        return
    if not rows:
        print(empty)
        return
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    numeric = {f for f in columns if isinstance(rows[0][f], int | Decimal)}
    for field, heading in columns.items():
        right = field in numeric
        table.add_column(heading, justify="right" if right else "left", overflow="fold")
    for row in rows:
        table.add_row(*(text_of(row[field]) for field in columns))
    _console().print(table)


def print_fields(fields: Mapping[str, Any]) -> None:
    """One thing, a field a line."""
    from rich.table import Table

    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, value in fields.items():
        table.add_row(name, text_of(value))
    _console().print(table)


def text_of(value: Any) -> str:
    """A value as a person reads it."""
    from rich.markup import escape

    match value:
        case None:
            return "-"
        case datetime():
            return f"{value:%Y-%m-%d %H:%M:%S.%f}Z"
        case date() | UUID():
            return str(value)
        case Decimal():
            return f"{value:,f}"
        case Mapping():
            return escape(", ".join(f"{k}={v}" for k, v in value.items() if v is not None)) or "-"
        case _:
            return escape(str(value))


def _console() -> Any:
    from rich.console import Console

    # Piped output is not wrapped: a program that reads it wants a row a line.
    return Console(width=None if sys.stdout.isatty() else 400, highlight=False)


@contextmanager
def progress_shown() -> Iterator[None]:
    """Show the progress of work done in this process; nothing where stderr is no terminal."""
    if not sys.stderr.isatty():
        yield
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from market_spine import progress

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        task = bars.add_task("starting", total=None)
        label = ""

        def show(now: str, done: int, total: int | None) -> None:
            nonlocal label
            if now != label:
                bars.reset(task)
                label = now
            bars.update(task, description=now, completed=done, total=total)

        with progress.listening(show):
            yield
