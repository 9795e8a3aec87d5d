"""The rules that a single record must keep, and the trade that it then tells of.

Exact numbers: price and size have 6 decimals at most, and what has more, or is beyond the maximum, is
rejected and never rounded. `notional` is price times size, rounded half-even to 6 decimals. `trade_ts` is
UTC; `trade_date` is the date in New York at that instant.
"""

import re
from datetime import UTC, date, datetime
from decimal import ROUND_HALF_EVEN, Context, Decimal
from functools import lru_cache
from typing import NamedTuple

from market_spine.services.otc import conditions
from market_spine.services.otc.calendar import new_york_date
from market_spine.services.otc.mapping import Rejected, Row

EVENTS = ("original", "correction", "cancel")  # in rising rank
SIDES = {"": None, "buy": "buy", "sell": "sell"}
MAXIMUM = {"price": Decimal(10**7), "size": Decimal(10**10), "notional": Decimal(10**12)}
MICRO = Decimal("0.000001")
EXACT = Context(prec=60, rounding=ROUND_HALF_EVEN)

_plain_number = re.compile(r"[0-9]{1,11}(?:\.[0-9]{1,6})?").fullmatch
_symbol = re.compile(r"[A-Z0-9][A-Z0-9./-]{0,15}").fullmatch
_venue = re.compile(r"[A-Z0-9]{1,8}").fullmatch
_sequence = re.compile(r"[0-9]{1,19}").fullmatch


class TradeRecord(NamedTuple):
    """What one record says of a trade; amounts in shares and dollars, times in UTC."""

    trade_id: str
    event: str
    symbol: str
    trade_date: date
    trade_ts: datetime
    reported_at: datetime
    source_seq: int
    price: Decimal
    size: Decimal
    notional: Decimal
    side: str | None
    venue: str | None
    conditions: str
    price_eligible: bool
    volume_eligible: bool


def read_record(row: Row, source_file: str, source_row: int) -> TradeRecord:
    """The trade that a row of the standard layout tells of.

    Args:
        row: text by field; a field that the source does not have is not in it.
        source_file: the file's name; with `source_row` it stands in for a missing trade id.
        source_row: the row's number in its file, from 1; it stands in for a missing sequence.

    Raises:
        Rejected: a field breaks a rule; the first one in the order of the standard layout.
    """
    get = row.get
    trade_id = get("trade_id")
    if trade_id is None:
        trade_id = derived_trade_id(source_file, source_row)
    elif not 0 < len(trade_id) <= 64:
        raise Rejected("trade_id", "is longer than 64 characters" if trade_id else "is missing")
    sequence = get("source_seq")
    source_seq = source_row if sequence is None else _sequence_number(sequence)
    event = get("event", "original")
    if event not in EVENTS:
        raise Rejected("event", f"{_quoted(event)} is not one of {', '.join(EVENTS)}")
    symbol = row["symbol"]
    if not _symbol(symbol):
        raise Rejected("symbol", f"{_quoted(symbol)} is not a symbol" if symbol else "is missing")
    trade_ts = read_instant("trade_ts", row["trade_ts"])
    reported = get("reported_at")
    reported_at = read_instant("reported_at", reported) if reported else trade_ts
    price = _amount("price", row["price"])
    size = _amount("size", row["size"])
    notional = (price * size).quantize(MICRO, context=EXACT)
    if notional > MAXIMUM["notional"]:
        raise Rejected("notional", f"{notional} is above {MAXIMUM['notional']}")
    side = get("side", "")
    if side not in SIDES:
        raise Rejected("side", f"{_quoted(side)} is not buy or sell")
    venue = get("venue") or None
    if venue and not _venue(venue):
        raise Rejected("venue", f"{_quoted(venue)} is not a market participant id")
    names = get("conditions", "")
    try:
        price_eligible, volume_eligible = conditions.eligibility(names)
    except KeyError as unknown:
        raise Rejected("conditions", f"{unknown} is not a known condition") from None
    if event == "cancel":
        price_eligible = volume_eligible = False
    return TradeRecord(
        trade_id,
        event,
        symbol,
        new_york_date(trade_ts),
        trade_ts,
        reported_at,
        source_seq,
        price,
        size,
        notional,
        SIDES[side],
        venue,
        names,
        price_eligible,
        volume_eligible,
    )


def derived_trade_id(source_file: str, source_row: int) -> str:
    """The id of a trade whose source gives none: two equal prints stay two trades."""
    return f"{source_file}:{source_row}"


def read_instant(field: str, text: str) -> datetime:
    """An ISO 8601 instant, in UTC.

    Raises:
        Rejected: it is missing, unreadable, without a zone, too fine or out of range.
    """
    try:
        instant = datetime.fromisoformat(text)
    except ValueError:
        reason = f"{_quoted(text)} is not an ISO 8601 time" if text else "is missing"
        raise Rejected(field, reason) from None
    if len(text) > 27 and re.search(r"[.,][0-9]{7}", text):  # `fromisoformat` would cut it off
        raise Rejected(field, f"{_quoted(text)} has more than 6 decimals")
    if instant.tzinfo is None:
        raise Rejected(field, f"{_quoted(text)} has no time zone")
    if not 1970 <= instant.year < 2200:
        raise Rejected(field, f"{_quoted(text)} is not between the years 1970 and 2199")
    return instant if instant.tzinfo is UTC else instant.astimezone(UTC)


@lru_cache(maxsize=65536)
def _amount(field: str, text: str) -> Decimal:
    if _plain_number(text):
        value = Decimal(text)
        if 0 < value <= MAXIMUM[field]:
            return value
    if not text:
        raise Rejected(field, "is missing")
    if not re.fullmatch(r"-?[0-9]{1,400}(\.[0-9]{1,400})?", text):
        raise Rejected(field, f"{_quoted(text)} is not a plain decimal number")
    if Decimal(text) <= 0:
        raise Rejected(field, f"{_quoted(text)} is not above zero")
    if Decimal(text) > MAXIMUM[field]:
        raise Rejected(field, f"{_quoted(text)} is above {MAXIMUM[field]}")
    raise Rejected(field, f"{_quoted(text)} has more than 6 decimals")


def _sequence_number(text: str) -> int:
    if not _sequence(text) or int(text) >= 2**63:
        raise Rejected(
            "source_seq", f"{_quoted(text)} is not a whole number" if text else "is missing"
        )
    return int(text)


def _quoted(text: str) -> str:
    return f"'{text}'" if len(text) <= 40 else f"'{text[:40]}…'"
