"""The limit that the pipeline is measured against: the same job in DuckDB, on every core.

From the same CSV it writes the same three layers durably: bronze with every row as JSON and its
SHA-256, silver with one open version per trade and dead letters for what is rejected, gold with the
same exact metrics. Each stage opens the file, reads only what the stage before left there, and
closes it again. The rules are written out once more and nothing is imported from the template, so
that equal gold is a check of both.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import time
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

import duckdb
from duckdb import DuckDBPyConnection

SOURCE = "otc"
COLUMNS = (
    "trade_id,source_seq,event,symbol,trade_ts,reported_at,price,size,side,venue,conditions"
).split(",")
MAX_TOTAL = Decimal(2**63 - 1).scaleb(-6)  # what a day's volume or notional may come to

# What is long and never compared is stored as it is: compressing it took longer than writing it.
SCHEMA = """
CREATE TYPE event_kind AS ENUM ('original', 'correction', 'cancel');
CREATE TABLE otc_trades_raw (
    raw_id BIGINT NOT NULL, capture_id UUID NOT NULL, source VARCHAR NOT NULL,
    source_file VARCHAR NOT NULL, source_row BIGINT NOT NULL, captured_at TIMESTAMPTZ NOT NULL,
    payload JSON NOT NULL USING COMPRESSION uncompressed,
    record_hash VARCHAR NOT NULL USING COMPRESSION uncompressed
);
CREATE TABLE otc_trades (
    raw_id BIGINT NOT NULL, record_hash VARCHAR NOT NULL USING COMPRESSION uncompressed,
    trade_id VARCHAR NOT NULL USING COMPRESSION uncompressed, event event_kind NOT NULL,
    symbol VARCHAR NOT NULL, trade_date DATE NOT NULL, trade_ts TIMESTAMPTZ NOT NULL,
    reported_at TIMESTAMPTZ NOT NULL, source_seq BIGINT NOT NULL,
    price DECIMAL(18, 6) NOT NULL, size DECIMAL(18, 6) NOT NULL, notional DECIMAL(19, 6) NOT NULL,
    side VARCHAR, venue VARCHAR, conditions VARCHAR NOT NULL,
    price_eligible BOOLEAN NOT NULL, volume_eligible BOOLEAN NOT NULL,
    source VARCHAR NOT NULL, capture_id UUID NOT NULL, ingested_at TIMESTAMPTZ NOT NULL,
    known_from TIMESTAMPTZ NOT NULL, known_to TIMESTAMPTZ NOT NULL
);
CREATE TABLE dead_letters (
    raw_id BIGINT NOT NULL, record_hash VARCHAR NOT NULL UNIQUE, payload JSON NOT NULL,
    field VARCHAR NOT NULL, reason VARCHAR NOT NULL, created_at TIMESTAMPTZ NOT NULL
);
CREATE TABLE otc_metrics_daily (
    symbol VARCHAR, date DATE, trade_count BIGINT NOT NULL,
    total_volume DECIMAL(19, 6) NOT NULL, total_notional DECIMAL(19, 6) NOT NULL,
    vwap DECIMAL(18, 8), high_price DECIMAL(18, 6), low_price DECIMAL(18, 6),
    open_price DECIMAL(18, 6), close_price DECIMAL(18, 6), range_bps DECIMAL(38, 4),
    buy_vwap DECIMAL(18, 8), sell_vwap DECIMAL(18, 8), side_spread_bps DECIMAL(38, 4),
    venue_count INTEGER NOT NULL, computed_at TIMESTAMPTZ NOT NULL, PRIMARY KEY (symbol, date)
);
"""

# --- ingest -------------------------------------------------------------------------------------

# Lines, not DuckDB's own columns: a row with a wrong number of fields goes into bronze too, and the
# position in this ordered copy is the row's number. A line with a quote is split as CSV demands.
READ_LINES = """
CREATE TEMP TABLE sent AS FROM read_csv(
    ?, columns = {'line': 'VARCHAR'}, header = true, auto_detect = false,
    delim = '\x01', quote = '', escape = '', max_line_size = 16777216
)
"""
SPLIT_QUOTED = """
[CASE WHEN starts_with(field, '"') THEN replace(field[2:-2], '""', '"') ELSE field END
 FOR field IN regexp_extract_all(line || ',', '("(?:[^"]|"")*"|[^,]*),', 1)]
"""
PAYLOAD = ", ".join(f"{column}: sent[{COLUMNS.index(column) + 1}]" for column in sorted(COLUMNS))
BRONZE = f"""
INSERT INTO otc_trades_raw
WITH split AS (
    SELECT rowid + 1 AS row,
        CASE WHEN contains(line, '"') THEN {SPLIT_QUOTED} ELSE string_split(line, ',') END AS sent
    FROM sent
), record AS (
    SELECT row, sent[1] AS trade_id, CASE WHEN len(sent) = {len(COLUMNS)}
        THEN to_json({{{PAYLOAD}}}) ELSE to_json({{row: sent}}) END AS payload
    FROM split
)
SELECT row, $capture_id, '{SOURCE}', $file, row, now(), payload,
    sha256('{SOURCE}' || chr(31) || trade_id || chr(31) || payload)
FROM record
"""


def ingest(store: DuckDBPyConnection, csv: Path) -> None:
    """Bronze: every row of the file as it was sent, with its number and hash."""
    store.execute(SCHEMA)
    store.execute(READ_LINES, [str(csv)])
    store.execute("SET preserve_insertion_order = false")
    store.execute(BRONZE, {"capture_id": uuid4(), "file": csv.name})


# --- normalize ----------------------------------------------------------------------------------

INSTANT = (
    r"\d{4}-\d{2}-\d{2}T([01]\d|2[0-3]):[0-5]\d:[0-5]\d(\.\d{1,6})?"
    r"(Z|[+-]([01]\d|2[0-3]):[0-5]\d)"
)
AMOUNT = r"[0-9]+(\.[0-9]{1,6})?"
FOR_PRICE = "[@4569EFKLOPXZ]*"
FOR_VOLUME = "[@4567BCEFHIKLNOPRTUVXZ]*"
ANY_CODE = "[@45679BCEFHIKLMNOPQRTUVXZ]*"


def _matches(text: str, pattern: str) -> str:
    return f"regexp_full_match({text}, '{pattern}')"


def _is_instant(text: str, read: str) -> str:
    return (
        f"{_matches(text, INSTANT)} AND {read} >= TIMESTAMPTZ '1970-01-01 00:00:00Z' "
        f"AND {read} < TIMESTAMPTZ '2200-01-01 00:00:00Z'"
    )


# What must hold of a record, in the order in which its first fault is looked for: field, rule,
# reason. In a rule a column is the text that was sent; `as_…` is what it was read as, NULL if it
# could not be.
_WHEN = "ISO 8601 with a zone, at most microseconds, years 1970 to 2199"
RULES = (
    ("row", "trade_id IS NOT NULL", "as many fields as the header"),
    ("trade_id", "length(trade_id) BETWEEN 1 AND 64", "1 to 64 characters"),
    ("source_seq", f"as_seq >= 0 AND {_matches('source_seq', '[0-9]+')}", "0 to 2^63 - 1"),
    ("event", "as_event IS NOT NULL", "original, correction or cancel"),
    ("symbol", _matches("symbol", "[A-Z0-9][A-Z0-9./-]{0,15}"), "1 to 16 of A-Z 0-9 . / -"),
    ("trade_ts", _is_instant("trade_ts", "as_traded"), _WHEN),
    ("reported_at", f"reported_at = '' OR {_is_instant('reported_at', 'as_reported')}", _WHEN),
    (
        "price",
        f"as_price > 0 AND as_price <= 10000000 AND {_matches('price', AMOUNT)}",
        "above 0, at most 10^7, at most 6 decimals",
    ),
    (
        "size",
        f"as_size > 0 AND as_size <= 10000000000 AND {_matches('size', AMOUNT)}",
        "above 0, at most 10^10, at most 6 decimals",
    ),
    ("notional", "as_notional <= 1000000000000", "at most 10^12"),
    ("side", "side IN ('', 'buy', 'sell')", "buy, sell or empty"),
    ("venue", _matches("venue", "[A-Z0-9]{0,8}"), "at most 8 of A-Z 0-9"),
    ("conditions", _matches("conditions", ANY_CODE), "known sale conditions"),
)

# Whole shares need no rounding, and 128-bit division is slow. Of the others, twelve decimals become
# six; a cast takes a half away from zero, so one that lands on an odd digit is taken back.
NOTIONAL = """
CREATE TEMP MACRO product(price, size) AS
    CAST(price AS DECIMAL(19, 6)) * CAST(size AS DECIMAL(19, 6));
CREATE TEMP MACRO half_even(exact) AS CAST(exact AS DECIMAL(38, 6)) - CASE
    WHEN CAST(exact AS DECIMAL(38, 6)) - exact = 0.0000005
        AND CAST(exact * 1000000 AS HUGEINT) % 2 = 1
    THEN 0.000001 ELSE 0 END;
CREATE TEMP MACRO notional(price, size) AS CASE
    WHEN size % 1 = 0 THEN CAST(price AS DECIMAL(20, 6)) * CAST(size AS DECIMAL(18, 0))
    ELSE half_even(product(price, size)) END;
"""
CHECKED = f"""
CREATE TEMP TABLE checked AS
WITH parsed AS (
    SELECT raw_id, record_hash, capture_id, captured_at,
        unnest(json_transform(payload, '{json.dumps(dict.fromkeys(COLUMNS, "VARCHAR"))}'))
    FROM otc_trades_raw
), typed AS (
    SELECT *, TRY_CAST(source_seq AS BIGINT) AS as_seq, TRY_CAST(event AS event_kind) AS as_event,
        TRY_CAST(trade_ts AS TIMESTAMPTZ) AS as_traded,
        TRY_CAST(reported_at AS TIMESTAMPTZ) AS as_reported,
        TRY_CAST(price AS DECIMAL(18, 6)) AS as_price, TRY_CAST(size AS DECIMAL(18, 6)) AS as_size
    FROM parsed
), priced AS (
    SELECT *, notional(as_price, as_size) AS as_notional FROM typed
)
SELECT raw_id, record_hash, capture_id, captured_at, trade_id, as_event AS event, symbol,
    as_traded AS trade_ts, coalesce(as_reported, as_traded) AS reported_at, as_seq AS source_seq,
    as_price AS price, as_size AS size, as_notional AS notional, side, venue, conditions,
    CASE {" ".join(f"WHEN ({rule}) IS NOT TRUE THEN '{field}'" for field, rule, _ in RULES)} END
        AS fault
FROM priced
"""
# Most trades have one record; only the others need to be deduplicated and ranked.
CONTESTED = """
CREATE TEMP TABLE contested AS
SELECT trade_id FROM checked WHERE fault IS NULL GROUP BY trade_id HAVING count(*) > 1
"""
# The lowest original stands, whatever conflicts with it; of what remains the highest wins.
RANKED = """
CREATE TEMP TABLE ranked AS
WITH record AS (
    FROM checked SEMI JOIN contested USING (trade_id) WHERE fault IS NULL
    QUALIFY row_number() OVER (PARTITION BY record_hash ORDER BY raw_id) = 1
), judged AS (
    SELECT *, event = 'original' AND 1 < row_number() OVER (
        PARTITION BY trade_id, event ORDER BY reported_at, source_seq, record_hash) AS conflicts
    FROM record
)
SELECT *, row_number() OVER (PARTITION BY trade_id ORDER BY conflicts, event DESC,
    reported_at DESC, source_seq DESC, record_hash DESC) AS place
FROM judged
"""
LETTERS = f"""
INSERT INTO dead_letters
WITH rejected AS (
    SELECT raw_id, fault FROM checked WHERE fault IS NOT NULL
    QUALIFY row_number() OVER (PARTITION BY record_hash ORDER BY raw_id) = 1
    UNION ALL SELECT raw_id, 'conflict' FROM ranked WHERE conflicts
), reasons (fault, field, reason) AS (VALUES
    {", ".join(f"('{field}', '{field}', 'must be: {reason}')" for field, _, reason in RULES)},
    ('conflict', 'trade_id', 'another original of this trade stands')
)
SELECT raw_id, record_hash, payload, field, reason, now()
FROM rejected JOIN reasons USING (fault) JOIN otc_trades_raw USING (raw_id)
"""
SILVER = f"""
INSERT INTO otc_trades
WITH winner AS (
    SELECT * EXCLUDE (fault) FROM checked ANTI JOIN contested USING (trade_id) WHERE fault IS NULL
    UNION ALL BY NAME SELECT * EXCLUDE (fault, conflicts, place) FROM ranked WHERE place = 1
)
SELECT raw_id, record_hash, trade_id, event, symbol,
    CAST(trade_ts AT TIME ZONE 'America/New_York' AS DATE), trade_ts, reported_at, source_seq,
    price, size, notional, nullif(side, ''), nullif(venue, ''), conditions,
    event <> 'cancel' AND {_matches("conditions", FOR_PRICE)},
    event <> 'cancel' AND {_matches("conditions", FOR_VOLUME)},
    '{SOURCE}', capture_id, now(), captured_at, 'infinity'
FROM winner
"""
# DuckDB has no partial index; that the open version ends at infinity makes it one of each trade.
ONE_OPEN_VERSION = (
    "CREATE UNIQUE INDEX one_open_version_per_trade ON otc_trades (source, trade_id, known_to)"
)


def normalize(store: DuckDBPyConnection) -> None:
    """Silver: the winner of every trade; what is malformed or in conflict is a dead letter."""
    store.execute("SET preserve_insertion_order = false")
    for statement in (NOTIONAL, CHECKED, CONTESTED, RANKED, LETTERS, SILVER, ONE_OPEN_VERSION):
        store.execute(statement)


# --- compute ------------------------------------------------------------------------------------

TOTALS = """
SELECT symbol, CAST(trade_date AS VARCHAR),
    count(*) FILTER (volume_eligible),
    coalesce(sum(size) FILTER (volume_eligible), 0),
    coalesce(sum(notional) FILTER (volume_eligible), 0),
    max(price) FILTER (price_eligible),
    min(price) FILTER (price_eligible),
    arg_min(price, (trade_ts, source_seq, record_hash)) FILTER (price_eligible),
    arg_max(price, (trade_ts, source_seq, record_hash)) FILTER (price_eligible),
    sum(size) FILTER (volume_eligible AND side = 'buy'),
    sum(notional) FILTER (volume_eligible AND side = 'buy'),
    sum(size) FILTER (volume_eligible AND side = 'sell'),
    sum(notional) FILTER (volume_eligible AND side = 'sell'),
    count(DISTINCT venue) FILTER (volume_eligible)
FROM otc_trades WHERE known_to = 'infinity'
GROUP BY symbol, trade_date
"""
METRICS = (
    "symbol,date,trade_count,total_volume,total_notional,vwap,high_price,low_price,open_price,"
    "close_price,range_bps,buy_vwap,sell_vwap,side_spread_bps,venue_count"
).split(",")
GOLD = f"""
INSERT INTO otc_metrics_daily
SELECT *, now() FROM (SELECT {", ".join("unnest(CAST(? AS VARCHAR[]))" for _ in METRICS)})
"""


def compute(store: DuckDBPyConnection) -> None:
    """Gold: exact totals by DuckDB, and the few divisions of each symbol-day by Python.

    The numerator and denominator of a spread do not fit into DuckDB's 128 bits.
    """
    days = [_metrics(*totals) for totals in store.execute(TOTALS).fetchall()]
    texts = ([None if v is None else str(v) for v in column] for column in zip(*days, strict=True))
    store.execute(GOLD, list(texts))


def _metrics(
    symbol: str,
    day: str,
    count: int,
    volume: Decimal,
    notional: Decimal,
    high: Decimal | None,
    low: Decimal | None,
    first: Decimal | None,
    last: Decimal | None,
    buy_volume: Decimal | None,
    buy_notional: Decimal | None,
    sell_volume: Decimal | None,
    sell_notional: Decimal | None,
    venues: int,
) -> tuple[object, ...]:
    if max(volume, notional) > MAX_TOTAL:
        raise OverflowError(f"{symbol} {day}: a total is beyond 64 bits")
    vwap = _quotient(notional, volume)
    buy = _quotient(buy_notional, buy_volume)
    sell = _quotient(sell_notional, sell_volume)
    prices = (high, low, first, last)
    spans = (_bps(high, low, vwap), _bps(buy, sell, vwap))
    average, buy_average, sell_average = (_rounded(v, 8) for v in (vwap, buy, sell))
    reach, spread = (_rounded(v, 4) for v in spans)
    amounts = (count, volume, notional, average, *prices, reach, buy_average, sell_average, spread)
    return (symbol, day, *amounts, venues)


def _quotient(total: Decimal | None, volume: Decimal | None) -> Fraction | None:
    return Fraction(total) / Fraction(volume) if total is not None and volume else None


def _bps(
    above: Decimal | Fraction | None, below: Decimal | Fraction | None, price: Fraction | None
) -> Fraction | None:
    if above is None or below is None or not price:
        return None
    return (Fraction(above) - Fraction(below)) / price * 10_000


def _rounded(value: Fraction | None, places: int) -> Decimal | None:
    """Half-even, as Python rounds a fraction, in as many digits as it takes."""
    if value is None:
        return None
    units = round(value * 10**places)
    return Decimal((units < 0, Decimal(abs(units)).as_tuple().digits, -places))


# --- the run ------------------------------------------------------------------------------------

COUNTS = """
SELECT (SELECT count(*) FROM otc_trades_raw) AS bronze, (SELECT count(*) FROM otc_trades) AS silver,
    (SELECT count(*) FROM otc_metrics_daily) AS gold,
    (SELECT count(*) FROM dead_letters) AS dead_letters
"""


def run(csv: Path, database: Path) -> dict[str, Any]:
    """Do the whole job in a new database; returns what was timed and counted."""
    for leftover in (database, database.with_name(database.name + ".wal")):
        leftover.unlink(missing_ok=True)
    stages: dict[str, Callable[[DuckDBPyConnection], None]] = {
        "ingest": partial(ingest, csv=csv),
        "normalize": normalize,
        "compute": compute,
    }
    seconds, cpu_seconds = {}, {}
    for name, stage in stages.items():
        began, cpu_began = time.perf_counter(), time.process_time()
        with duckdb.connect(database) as store:
            stage(store)
            store.execute("CHECKPOINT")
        seconds[name] = time.perf_counter() - began
        cpu_seconds[name] = time.process_time() - cpu_began
    with duckdb.connect(database, read_only=True) as store:
        names = ("bronze", "silver", "gold", "dead_letters")
        counts = dict(zip(names, store.execute(COUNTS).fetchall()[0], strict=True))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # kB on Linux, bytes on macOS
    return {
        "duckdb": duckdb.__version__,
        "seconds": seconds,
        "cpu_seconds": cpu_seconds,
        "rows": counts,
        "peak_memory_mb": peak / (2**20 if sys.platform == "darwin" else 2**10),
    }


def export_gold(database: Path, csv: Path) -> None:
    """Write gold in the order of its key, every amount with all its decimals."""
    with duckdb.connect(database, read_only=True) as store:
        gold = store.sql(f"SELECT {', '.join(METRICS)} FROM otc_metrics_daily ORDER BY ALL")
        gold.write_csv(str(csv))


def main() -> None:
    parser = argparse.ArgumentParser(description="Do the OTC job in DuckDB, and time it.")
    parser.add_argument("csv", type=Path, help="trades in the standard layout")
    parser.add_argument("database", type=Path, help="the DuckDB file to write, afresh")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    parser.add_argument("--gold", type=Path, help="export the metrics as CSV")
    args = parser.parse_args()
    result = run(args.csv, args.database)
    if args.gold:
        export_gold(args.database, args.gold)
    if args.json:
        args.json.write_text(json.dumps(result, indent=2) + "\n")
    sent = result["rows"]["bronze"]
    for name, seconds in result["seconds"].items():
        print(f"{name:<10} {seconds:8.2f} s {sent / seconds:12,.0f} rows/s")
    print(f"peak memory {result['peak_memory_mb']:,.0f} MB")


if __name__ == "__main__":
    main()
