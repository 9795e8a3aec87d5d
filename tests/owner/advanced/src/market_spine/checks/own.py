"""The desk's own check: whoever is noted is written in capitals."""

from collections.abc import Iterator

from sqlalchemy import func, select

from market_spine import database
from market_spine.checks import Finding
from market_spine.schema import own_notes


def check() -> Iterator[Finding]:
    """Find the notes on what cannot be a symbol."""
    symbol = own_notes.c.symbol
    with database.snapshot() as connection:
        for found in connection.scalars(select(symbol).where(symbol != func.upper(symbol))):
            yield Finding(what=f"a note is on {found}", todo="write it in capitals")
