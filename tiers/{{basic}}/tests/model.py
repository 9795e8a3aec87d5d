"""What a store must hold after some captures: the rules again, slowly, in exact fractions.

Nothing here is shared with the package. A trade's winner is the record that no other record beats,
a gold row is a loop over winners, and a malformed record is one of the few kinds the tests make.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from fractions import Fraction
from typing import NamedTuple
from zoneinfo import ZoneInfo

NEW_YORK = ZoneInfo("America/New_York")
RANKS = {"original": 0, "correction": 1, "cancel": 2}
NOT_FOR_PRICES = set("7BCHIMNQRTUV")
NOT_FOR_VOLUME = set("9MQ")
METRICS = [
    "trade_count",
    "total_volume",
    "total_notional",
    "vwap",
    "high_price",
    "low_price",
    "open_price",
    "close_price",
    "range_bps",
    "buy_vwap",
    "sell_vwap",
    "side_spread_bps",
    "venue_count",
]
KNOWN_CODES = set("@45679BCEFHIKLMNOPQRTUVXZ")


class Captured(NamedTuple):
    """A capture: when the source delivered it, and its rows."""

    at: datetime
    rows: Sequence[Mapping[str, str]]


class Version(NamedTuple):
    """A row of silver, reduced to what decides it."""

    trade_id: str
    record_hash: str
    known_from: datetime
    known_to: datetime | None


class Expected(NamedTuple):
    """What silver, gold and the open letters must hold."""

    versions: set[Version]
    gold: dict[tuple[str, str], dict[str, object]]
    letters: set[tuple[str, str]]  # hash and field


def record_hash(row: Mapping[str, str]) -> str:
    payload = json.dumps(row, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(f"otc\x1f{row['trade_id']}\x1f{payload}".encode()).hexdigest()


def fault(row: Mapping[str, str]) -> str | None:
    """The field that breaks a rule, of the kinds that the tests make."""
    if not row["symbol"]:
        return "symbol"
    if row["price"] in ("0", "NaN"):
        return "price"
    if not set(row["conditions"]) <= KNOWN_CODES:
        return "conditions"
    return None


def faults(row: Mapping[str, str]) -> int:
    """How many fields break a rule."""
    bad_codes = set(row["conditions"]) - KNOWN_CODES
    return sum([not row["symbol"], row["price"] in ("0", "NaN"), bool(bad_codes)])


def moment(text: str) -> datetime:
    return datetime.fromisoformat(text).astimezone(UTC)


def reported(row: Mapping[str, str]) -> datetime:
    return moment(row["reported_at"] or row["trade_ts"])


def beats(one: Mapping[str, str], other: Mapping[str, str]) -> bool:
    """Whether one record of a trade tells rather than the other."""
    if one["event"] != other["event"]:
        return RANKS[one["event"]] > RANKS[other["event"]]
    mine = (reported(one), int(one["source_seq"]), record_hash(one))
    its = (reported(other), int(other["source_seq"]), record_hash(other))
    return mine < its if one["event"] == "original" else mine > its


def winner(rows: Iterable[Mapping[str, str]]) -> Mapping[str, str] | None:
    found = [*rows]
    for row in found:
        if all(beats(row, other) for other in found if record_hash(other) != record_hash(row)):
            return row
    return None


def trades_of(captures: Iterable[Captured]) -> dict[str, list[Mapping[str, str]]]:
    """The readable records by trade."""
    found: dict[str, list[Mapping[str, str]]] = {}
    for capture in captures:
        for row in capture.rows:
            if fault(row) is None:
                found.setdefault(row["trade_id"], []).append(row)
    return found


def winners_at(captures: Sequence[Captured], instant: datetime) -> list[Mapping[str, str]]:
    known = trades_of(capture for capture in captures if capture.at <= instant)
    return [row for rows in known.values() if (row := winner(rows)) is not None]


def expected(captures: Sequence[Captured]) -> Expected:
    """What must be in the store when every capture is normalized, in whatever order."""
    instants = sorted({capture.at for capture in captures})
    letters = {
        (record_hash(row), field)
        for capture in captures
        for row in capture.rows
        if (field := fault(row)) is not None
    }
    versions: set[Version] = set()
    for trade_id, rows in trades_of(captures).items():
        originals = [row for row in rows if row["event"] == "original"]
        stands = winner(originals)
        losers = {record_hash(row) for row in originals if row != stands}
        letters |= {(loser, "trade_id") for loser in losers}
        won: dict[str, list[datetime]] = {}
        for instant in instants:
            for row in winners_at(captures, instant):
                if row["trade_id"] == trade_id:
                    won.setdefault(record_hash(row), []).append(instant)
        for row in rows:
            digest = record_hash(row)
            if digest in won:
                later = [instant for instant in instants if instant > won[digest][-1]]
                end = later[0] if later else None
                versions.add(Version(trade_id, digest, won[digest][0], end))
            elif digest not in losers:
                seen = min(capture.at for capture in captures if row in capture.rows)
                versions.add(Version(trade_id, digest, seen, seen))
    return Expected(versions, gold(winners_at(captures, instants[-1])), letters)


def gold(winners: Iterable[Mapping[str, str]]) -> dict[tuple[str, str], dict[str, object]]:
    days: dict[tuple[str, str], list[Mapping[str, str]]] = {}
    for row in winners:
        day = moment(row["trade_ts"]).astimezone(NEW_YORK).date()
        days.setdefault((row["symbol"], str(day)), []).append(row)
    return {key: _day(rows) for key, rows in days.items()}


def _day(rows: list[Mapping[str, str]]) -> dict[str, object]:
    live = [row for row in rows if row["event"] != "cancel"]
    counted = [row for row in live if not set(row["conditions"]) & NOT_FOR_VOLUME]
    priced = [row for row in live if not set(row["conditions"]) & NOT_FOR_PRICES]
    priced.sort(key=lambda row: (moment(row["trade_ts"]), int(row["source_seq"]), record_hash(row)))
    prices = [Fraction(row["price"]) for row in priced]
    high, low = (max(prices), min(prices)) if prices else (None, None)
    vwap = _vwap(counted)
    buy = _vwap([row for row in counted if row["side"] == "buy"])
    sell = _vwap([row for row in counted if row["side"] == "sell"])
    return {
        "trade_count": len(counted),
        "total_volume": fixed(_volume(counted), 6),
        "total_notional": fixed(_notional(counted), 6),
        "vwap": fixed(vwap, 8),
        "high_price": fixed(high, 6),
        "low_price": fixed(low, 6),
        "open_price": fixed(prices[0], 6) if prices else None,
        "close_price": fixed(prices[-1], 6) if prices else None,
        "range_bps": _basis_points(high, low, vwap),
        "buy_vwap": fixed(buy, 8),
        "sell_vwap": fixed(sell, 8),
        "side_spread_bps": _basis_points(buy, sell, vwap),
        "venue_count": len({row["venue"] for row in counted} - {""}),
    }


def _volume(rows: Iterable[Mapping[str, str]]) -> Fraction:
    return sum((Fraction(row["size"]) for row in rows), Fraction())


def _notional(rows: Iterable[Mapping[str, str]]) -> Fraction:
    """Each print's notional is rounded by itself."""
    products = (Fraction(row["price"]) * Fraction(row["size"]) for row in rows)
    return sum((Fraction(nearest(product, 6), 10**6) for product in products), Fraction())


def _vwap(rows: list[Mapping[str, str]]) -> Fraction | None:
    return _notional(rows) / _volume(rows) if rows else None


def _basis_points(
    one: Fraction | None, other: Fraction | None, vwap: Fraction | None
) -> str | None:
    if one is None or other is None or not vwap:
        return None
    return fixed((one - other) / vwap * 10_000, 4)


def nearest(value: Fraction, places: int) -> int:
    """The value in units of its last place; a half goes to the even one."""
    scaled = value * 10**places
    units = scaled.numerator // scaled.denominator
    rest = scaled - units
    up = rest > Fraction(1, 2) or (rest == Fraction(1, 2) and units % 2 == 1)
    return int(units + up)


def fixed(value: Fraction | None, places: int) -> str | None:
    if value is None:
        return None
    units = nearest(value, places)
    whole, part = divmod(abs(units), 10**places)
    return f"{'-' if units < 0 else ''}{whole}.{part:0{places}}"
