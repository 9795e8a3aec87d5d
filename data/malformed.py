"""The standard CSV layout, and every way in which the generator breaks a row of it.

Each kind breaks one field, the one before the hyphen in its name, and leaves the rest as it was, so
that the symbol and the date of a malformed row stay readable wherever its kind allows.
"""

from __future__ import annotations

COLUMNS = (
    "trade_id,source_seq,event,symbol,trade_ts,reported_at,price,size,side,venue,conditions"
).split(",")

_NUMBER_FAULTS = {
    "missing": "",
    "word": "abc",
    "nan": "NaN",
    "infinite": "inf",
    "exponent": "1e400",
    "negative": "-12.50",
    "zero": "0",
    "decimals": "12.123456789",
}
# Each kind of malformed row: the columns it replaces; None leaves a column out of the row.
MALFORMED: dict[str, dict[str, str | None]] = {
    "row-short": {"venue": None, "conditions": None},
    "row-long": {"conditions": "@,surplus"},
    "trade_id-missing": {"trade_id": ""},
    "trade_id-long": {"trade_id": "BAD-trade_id-long".ljust(65, "-")},
    "source_seq-word": {"source_seq": "12a"},
    "event-unknown": {"event": "amend"},
    "symbol-missing": {"symbol": ""},
    "symbol-malformed": {"symbol": "aldr f"},
    "trade_ts-missing": {"trade_ts": ""},
    "trade_ts-unreadable": {"trade_ts": "yesterday noon"},
    "trade_ts-zoneless": {"trade_ts": "2025-12-01T15:00:00.000000"},
    "trade_ts-digits": {"trade_ts": "2025-12-01T15:00:00.0000001Z"},
    "trade_ts-range": {"trade_ts": "9999-12-31T23:59:59-05:00"},
    "reported_at-unreadable": {"reported_at": "2025-13-01T15:00:00Z"},
    **{f"price-{fault}": {"price": text} for fault, text in _NUMBER_FAULTS.items()},
    "price-maximum": {"price": "10000000.000001"},
    **{f"size-{fault}": {"size": text} for fault, text in _NUMBER_FAULTS.items()},
    "size-maximum": {"size": "10000000000.000001"},
    "notional-maximum": {"price": "10000000", "size": "100001"},
    "side-unknown": {"side": "short"},
    "venue-malformed": {"venue": "QU-AY"},
    "conditions-unknown": {"conditions": "@y"},
}
KINDS = tuple(MALFORMED)


def spoil(fields: list[str], kind: str) -> list[str]:
    """The same row with one fault."""
    changes = MALFORMED[kind]
    spoiled = [changes.get(name, text) for name, text in zip(COLUMNS, fields, strict=True)]
    return [text for text in spoiled if text is not None]
