"""Made-up trades in the standard layout, for trying things out: the same seed, the same trades.

The path is `SEED` or `SEED/TRADES_PER_DAY`, a million a day at most; days without trading have no
trades.
"""

from collections.abc import Iterator
from datetime import UTC, date, datetime, time, timedelta
from random import Random

from market_spine.errors import SourceError
from market_spine.services.otc.calendar import NEW_YORK, trading_days
from market_spine.services.otc.connector import FetchRequest, Record, matching

DEFAULT = "7/1000"
MOST = 1_000_000  # trades of a day, whose times are sorted in memory
SYMBOLS = ("ACMEX", "BOLTF", "CRNXY", "DUNEF", "EVRGY")
VENUES = ("ALFA", "BRVO", "CHRL", "DLTA")
OPEN_SECONDS = 6 * 3600 + 1800  # of a full session, from 9:30


def fetch(request: FetchRequest) -> Iterator[Record]:
    """Stream the trades of the days that are asked for.

    Raises:
        SourceError: the path is not a seed, or asks for too many trades, or the request names no
            first and last day.
    """
    seed, _, count = (request.path or DEFAULT).partition("/")
    if not seed.isdecimal() or not (count or "1000").isdecimal():
        raise SourceError(f"synthetic: '{request.path}' is not SEED/TRADES_PER_DAY, like {DEFAULT}")
    if int(count or 1000) > MOST:
        raise SourceError(f"synthetic: '{request.path}' asks for more than {MOST:,} trades a day")
    if request.reported_after is None or request.reported_until is None:
        raise SourceError("synthetic: needs a start_date and an end_date")
    first = request.reported_after + timedelta(days=1)
    for day in trading_days(first, request.reported_until):
        yield from matching(_day(int(seed), day, int(count or 1000)), request)


def _day(seed: int, day: date, count: int) -> Iterator[Record]:
    random = Random(f"{seed}/{day}")  # noqa: S311  (made-up trades keep no secret)
    opening = datetime.combine(day, time(9, 30), NEW_YORK).astimezone(UTC)
    cents = {symbol: 500 + int(random.random() * 20_000) for symbol in SYMBOLS}
    offsets = sorted(int(random.random() * OPEN_SECONDS * 1_000_000) for _ in range(count))
    for number, offset in enumerate(offsets, start=1):
        symbol = SYMBOLS[int(random.random() * len(SYMBOLS))]
        cents[symbol] = max(1, cents[symbol] + int(random.random() * 11) - 5)
        size = 1 + int(random.random() * 99) if random.random() < 0.2 else 100 * (number % 9 + 1)
        instant = (opening + timedelta(microseconds=offset)).isoformat(timespec="microseconds")
        payload = {
            "trade_id": f"S{seed}-{day:%Y%m%d}-{number}",
            "source_seq": str(number),
            "event": "original",
            "symbol": symbol,
            "trade_ts": instant.replace("+00:00", "Z"),
            "reported_at": "",
            "price": f"{cents[symbol] // 100}.{cents[symbol] % 100:02}",
            "size": str(size),
            "side": ("buy", "sell", "")[int(random.random() * 3)],
            "venue": VENUES[int(random.random() * len(VENUES))],
            "conditions": "I" if size < 100 else "",
        }
        yield Record(f"synthetic-{seed}-{day:%Y%m%d}", number, payload)
