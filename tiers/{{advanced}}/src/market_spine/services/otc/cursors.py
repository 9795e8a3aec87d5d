"""How far into a source's records a recurring ingest has come.

A cursor is a row, and moves in the transaction that stores what was read: after a crash both have
happened, or neither. It counts records, so that a source may only grow at its end; the record that
was read last is remembered, and must stand in its place when reading goes on.
"""

from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from hashlib import sha256
from itertools import islice
from typing import NamedTuple

import orjson
from sqlalchemy import Connection, select, update

from market_spine import database
from market_spine.errors import SourceError
from market_spine.schema import ingest_cursors
from market_spine.services.otc.bronze import BATCH
from market_spine.services.otc.connector import Record


class Cursor(NamedTuple):
    """A place in a source."""

    name: str
    position: int  # how many records were read
    last_record: str | None  # the hash of the last of them


def take(connection: Connection, name: str) -> Cursor | None:
    """A cursor, which nobody else can take until the transaction has ended; a new one is at 0.

    None: somebody else has it, and may have for as long as the source takes its time.
    """
    new = {"name": name, "position": 0, "last_record": None, "moved_at": None}
    connection.execute(database.store().insert_new(ingest_cursors), new)
    columns = [ingest_cursors.c[column] for column in Cursor._fields]
    mine = select(*columns).where(ingest_cursors.c.name == name).with_for_update(skip_locked=True)
    found = connection.execute(mine).first()
    return Cursor(*found) if found else None


def skip(
    cursor: Cursor, records: Iterator[Record], checkpoint: Callable[[str, int, int | None], None]
) -> None:
    """Bring a source's records to the place of the cursor.

    Raises:
        SourceError: the record that was read last does not stand there any more.
    """
    last = None
    for place, record in enumerate(islice(records, cursor.position), start=1):
        if place == cursor.position:
            last = _hash(record)
        elif place % BATCH == 0:
            checkpoint("skipped", place, cursor.position)
    if last != cursor.last_record:
        raise SourceError(
            f"the source is not the one that the cursor '{cursor.name}' has read "
            f"{cursor.position:,} records of: the last of them does not stand there any more; "
            "read another source, or this one again, with a cursor of another name"
        )


def move(connection: Connection, cursor: Cursor, batch: Sequence[Record]) -> Cursor:
    """Put the cursor behind what follows it."""
    moved = Cursor(cursor.name, cursor.position + len(batch), _hash(batch[-1]))
    connection.execute(
        update(ingest_cursors)
        .where(ingest_cursors.c.name == cursor.name)
        .values(**moved._asdict(), moved_at=datetime.now(UTC))
    )
    return moved


def _hash(record: Record) -> str:
    return sha256(orjson.dumps(tuple(record), option=orjson.OPT_SORT_KEYS)).hexdigest()
