"""Print the gold rows that a tape must lead to, computed the slow and obvious way.

    python data/oracle.py data/otc_sample.csv              the metrics of every symbol and date
    python data/oracle.py data/otc_sample.csv --rejected   how many records fail, by field

It is written from the rules alone and shares no code with any other module. It calculates in exact
fractions, in memory; only a notional and what is printed are rounded, half-even.
"""

from __future__ import annotations

import csv
import re
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable
from datetime import UTC, date, datetime
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple
from zoneinfo import ZoneInfo

EVENTS = ("original", "correction", "cancel")
PRICE_CODES = set("@4569EFKLOPXZ")
VOLUME_CODES = set("@4567BCEFHIKLNOPRTUVXZ")
ALL_CODES = PRICE_CODES | VOLUME_CODES | set("MQ")
NEW_YORK = ZoneInfo("America/New_York")
MOMENT = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,6})?(Z|[+-]\d\d:\d\d)"
METRICS = (
    "symbol,date,trade_count,total_volume,total_notional,vwap,high_price,low_price,open_price,"
    "close_price,range_bps,buy_vwap,sell_vwap,side_spread_bps,venue_count"
)


class Record(NamedTuple):
    """A readable row. Of one trade's records the greatest tells, but of originals the least."""

    event: int  # its position in EVENTS
    reported: datetime
    seq: int
    trade_id: str
    symbol: str
    traded: datetime
    price: Fraction
    size: Fraction
    notional: Fraction
    side: str
    venue: str
    conditions: str

    def eligible(self, codes: set[str]) -> bool:
        return EVENTS[self.event] != "cancel" and set(self.conditions) <= codes


def require(field: str, holds: object) -> None:
    if not holds:
        raise ValueError(field)


def moment(field: str, text: str) -> datetime:
    require(field, re.fullmatch(MOMENT, text, re.ASCII))
    try:
        utc = datetime.fromisoformat(text).astimezone(UTC)
    except (ValueError, OverflowError):
        raise ValueError(field) from None
    require(field, 1970 <= utc.year <= 2199)
    return utc


def amount(field: str, text: str, maximum: int) -> Fraction:
    require(field, re.fullmatch(r"[0-9]+(\.[0-9]{1,6})?", text))
    require(field, 0 < Fraction(text) <= maximum)
    return Fraction(text)


def parse(row: tuple[str, ...]) -> Record:
    """The row as a record, or ValueError naming the first field that breaks a rule."""
    require("row", len(row) == 11)
    trade_id, seq, event, symbol, trade_ts, reported_at, price, size, side, venue, conditions = row
    require("trade_id", 1 <= len(trade_id) <= 64)
    require("source_seq", re.fullmatch("[0-9]+", seq) and int(seq) < 2**63)
    require("event", event in EVENTS)
    require("symbol", re.fullmatch("[A-Z0-9][A-Z0-9./-]{0,15}", symbol))
    traded = moment("trade_ts", trade_ts)
    reported = moment("reported_at", reported_at or trade_ts)
    paid, shares = amount("price", price, 10**7), amount("size", size, 10**10)
    notional = round(paid * shares, 6)  # Fraction rounds half-even
    require("notional", notional <= 10**12)
    require("side", side in ("", "buy", "sell"))
    require("venue", re.fullmatch("[A-Z0-9]{0,8}", venue))
    require("conditions", set(conditions) <= ALL_CODES)
    key = (EVENTS.index(event), reported, int(seq), trade_id)
    return Record(*key, symbol, traded, paid, shares, notional, side, venue, conditions)


def winners(rows: list[list[str]]) -> tuple[list[Record], Counter[str]]:
    """The record that tells about each trade, and how many records were rejected for a field."""
    trades: dict[str, list[Record]] = defaultdict(list)
    rejected: Counter[str] = Counter()
    for row in {tuple(row) for row in rows}:  # exact duplicates are one record
        try:
            record = parse(row)
        except ValueError as error:
            rejected[str(error)] += 1
        else:
            trades[record.trade_id].append(record)
    for records in trades.values():
        originals = sorted(record for record in records if record.event == 0)
        for other in originals[1:]:  # conflicting: another content under the same id
            records.remove(other)
            rejected["trade_id"] += 1
    return [max(records) for records in trades.values()], rejected


def total(numbers: Iterable[Fraction]) -> Fraction:
    return sum(numbers, Fraction())


def vwap(records: list[Record]) -> Fraction | None:
    volume = total(record.size for record in records)
    return total(record.notional for record in records) / volume if volume else None


def bps(high: Fraction | None, low: Fraction | None, price: Fraction | None) -> Fraction | None:
    return None if high is None or low is None or not price else (high - low) / price * 10_000


def fixed(value: Fraction | None, places: int) -> str:
    if value is None:
        return ""
    units = round(value * 10**places)
    whole, part = divmod(abs(units), 10**places)
    return f"{'-' if units < 0 else ''}{whole}.{part:0{places}d}"


def gold(symbol: str, day: date, records: list[Record]) -> str:
    """The line of one symbol and date, in the order of METRICS."""
    trades = [record for record in records if record.eligible(VOLUME_CODES)]
    priced = [record for record in records if record.eligible(PRICE_CODES)]
    prices = [record.price for record in sorted(priced, key=lambda r: (r.traded, r.seq, r))]
    ohlc = [max(prices), min(prices), prices[0], prices[-1]] if prices else [None] * 4
    mean = vwap(trades)
    buys, sells = (vwap([r for r in trades if r.side == side]) for side in ("buy", "sell"))
    cells = [symbol, str(day), str(len(trades))]
    cells += [fixed(total(r.size for r in trades), 6), fixed(total(r.notional for r in trades), 6)]
    cells += [fixed(mean, 8), *(fixed(price, 6) for price in ohlc)]
    cells += [fixed(bps(ohlc[0], ohlc[1], mean), 4), fixed(buys, 8), fixed(sells, 8)]
    cells += [fixed(bps(buys, sells, mean), 4), str(len({r.venue for r in trades} - {""}))]
    return ",".join(cells)


def main(path: str, *options: str) -> None:
    with Path(path).open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.reader(file) if row]
    records, rejected = winners(rows[1:])
    if "--rejected" in options:
        lines = ["field,count", *(f"{field},{count}" for field, count in sorted(rejected.items()))]
    else:
        days: dict[tuple[str, date], list[Record]] = defaultdict(list)
        for record in records:
            days[record.symbol, record.traded.astimezone(NEW_YORK).date()].append(record)
        lines = [METRICS, *(gold(*key, days[key]) for key in sorted(days))]
    print("\n".join(lines))


if __name__ == "__main__":
    main(*sys.argv[1:])
