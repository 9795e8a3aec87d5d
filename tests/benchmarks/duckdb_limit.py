"""The limit that the pipeline is measured against: the same job in DuckDB, on every core.

From the same CSV it writes the same three layers durably: bronze with every row as JSON and its
SHA-256, silver with one open version per trade and dead letters for what is malformed, gold with
the same exact metrics. Each stage opens the file, reads only what the stage before left there, and
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
from fractions import Fraction
from pathlib import Path
from uuid import uuid4

from duckdb import DuckDBPyConnection, connect

SOURCE = "otc"
COLUMNS = (
    "trade_id,source_seq,event,symbol,trade_ts,reported_at,price,size,side,venue,conditions"
).split(",")
METRICS = (
    "symbol,date,trade_count,total_volume,total_notional,vwap,high_price,low_price,open_price,"
    "close_price,range_bps,buy_vwap,sell_vwap,side_spread_bps,venue_count"
)

SCHEMA = """
CREATE TYPE event_kind AS ENUM ('original', 'correction', 'cancel');
CREATE TYPE trade_side AS ENUM ('buy', 'sell');
CREATE TABLE otc_trades_raw (
    raw_id BIGINT NOT NULL, capture_id UUID NOT NULL, source VARCHAR NOT NULL,
    source_file VARCHAR NOT NULL, source_row BIGINT NOT NULL, captured_at TIMESTAMPTZ NOT NULL,
    payload JSON NOT NULL, record_hash VARCHAR NOT NULL
);
CREATE TABLE otc_trades (
    raw_id BIGINT NOT NULL, record_hash VARCHAR NOT NULL, trade_id VARCHAR NOT NULL,
    event event_kind NOT NULL, symbol VARCHAR NOT NULL, trade_date DATE NOT NULL,
    trade_ts TIMESTAMPTZ NOT NULL, reported_at TIMESTAMPTZ NOT NULL, source_seq BIGINT NOT NULL,
    price DECIMAL(18, 6) NOT NULL, size DECIMAL(18, 6) NOT NULL, notional DECIMAL(19, 6) NOT NULL,
    side trade_side, venue VARCHAR, conditions VARCHAR NOT NULL,
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
    '{path}', columns = {{'line': 'VARCHAR'}}, header = true, auto_detect = false,
    delim = '\x01', quote = '', escape = '', max_line_size = 16777216
)
"""
SPLIT_QUOTED = """
[CASE WHEN starts_with(field, '"') THEN replace(field[2:-2], '""', '"') ELSE field END
 FOR field IN regexp_extract_all(line || ',', '("(?:[^"]|"")*"|[^,]*),', 1)]
"""
INGEST = f"""
INSERT INTO otc_trades_raw
WITH split AS (
    SELECT rowid + 1 AS row,
        CASE WHEN contains(line, '"') THEN {SPLIT_QUOTED} ELSE string_split(line, ',') END AS sent
    FROM sent
), record AS (
    SELECT row, sent[1] AS trade_id, CASE WHEN len(sent) = {len(COLUMNS)}
        THEN to_json({{{", ".join(f"{c}: sent[{COLUMNS.index(c) + 1}]" for c in sorted(COLUMNS))}}})
        ELSE to_json({{row: sent}}) END AS payload
    FROM split
)
SELECT row, $capture_id, '{SOURCE}', $file, row, now(), payload,
    sha256('{SOURCE}' || chr(31) || trade_id || chr(31) || payload)
FROM record
"""


def ingest(store: DuckDBPyConnection, csv: Path) -> None:
    """Bronze: every row of the file as it was sent, with its number and hash."""
    store.execute(SCHEMA)
    store.execute("SET preserve_insertion_order = true")
    store.execute(READ_LINES.format(path=str(csv).replace("'", "''")))
    store.execute("SET preserve_insertion_order = false")
    store.execute(INGEST, {"capture_id": uuid4(), "file": csv.name})


# --- normalize ----------------------------------------------------------------------------------

INSTANT = (
    r"\d{4}-\d{2}-\d{2}T([01]\d|2[0-3]):[0-5]\d:[0-5]\d(\.\d{1,6})?"
    r"(Z|[+-]([01]\d|2[0-3]):[0-5]\d)"
)
IN_RANGE = ">= TIMESTAMPTZ '1970-01-01 00:00:00Z' AND {0} < TIMESTAMPTZ '2200-01-01 00:00:00Z'"
AMOUNT = r"[0-9]+(\.[0-9]{1,6})?"
FOR_PRICE = "[@4569EFKLOPXZ]*"
FOR_VOLUME = "[@4567BCEFHIKLNOPRTUVXZ]*"
ANY_CODE = "[@45679BCEFHIKLMNOPQRTUVXZ]*"

# What must hold of a record, in the order in which its first fault is looked for. A name is the
# text that was sent; `as_` names are what it was read as, NULL if it could not be.
RULES = (
    ("row", "trade_id IS NOT NULL", "the row has another number of fields than the header"),
    ("trade_id", "length(trade_id) BETWEEN 1 AND 64", "1 to 64 characters"),
    (
        "source_seq",
        "as_seq IS NOT NULL AND regexp_full_match(source_seq, '[0-9]+')",
        "an integer from 0 to 2^63 - 1",
    ),
    ("event", "as_event IS NOT NULL", "original, correction or cancel"),
    (
        "symbol",
        "regexp_full_match(symbol, '[A-Z0-9][A-Z0-9./-]{0,15}')",
        "capitals, digits and ./-, at most 16",
    ),
    (
        "trade_ts",
        f"as_traded {IN_RANGE.format('as_traded')} AND regexp_full_match(trade_ts, '{INSTANT}')",
        "ISO 8601 with a zone, at most microseconds, 1970 to 2199",
    ),
    (
        "reported_at",
        f"reported_at = '' OR as_reported {IN_RANGE.format('as_reported')} "
        f"AND regexp_full_match(reported_at, '{INSTANT}')",
        "ISO 8601 with a zone, at most microseconds, 1970 to 2199",
    ),
    (
        "price",
        f"as_price > 0 AND as_price <= 10000000 AND regexp_full_match(price, '{AMOUNT}')",
        "above 0, at most 10^7, at most 6 decimals",
    ),
    (
        "size",
        f"as_size > 0 AND as_size <= 10000000000 AND regexp_full_match(size, '{AMOUNT}')",
        "above 0, at most 10^10, at most 6 decimals",
    ),
    ("notional", "half_even(as_price * as_size) <= 1000000000000", "at most 10^12"),
    ("side", "side IN ('', 'buy', 'sell')", "buy, sell or empty"),
    ("venue", "regexp_full_match(venue, '[A-Z0-9]{0,8}')", "at most 8 capitals and digits"),
    ("conditions", f"regexp_full_match(conditions, '{ANY_CODE}')", "known sale conditions"),
)
# From 12 decimals to 6; a cast to fewer decimals rounds a half away from zero.
HALF_EVEN = """
CREATE TEMP MACRO half_even(product) AS CASE
    WHEN CAST(product AS DECIMAL(38, 6)) - product = 0.0000005
        AND CAST(product * 1000000 AS HUGEINT) % 2 = 1
    THEN CAST(product AS DECIMAL(38, 6)) - 0.000001
    ELSE CAST(product AS DECIMAL(38, 6)) END
"""
CHECK = f"""
CREATE TEMP TABLE checked AS
WITH parsed AS (
    SELECT raw_id, record_hash, captured_at, capture_id, unnest(json_transform(payload,
        '{json.dumps(dict.fromkeys(COLUMNS, "VARCHAR"))}'))
    FROM otc_trades_raw
), typed AS (
    SELECT *, TRY_CAST(source_seq AS BIGINT) AS as_seq, TRY_CAST(event AS event_kind) AS as_event,
        TRY_CAST(trade_ts AS TIMESTAMPTZ) AS as_traded,
        TRY_CAST(reported_at AS TIMESTAMPTZ) AS as_reported,
        TRY_CAST(price AS DECIMAL(19, 6)) AS as_price, TRY_CAST(size AS DECIMAL(19, 6)) AS as_size
    FROM parsed
)
SELECT raw_id, record_hash, trade_id, as_event AS event, symbol, as_traded AS trade_ts,
    coalesce(as_reported, as_traded) AS reported_at, as_seq AS source_seq,
    as_price AS price, as_size AS size, side, venue, conditions, capture_id, captured_at,
    CASE {" ".join(f"WHEN ({rule}) IS NOT TRUE THEN '{field}'" for field, rule, _ in RULES)} END
        AS fault
FROM typed
"""

# Most trades have one record; only the others are deduplicated and ranked.
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
), numbered AS (
    SELECT *, event = 'original' AND 1 < row_number() OVER (
        PARTITION BY trade_id, event ORDER BY reported_at, source_seq, record_hash) AS conflicts
    FROM record
)
SELECT *, row_number() OVER (PARTITION BY trade_id ORDER BY conflicts, event DESC,
    reported_at DESC, source_seq DESC, record_hash DESC) AS place
FROM numbered
"""
LETTERS = f"""
INSERT INTO dead_letters
WITH rejected AS (
    SELECT raw_id, fault FROM checked WHERE fault IS NOT NULL
    QUALIFY row_number() OVER (PARTITION BY record_hash ORDER BY raw_id) = 1
    UNION ALL SELECT raw_id, 'conflict' FROM ranked WHERE conflicts
), reasons (fault, field, reason) AS (VALUES
    {", ".join(f"('{field}', '{field}', '{reason}')" for field, _, reason in RULES)},
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
    price, size, half_even(price * size), nullif(side, ''), nullif(venue, ''), conditions,
    event <> 'cancel' AND regexp_full_match(conditions, '{FOR_PRICE}'),
    event <> 'cancel' AND regexp_full_match(conditions, '{FOR_VOLUME}'),
    '{SOURCE}', capture_id, now(), captured_at, 'infinity'
FROM winner
"""
ONE_OPEN_VERSION = (
    "CREATE UNIQUE INDEX one_open_version_per_trade ON otc_trades (source, trade_id, known_to)"
)


def normalize(store: DuckDBPyConnection) -> None:
    """Silver: the winner of every trade; what is malformed or in conflict is a dead letter."""
    store.execute("SET preserve_insertion_order = false")
    for statement in (HALF_EVEN, CHECK, CONTESTED, RANKED, LETTERS, SILVER, ONE_OPEN_VERSION):
        store.execute(statement)


# --- compute ------------------------------------------------------------------------------------

SUMS = """
SELECT symbol, trade_date,
    count(*) FILTER (volume_eligible) AS trades,
    coalesce(sum(size) FILTER (volume_eligible), 0) AS volume,
    coalesce(sum(notional) FILTER (volume_eligible), 0) AS notional,
    max(price) FILTER (price_eligible) AS high,
    min(price) FILTER (price_eligible) AS low,
    arg_min(price, (trade_ts, source_seq, record_hash)) FILTER (price_eligible) AS open,
    arg_max(price, (trade_ts, source_seq, record_hash)) FILTER (price_eligible) AS close,
    sum(size) FILTER (volume_eligible AND side = 'buy') AS buy_volume,
    sum(notional) FILTER (volume_eligible AND side = 'buy') AS buy_notional,
    sum(size) FILTER (volume_eligible AND side = 'sell') AS sell_volume,
    sum(notional) FILTER (volume_eligible AND side = 'sell') AS sell_notional,
    count(DISTINCT venue) FILTER (volume_eligible) AS venues
FROM otc_trades WHERE known_to = 'infinity'
GROUP BY symbol, trade_date
"""
