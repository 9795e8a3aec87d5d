"""Write a synthetic tape of OTC trades in the standard CSV layout, in the order of reporting.

Trade-by-trade OTC prints that name their venue are not public, so this makes some, with the shape
and the faults of the real tape. Without `--trades` it writes the committed sample, which adds the
hand-listed `otc_set_pieces.csv` and one malformed row of each kind; with it, a tape of any length,
in flat memory. The same arguments give the same bytes on every machine and Python: money is
integers, and of `Random` only `random` and `getrandbits` are used, whose sequences Python keeps.
"""

from __future__ import annotations

import argparse
import csv
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from datetime import UTC, date, datetime, time, timedelta
from functools import lru_cache
from heapq import heappop, heappush
from itertools import accumulate, chain
from pathlib import Path
from random import Random
from typing import NamedTuple
from zoneinfo import ZoneInfo

from malformed import COLUMNS, KINDS, spoil

EVENT, TRADE_TS, REPORTED_AT, PRICE = 2, 4, 5, 6  # positions in COLUMNS
FIRST_SEQ = 1_000_000  # the set pieces use lower ones where they need a number of their own
SET_PIECES = Path(__file__).with_name("otc_set_pieces.csv")
SAMPLE_TRADES = 3_600

NEW_YORK = ZoneInfo("America/New_York")
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
SECOND = 1_000_000  # every time is in microseconds since EPOCH
SLOT = 300 * SECOND  # volume and prices move from slot to slot

# NYSE's calendar from the sample's first day to the end of 2026; later years know weekends only.
HOLIDAYS = frozenset(
    "2025-11-27 2025-12-25 2026-01-01 2026-01-19 2026-02-16 2026-04-03 2026-05-25 2026-06-19 "
    "2026-07-03 2026-09-07 2026-11-26 2026-12-25".split()
)
EARLY_CLOSES = frozenset("2025-11-28 2025-12-24 2026-11-27 2026-12-24".split())

# Invented instruments and MPIDs. A table is drawn from by random bits, so its length is a power
# of two, and what stands in it more often happens more often.
VENUES = ("QUAY", "HELM", "NORD", "TARN", "FELL", "WEIR", "PIKE", "")
SIDES = ("buy", "sell", "buy", "sell", "buy", "sell", "", "")
CONDITIONS = ("@",) * 40 + ("",) * 12 + tuple("FFFFEE4XXBP7")
ACTIVITY = (0, 0, 1, 1, 2, 3, 4, 5)  # positions in Tape.symbols


class Print(NamedTuple):
    """A row to be written; its source_seq, if empty, is given when its turn comes."""

    traded: int
    reported: int
    row: list[str]
    copies: int = 1  # exact duplicates follow at once


@dataclass(slots=True)
class Symbol:
    """An instrument; its mid price, in 10⁻⁹ dollars, walks while the tape is made."""

    name: str
    mid: int
    decimals: int  # of a printed price
    lot: int  # the unit of most sizes
    half_spread: int  # of buys above mid and sells below, in parts per million


@dataclass(frozen=True, slots=True)
class Day:
    """A trading day; prints outside open to close are Form T."""

    stamp: str  # the date in the trades' ids
    start: int
    open: int
    close: int
    end: int

    def weight(self, slot: int) -> int:
        """How much of the day falls into a slot: a U over the session, and little around it."""
        if not self.open <= slot < self.close:
            return 1
        length = self.close - self.open
        return 10 + 40 * (2 * (slot - self.open) + SLOT - length) ** 2 // length**2


@dataclass(frozen=True, slots=True)
class Rates:
    """The share of trades that meet each fate: one of them at most, but any may be late too."""

    late: float = 0.01
    malformed: float = 0.0
    duplicates: float = 0.005
    corrections: float = 0.005
    cancels: float = 0.005


class Tape:
    """Ordinary trades over some days, and what becomes of them."""

    def __init__(self, seed: int, days: list[Day], rates: Rates) -> None:
        self.rng = Random(seed)
        self.days = days
        self.rates = rates
        self.symbols = (
            Symbol("ALDRF", 18_400_000_000, 2, 100, 800),
            Symbol("CNTHY", 64_250_000_000, 2, 100, 400),
            Symbol("BRVO.B", 212_900_000_000, 3, 100, 500),
            Symbol("KESTQ", 412_500_000, 4, 1_000, 3_000),
            Symbol("MRNW", 6_120_000, 6, 10_000, 6_000),
            Symbol("PLXA-P", 24_870_000_000, 2, 100, 1_200),
        )

    def prints(self, trades: int) -> Iterator[Print]:
        """Everything the tape says about so many trades, in the order of trading."""
        slots = [
            (index, slot)
            for index, day in enumerate(self.days)
            for slot in range(day.start, day.end, SLOT)
        ]
        weights = [self.days[index].weight(slot) for index, slot in slots]
        number, total = 0, sum(weights)
        for (index, slot), passed in zip(slots, accumulate(weights), strict=True):
            self._walk()
            count = trades * passed // total - number
            for traded in sorted(slot + int(self.rng.random() * SLOT) for _ in range(count)):
                number += 1
                yield from self._fate(index, self._trade(index, traded, number))

    def _walk(self) -> None:
        for symbol in self.symbols:
            step = self.rng.getrandbits(11) + self.rng.getrandbits(11) - 2047
            symbol.mid += symbol.mid * step // 1_000_000

    def _trade(self, index: int, traded: int, number: int) -> Print:
        bits, day = self.rng.getrandbits, self.days[index]
        symbol = self.symbols[ACTIVITY[bits(3)]]
        side = SIDES[bits(3)]
        size, odd_lot = self._size(symbol.lot)
        regular, in_session = CONDITIONS[bits(6)], day.open <= traded < day.close
        reported, conditions = traded + bits(23), regular if in_session else "T"
        if self.rng.random() < self.rates.late:
            reported, conditions = self._later(index, traded), "Z" if in_session else "U"
        if odd_lot:
            conditions = conditions.replace("@", "") + "I"
        away = symbol.half_spread + bits(9) - 256
        price = symbol.mid + symbol.mid * away * ((side == "buy") - (side == "sell")) // 1_000_000
        identity = [f"{day.stamp}-{number:08d}", "", "original", symbol.name]
        times = [timestamp(traded), timestamp(reported)]
        ticks = max(price // 10 ** (9 - symbol.decimals), 1)
        amounts = [decimal_text(ticks, symbol.decimals), size]
        row = identity + times + amounts + [side, VENUES[bits(3)], conditions]
        return Print(traded, reported, row)

    def _size(self, lot: int) -> tuple[str, bool]:
        """A size, and whether it is an odd lot: mostly round lots and blocks, a few fractions."""
        bits = self.rng.getrandbits
        draw = bits(6)
        if draw < 46:
            return str(lot * (1 + bits(3))), False
        if draw < 54:
            return str(lot * 10 * (1 + bits(4))), False
        if draw < 63:
            return str(1 + bits(6)), True
        whole = bits(8)
        return f"{whole}.{1 + bits(13):04d}", whole < 100

    def _fate(self, index: int, trade: Print) -> Iterator[Print]:
        """The trade and what becomes of it."""
        rates, draw = self.rates, self.rng.random()
        if (draw := draw - rates.malformed) < 0:
            kind = KINDS[int(self.rng.random() * len(KINDS))]
            yield trade._replace(row=spoil(trade.row, kind))
        elif (draw := draw - rates.duplicates) < 0:
            yield trade._replace(copies=2)
        elif (draw := draw - rates.corrections) < 0:
            yield trade
            yield self._revision(index, trade, "correction")
        elif draw < rates.cancels:
            yield trade
            yield self._revision(index, trade, "cancel")
        else:
            yield trade

    def _revision(self, index: int, trade: Print, event: str) -> Print:
        """A later record of the trade, which repeats every field; a correction moves the price."""
        reported = self._later(index, trade.reported)
        row = list(trade.row)
        row[EVENT], row[REPORTED_AT] = event, timestamp(reported)
        if event == "correction":
            whole, _, part = row[PRICE].partition(".")
            nudged = int(whole + part) + 1 + self.rng.getrandbits(3)
            row[PRICE] = decimal_text(nudged, len(part))
        return Print(trade.traded, reported, row)

    def _later(self, index: int, since: int) -> int:
        """Up to some hours later or on one of the next two days, but before the tape ends."""
        wait = 60 * SECOND + self.rng.getrandbits(33)
        ahead = self.rng.getrandbits(1) * (1 + self.rng.getrandbits(1))
        day = self.days[min(index + ahead, len(self.days) - 1)]
        return min(max(since, day.open) + wait, self.days[-1].end)


def set_pieces() -> Iterator[Print]:
    """The hand-listed rows; a row listed twice is an exact duplicate."""
    with SET_PIECES.open(encoding="ascii", newline="") as file:
        rows = Counter(tuple(line.values())[1:] for line in csv.DictReader(file))
    for row, copies in rows.items():
        reported = datetime.fromisoformat(row[REPORTED_AT] or row[TRADE_TS])
        yield Print(0, (reported - EPOCH) // timedelta(microseconds=1), list(row), copies)


def malformed_rows(days: list[Day]) -> Iterator[Print]:
    """One row of each kind, spread over the days."""
    for number, kind in enumerate(KINDS):
        day = days[number % len(days)]
        traded = day.open + (number + 1) * SLOT
        reported = traded + 2 * SECOND
        times = [timestamp(traded), timestamp(reported)]
        rest = ["18.40", "100", "buy", "QUAY", "@"]
        row = [f"BAD-{kind}", "", "original", "ALDRF", *times, *rest]
        yield Print(0, reported, spoil(row, kind))


def in_reported_order(prints: Iterable[Print]) -> Iterator[Print]:
    """Hold each print until the trades have passed its reported time: none precedes its trade."""
    held: list[tuple[int, int, Print]] = []
    for number, item in enumerate(prints):
        while held and held[0][0] <= item.traded:
            yield heappop(held)[2]
        heappush(held, (item.reported, number, item))
    while held:
        yield heappop(held)[2]


def lines(prints: Iterable[Print]) -> Iterator[str]:
    """The file's lines, numbered as a venue numbers its messages: a duplicate keeps its number."""
    yield ",".join(COLUMNS) + "\n"
    for number, item in enumerate(prints, FIRST_SEQ):
        trade_id, seq, *rest = item.row
        yield (",".join([trade_id, seq or str(number), *rest]) + "\n") * item.copies


def trading_days(start: date, count: int) -> list[Day]:
    """The first `count` trading days from `start` on."""
    days: list[Day] = []
    while len(days) < count:
        text = start.isoformat()
        if start.weekday() < 5 and text not in HOLIDAYS:
            close, end = (13, 17) if text in EARLY_CLOSES else (16, 20)
            hours = (time(4), time(9, 30), time(close), time(end))
            days.append(Day(text.replace("-", ""), *(instant(start, hour) for hour in hours)))
        start += timedelta(days=1)
    return days


def instant(day: date, hour: time) -> int:
    """A New York wall-clock time."""
    return (datetime.combine(day, hour, NEW_YORK) - EPOCH) // timedelta(microseconds=1)


@lru_cache(maxsize=4096)
def _second_text(second: int) -> str:
    return (EPOCH + timedelta(seconds=second)).strftime("%Y-%m-%dT%H:%M:%S")


def timestamp(micros: int) -> str:
    second, fraction = divmod(micros, SECOND)
    return f"{_second_text(second)}.{fraction:06d}Z"


def decimal_text(units: int, decimals: int) -> str:
    whole, part = divmod(units, 10**decimals)
    return f"{whole}.{part:0{decimals}d}"


def main() -> None:
    parser = argparse.ArgumentParser(description="Write a synthetic tape of OTC trades.")
    parser.add_argument("--out", type=Path, required=True, help="the CSV file to write")
    parser.add_argument("--trades", type=int, help="leave out for the committed sample")
    parser.add_argument("--start", type=date.fromisoformat, default=date(2025, 11, 24))
    parser.add_argument("--days", type=int, default=9, help="trading days")
    parser.add_argument("--seed", type=int, default=20251124)
    for fate in fields(Rates):
        parser.add_argument(f"--{fate.name}", type=float, default=fate.default, help="a share")
    args = parser.parse_args()
    days = trading_days(args.start, args.days)
    rates = Rates(*(getattr(args, fate.name) for fate in fields(Rates)))
    tape = Tape(args.seed, days, rates)
    prints: Iterable[Print]
    if args.trades is None:
        prints = chain(set_pieces(), malformed_rows(days), tape.prints(SAMPLE_TRADES))
    else:
        prints = tape.prints(args.trades)
    with args.out.open("w", encoding="ascii", newline="") as out:
        out.writelines(lines(in_reported_order(prints)))


if __name__ == "__main__":
    main()
