"""Tapes: rows of the standard layout, and files of them."""

import csv
import io
from collections.abc import Mapping

LAYOUT = [
    "trade_id",
    "source_seq",
    "event",
    "symbol",
    "trade_ts",
    "reported_at",
    "price",
    "size",
    "side",
    "venue",
    "conditions",
]

Row = Mapping[str, str]


def trade(trade_id: str = "T1", **fields: str) -> Row:
    """A row of the standard layout: a plain trade, but for what is named."""
    plain = {
        "trade_id": trade_id,
        "source_seq": "1",
        "event": "original",
        "symbol": "ACME",
        "trade_ts": "2025-11-24T15:00:00Z",
        "reported_at": "",
        "price": "10",
        "size": "100",
        "side": "",
        "venue": "",
        "conditions": "",
    }
    assert not fields.keys() - plain.keys()
    return {**plain, **fields}


def csv_text(*rows: Row | str) -> str:
    """A file of the standard layout; a row that is text stands in it as it is."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(LAYOUT)
    for row in rows:
        if isinstance(row, str):
            text.write(f"{row}\n")
        else:
            writer.writerow([row[name] for name in LAYOUT])
    return text.getvalue()
