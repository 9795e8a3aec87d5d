"""From a connector to bronze: every record that the source sent, as it was sent.

`record_hash` is the SHA-256, in hexadecimal, of the source, the trade id (given or derived) and the
canonical payload: a record that is captured again has the same one.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256
from itertools import islice
from typing import Any
from uuid import UUID

import orjson
from sqlalchemy import Connection, func, insert, select

from market_spine import database
from market_spine.schema import otc_captures, otc_trades_raw
from market_spine.services.otc.connector import Record
from market_spine.services.otc.mapping import SourceMapping
from market_spine.services.otc.readers import RejectedError
from market_spine.services.otc.records import derived_trade_id

BATCH = 20_000  # records between two looks at whether to go on
NAMES = ["source_file", "source_row", "payload", "record_hash"]


@dataclass(frozen=True, kw_only=True)
class Capture:
    """One batch of a source's records at one point in time."""

    capture_id: UUID
    source: str
    captured_at: datetime
    row_count: int
    first_raw_id: int | None
    last_raw_id: int | None


def store_capture(
    connection: Connection,
    capture_id: UUID,
    source: str,
    captured_at: datetime,
    records: Iterable[Record],
    mapping: SourceMapping,
    checkpoint: Callable[[str, int, int | None], None],
) -> Capture:
    """Append a capture to bronze.

    Raises:
        SourceError: the source cannot be read to its end.
    """
    before = connection.execute(select(func.max(otc_trades_raw.c.raw_id))).scalar() or 0
    rows = _rows(source, records, mapping)
    shared = {"capture_id": capture_id, "source": source, "captured_at": captured_at}
    count, seen = 0, -1

    def some() -> Iterator[tuple[str, int, str, str]]:
        nonlocal count
        for row in islice(rows, BATCH):
            count += 1
            yield row

    while count > seen:  # the store loads them while they are being read
        seen = count
        database.bulk_insert(connection, otc_trades_raw, NAMES, some(), shared)
        checkpoint("captured", count, None)
    first, last = connection.execute(
        select(func.min(otc_trades_raw.c.raw_id), func.max(otc_trades_raw.c.raw_id)).where(
            otc_trades_raw.c.raw_id > before,
            otc_trades_raw.c.capture_id == capture_id,
        )
    ).one()
    capture = Capture(
        capture_id=capture_id,
        source=source,
        captured_at=captured_at,
        row_count=count,
        first_raw_id=first,
        last_raw_id=last,
    )
    connection.execute(insert(otc_captures), vars(capture))
    return capture


def _rows(
    source: str, records: Iterable[Record], mapping: SourceMapping
) -> Iterator[tuple[str, int, str, str]]:
    read_trade_id, of_source = mapping.readers.get("trade_id"), source.encode()
    for file, row, payload in records:
        try:
            trade_id = (
                read_trade_id(payload, file) if read_trade_id else derived_trade_id(file, row)
            )
        except (RejectedError, KeyError):
            trade_id = ""
        canonical = orjson.dumps(payload, option=orjson.OPT_SORT_KEYS)
        # The parts are set apart by the unit separator.
        covered = b"\x1f".join((of_source, trade_id.encode(), canonical))
        yield file, row, canonical.decode(), sha256(covered).hexdigest()


def pending_captures(connection: Connection) -> list[Capture]:
    """The captures that were never normalized, oldest first."""
    return _captures(connection, otc_captures.c.normalized_at.is_(None))


def capture_by_id(connection: Connection, capture_id: UUID) -> Capture | None:
    """One capture."""
    return next(iter(_captures(connection, otc_captures.c.capture_id == capture_id)), None)


def capture_of_record(connection: Connection, raw_id: int) -> Capture | None:
    """The capture that holds a raw row."""
    capture_id = connection.execute(
        select(otc_trades_raw.c.capture_id).where(otc_trades_raw.c.raw_id == raw_id)
    ).scalar_one_or_none()
    return capture_by_id(connection, capture_id) if capture_id else None


def _captures(connection: Connection, condition: Any) -> list[Capture]:
    columns = [c for c in otc_captures.columns if c.name != "normalized_at"]
    ordered = select(*columns).where(condition).order_by(otc_captures.c.captured_at)
    return [Capture(**row._mapping) for row in connection.execute(ordered)]
