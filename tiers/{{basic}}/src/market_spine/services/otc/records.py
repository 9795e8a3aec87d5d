"""The rules that a single record must keep, and the trade that it then tells of.

Exact numbers: price and size have 6 decimals at most, and what has more, or is beyond the maximum,
is rejected and never rounded. The notional is price times size, rounded half-even to 6 decimals.
All three are counted in millionths here, because whole numbers are exact and quick. The time of a
trade is UTC; its date is the date in New York at that instant.
"""

import re
from collections.abc import Callable
from datetime import UTC, datetime
from functools import lru_cache
from operator import itemgetter
from typing import Any, NamedTuple

from market_spine.schema import EPOCH, MICROSECOND
from market_spine.services.otc import conditions
from market_spine.services.otc.calendar import new_york_date
from market_spine.services.otc.mapping import StandardRow
from market_spine.services.otc.readers import RejectedError

MILLION = 1_000_000
HOUR = 3_600 * MILLION  # microseconds
DAY = 24 * HOUR
EVENTS = ("original", "correction", "cancel")  # in rising rank
SIDES = {None: None, "": None, "buy": "buy", "sell": "sell"}
LATEST = (datetime(2200, 1, 1, tzinfo=UTC) - EPOCH) // MICROSECOND
MAXIMUM = {"price": 10**7, "size": 10**10, "notional": 10**12}  # dollars, shares, dollars

_plain_number = re.compile(r"0*([0-9]{1,11})(?:\.([0-9]{1,6}))?").fullmatch
_symbol = re.compile(r"[A-Z0-9][A-Z0-9./-]{0,15}").fullmatch
_venue = re.compile(r"[A-Z0-9]{1,8}").fullmatch


class TradeRecord(NamedTuple):
    """What one record says of a trade; the names are those of the columns of silver."""

    raw_id: int
    record_hash: str
    trade_id: str
    event: str
    symbol: str
    trade_date: str  # ISO
    trade_ts: int  # microseconds since 1970
    reported_at: int  # microseconds since 1970
    source_seq: int
    price: int  # millionths of a dollar
    size: int  # millionths of a share
    notional: int  # millionths of a dollar
    side: str | None
    venue: str | None
    conditions: str
    price_eligible: bool
    volume_eligible: bool


RecordFields = tuple[Any, ...]  # a TradeRecord, or a plain tuple of the same

TRADE_OF: Callable[[RecordFields], str] = itemgetter(TradeRecord._fields.index("trade_id"))
HASH_OF: Callable[[RecordFields], str] = itemgetter(TradeRecord._fields.index("record_hash"))
DAY_OF: Callable[[RecordFields], tuple[str, str]] = itemgetter(
    TradeRecord._fields.index("symbol"), TradeRecord._fields.index("trade_date")
)


def read_record(
    row: StandardRow, raw_id: int, record_hash: str, source_file: str, source_row: int
) -> TradeRecord:
    """The trade that a row of the standard layout tells of.

    Args:
        row: the text of each field; None for a field that the source does not have.
        raw_id: where the record stands in bronze.
        record_hash: what it is known by.
        source_file: the file's name; with `source_row` it stands in for a trade id.
        source_row: the row's number in its file, from 1; it stands in for a sequence.

    Raises:
        RejectedError: a field breaks a rule; the first one in the order of the standard layout.
    """
    trade_id, sequence, event, symbol, traded, reported, price, size, side, venue, names = row
    if trade_id is None:
        trade_id = derived_trade_id(source_file, source_row)
    elif not 0 < len(trade_id) <= 64 or not trade_id.isprintable():
        raise RejectedError("trade_id", _fault_of_trade_id(trade_id))
    source_seq = source_row if sequence is None else _sequence_number(sequence)
    event, symbol = _event_and_symbol(event, symbol)
    trade_ts = read_instant("trade_ts", traded or "")
    reported_at = read_instant("reported_at", reported) if reported else trade_ts
    price_units = _price(price or "")
    size_units = _size(size or "")
    notional = _half_even(price_units * size_units)
    if notional > MAXIMUM["notional"] * MILLION:
        reason = f"{notional // MILLION} dollars is above {MAXIMUM['notional']}"
        raise RejectedError("notional", reason)
    how = _how_traded(side, venue, names, event)
    return TradeRecord(
        raw_id,
        record_hash,
        trade_id,
        event,
        symbol,
        new_york_day(trade_ts),
        trade_ts,
        reported_at,
        source_seq,
        price_units,
        size_units,
        notional,
        *how,
    )


def _fault_of_trade_id(text: str) -> str:
    if not text:
        return "is missing"
    return "is longer than 64 characters" if len(text) > 64 else "has unprintable characters"


def is_symbol(text: str) -> bool:
    """Whether a text is a symbol: capital letters and digits, with dots, slashes and hyphens."""
    return _symbol(text) is not None


def derived_trade_id(source_file: str, source_row: int) -> str:
    """The id of a trade whose source gives none: two equal prints stay two trades."""
    return f"{source_file}:{source_row}"


def read_instant(field: str, text: str) -> int:
    """An ISO 8601 instant, in microseconds since 1970.

    Raises:
        RejectedError: it is missing, unreadable, without a zone, too fine or out of range.
    """
    try:
        instant = datetime.fromisoformat(text)
    except ValueError:
        reason = f"{_quoted(text)} is not an ISO 8601 time" if text else "is missing"
        raise RejectedError(field, reason) from None
    # `fromisoformat` cuts further decimals off; the usual form, up to 27 characters, has none.
    if (len(text) > 27 or text[13:14] != ":") and re.search(r"[.,][0-9]{7}", text):
        raise RejectedError(field, f"{_quoted(text)} has more than 6 decimals")
    if instant.tzinfo is None:
        raise RejectedError(field, f"{_quoted(text)} has no time zone")
    passed = instant - EPOCH
    since = passed.days * DAY + passed.seconds * MILLION + passed.microseconds
    if not 0 <= since < LATEST:
        raise RejectedError(field, f"{_quoted(text)} is not between the years 1970 and 2199")
    return since


def new_york_day(instant: int) -> str:
    """The date in New York, in ISO, at an instant in microseconds since 1970."""
    return _date_of_hour(instant // HOUR)


@lru_cache(maxsize=4096)
def _date_of_hour(hours: int) -> str:
    # New York's offset is whole hours and changes on the hour, so an hour has one date.
    return new_york_date(EPOCH + MICROSECOND * (hours * HOUR)).isoformat()


@lru_cache(maxsize=65536)
def _price(text: str) -> int:
    return _amount("price", text)


@lru_cache(maxsize=65536)
def _size(text: str) -> int:
    return _amount("size", text)


def _amount(field: str, text: str) -> int:
    """A price or a size in millionths."""
    if found := _plain_number(text):
        whole, decimals = found.groups(default="")
        units = int(whole) * MILLION + int(decimals.ljust(6, "0"))
        if 0 < units <= MAXIMUM[field] * MILLION:
            return units
    if not text:
        raise RejectedError(field, "is missing")
    if not re.fullmatch(r"-?[0-9]+(\.[0-9]+)?", text):
        raise RejectedError(field, f"{_quoted(text)} is not a plain decimal number")
    if text.startswith("-") or not text.strip("0."):
        raise RejectedError(field, f"{_quoted(text)} is not above zero")
    whole, _, decimals = text.partition(".")
    if len(decimals) > 6 and len(whole.lstrip("0")) < 12:
        raise RejectedError(field, f"{_quoted(text)} has more than 6 decimals")
    raise RejectedError(field, f"{_quoted(text)} is above {MAXIMUM[field]}")


def _half_even(product: int) -> int:
    """Millionths times millionths, in millionths."""
    units, rest = divmod(product, MILLION)
    return units + (rest > MILLION // 2 or (rest == MILLION // 2 and units & 1))


def _sequence_number(text: str) -> int:
    if not (text.isdecimal() and text.isascii() and len(text) < 20) or int(text) >= 2**63:
        reason = f"{_quoted(text)} is not a whole number" if text else "is missing"
        raise RejectedError("source_seq", reason)
    return int(text)


# What takes few values is judged once for each of them, all together: one look-up a record.


@lru_cache(maxsize=65536)
def _event_and_symbol(event: str | None, symbol: str | None) -> tuple[str, str]:
    if event is not None and event not in EVENTS:
        raise RejectedError("event", f"{_quoted(event)} is not one of {', '.join(EVENTS)}")
    if not symbol or not _symbol(symbol):
        reason = f"{_quoted(symbol)} is not a symbol" if symbol else "is missing"
        raise RejectedError("symbol", reason)
    return event or EVENTS[0], symbol


@lru_cache(maxsize=65536)
def _how_traded(
    side: str | None, venue: str | None, names: str | None, event: str
) -> tuple[str | None, str | None, str, bool, bool]:
    """Side, venue, conditions, and whether the record counts for prices and for volume."""
    if side not in SIDES:
        raise RejectedError("side", f"{_quoted(side or '')} is not buy or sell")
    if venue and not _venue(venue):
        raise RejectedError("venue", f"{_quoted(venue)} is not a market participant id")
    try:
        price_eligible, volume_eligible = conditions.eligibility(names or "")
    except KeyError as unknown:
        raise RejectedError("conditions", f"{unknown} is not a known condition") from None
    counts = event != "cancel"  # a cancel counts for nothing
    eligible = (counts and price_eligible, counts and volume_eligible)
    return SIDES[side], venue or None, names or "", *eligible


def _quoted(text: str) -> str:
    return f"'{text}'" if len(text) <= 40 else f"'{text[:40]}…'"
