"""From silver to gold: the metrics of a symbol's day, exact to the last digit in every store.

Sums are made by the database over exact numbers. Each quotient is a fraction of those sums that is
rounded once, half-even: VWAPs to 8 decimals, basis points to 4.

- trade_count, total_volume, total_notional, venue_count: over volume-eligible trades
- vwap = total_notional / total_volume; buy_vwap and sell_vwap the same over one side
- high, low, open, close: over price-eligible trades, open and close by (trade_ts, source_seq)
- range_bps = (high - low) / vwap * 10^4
- side_spread_bps = (buy_vwap - sell_vwap) / vwap * 10^4, where both sides are reported

What is undefined is None. Which trade is eligible for what stands in `conditions.py`.
"""

from datetime import UTC, date, datetime
from decimal import Decimal
from fractions import Fraction
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Select,
    and_,
    bindparam,
    delete,
    func,
    insert,
    or_,
    select,
    true,
    union,
)
from sqlalchemy.exc import DBAPIError
from sqlalchemy.sql.elements import SQLCoreOperations

from market_spine import database
from market_spine.errors import MetricError
from market_spine.schema import otc_metrics_daily, otc_stale_days, otc_trades

LARGEST = 2**63 - 1  # what a store must hold, scaled
VWAP_PLACES = 8
BPS_PLACES = 4


def current_versions() -> ColumnElement[bool]:
    """The versions that stand."""
    return otc_trades.c.known_to.is_(None)


def versions_known_at() -> ColumnElement[bool]:
    """The versions that stood at the instant `as_of`."""
    as_of = bindparam("as_of", type_=otc_trades.c.known_from.type)
    known_to = otc_trades.c.known_to
    return and_(otc_trades.c.known_from <= as_of, or_(known_to.is_(None), known_to > as_of))


def _totals(versions: ColumnElement[bool]) -> Select[Any]:
    """The sums of the symbol's day that the parameters `symbol` and `day` name, in one row."""
    trade = otc_trades.c
    of_day = and_(
        trade.symbol == bindparam("symbol"), trade.trade_date == bindparam("day"), versions
    )
    counted, priced = trade.volume_eligible.is_(True), trade.price_eligible.is_(True)
    bought, sold = and_(counted, trade.side == "buy"), and_(counted, trade.side == "sell")

    def price_of(*order: SQLCoreOperations[Any]) -> Any:
        prices = select(trade.price).where(of_day, priced)
        return prices.order_by(*order).limit(1).scalar_subquery()

    return select(
        func.count().label("versions"),
        func.count().filter(counted).label("trade_count"),
        func.sum(trade.size).filter(counted).label("total_volume"),
        func.sum(trade.notional).filter(counted).label("total_notional"),
        func.count(trade.venue.distinct()).filter(counted).label("venue_count"),
        func.max(trade.price).filter(priced).label("high_price"),
        func.min(trade.price).filter(priced).label("low_price"),
        price_of(trade.trade_ts, trade.source_seq, trade.source, trade.record_hash).label(
            "open_price"
        ),
        price_of(
            trade.trade_ts.desc(),
            trade.source_seq.desc(),
            trade.source.desc(),
            trade.record_hash.desc(),
        ).label("close_price"),
        func.sum(trade.size).filter(bought).label("buy_volume"),
        func.sum(trade.notional).filter(bought).label("buy_notional"),
        func.sum(trade.size).filter(sold).label("sell_volume"),
        func.sum(trade.notional).filter(sold).label("sell_notional"),
    ).where(of_day)


_CURRENT_TOTALS = _totals(current_versions())
_TOTALS_AS_OF = _totals(versions_known_at())


def day_metrics(
    connection: Connection, symbol: str, day: date, as_of: datetime | None = None
) -> dict[str, Any] | None:
    """The metrics of a symbol's day; None if no version of a trade lies in it.

    Args:
        as_of: over the versions that were known at this instant; None: over those that stand.

    Raises:
        MetricError: a value does not fit in 64 bits at its scale.
    """
    statement, parameters = _CURRENT_TOTALS, {"symbol": symbol, "day": day}
    if as_of is not None:
        statement, parameters = _TOTALS_AS_OF, {**parameters, "as_of": as_of}
    try:
        totals = connection.execute(statement, parameters).one()._asdict()
    except DBAPIError as error:
        if "integer overflow" not in str(error.orig):  # how SQLite says that a sum is too large
            raise
        raise _too_large(symbol, day) from error
    if not totals["versions"]:
        return None
    metrics = _finish(totals)
    for name, value in metrics.items():
        scale = getattr(otc_metrics_daily.c[name].type, "scale", 0)
        if isinstance(value, Decimal) and abs(value.scaleb(scale)) > LARGEST:
            raise _too_large(symbol, day)
    return {"symbol": symbol, "date": day, **metrics}


def _too_large(symbol: str, day: date) -> MetricError:
    return MetricError(
        f"{symbol} on {day}: a total is beyond 9.2 * 10^12, which no store could hold exactly"
    )


def _finish(totals: dict[str, Any]) -> dict[str, Any]:
    volume, notional = totals["total_volume"], totals["total_notional"]
    high, low = totals["high_price"], totals["low_price"]
    vwap = _quotient(notional, volume)
    buy = _quotient(totals["buy_notional"], totals["buy_volume"])
    sell = _quotient(totals["sell_notional"], totals["sell_volume"])
    span = Fraction(high) - Fraction(low) if high is not None else None
    spread = buy - sell if buy is not None and sell is not None else None
    zero = Decimal("0.000000")
    return {
        "trade_count": totals["trade_count"],
        "total_volume": zero if volume is None else volume,
        "total_notional": zero if notional is None else notional,
        "vwap": _rounded(vwap, VWAP_PLACES),
        "high_price": high,
        "low_price": low,
        "open_price": totals["open_price"],
        "close_price": totals["close_price"],
        "range_bps": _basis_points(span, vwap),
        "buy_vwap": _rounded(buy, VWAP_PLACES),
        "sell_vwap": _rounded(sell, VWAP_PLACES),
        "side_spread_bps": _basis_points(spread, vwap),
        "venue_count": totals["venue_count"],
    }


def _quotient(total: Decimal | None, volume: Decimal | None) -> Fraction | None:
    return Fraction(total) / Fraction(volume) if total is not None and volume else None


def _basis_points(difference: Fraction | None, vwap: Fraction | None) -> Decimal | None:
    if difference is None or not vwap:
        return None
    return _rounded(difference / vwap * 10_000, BPS_PLACES)


def _rounded(value: Fraction | None, places: int) -> Decimal | None:
    """Half-even, as `round` is."""
    return None if value is None else Decimal(round(value * 10**places)).scaleb(-places)


# --- which days, and writing them --------------------------------------------------------------


def take_stale_days(connection: Connection) -> list[tuple[str, date]]:
    """The symbol-days whose trades changed since they were computed; they count as fresh now."""
    _wait_for_merges(connection)
    taken = connection.execute(
        delete(otc_stale_days).returning(otc_stale_days.c.symbol, otc_stale_days.c.trade_date)
    )
    return sorted((symbol, day) for symbol, day in taken)


def take_days(
    connection: Connection, symbol: str | None, start: date | None, end: date | None
) -> list[tuple[str, date]]:
    """The symbol-days in a range that silver or gold knows; they count as fresh now."""
    _wait_for_merges(connection)

    def within(symbols: ColumnElement[str], days: ColumnElement[date]) -> ColumnElement[bool]:
        return and_(
            true(),
            *([symbols == symbol] if symbol is not None else []),
            *([days >= start] if start is not None else []),
            *([days <= end] if end is not None else []),
        )

    traded, computed, stale = otc_trades.c, otc_metrics_daily.c, otc_stale_days.c
    known = union(
        select(traded.symbol, traded.trade_date).where(within(traded.symbol, traded.trade_date)),
        select(computed.symbol, computed.date).where(within(computed.symbol, computed.date)),
    )
    days = sorted((row[0], row[1]) for row in connection.execute(known))
    connection.execute(delete(otc_stale_days).where(within(stale.symbol, stale.trade_date)))
    return days


def _wait_for_merges(connection: Connection) -> None:
    # A merge that has not committed yet would find its days marked already, and leave them stale.
    database.store().transaction_lock(connection, otc_trades.name)


def refresh_day(connection: Connection, symbol: str, day: date) -> bool:
    """Compute a symbol's day anew and put it in the place of what gold has; False if it is gone.

    Raises:
        MetricError: a value does not fit in 64 bits at its scale.
    """
    metrics = day_metrics(connection, symbol, day)
    connection.execute(_REMOVE, {"of_symbol": symbol, "of_day": day})
    if metrics is None:
        return False
    connection.execute(insert(otc_metrics_daily), {**metrics, "computed_at": datetime.now(UTC)})
    return True


_REMOVE = delete(otc_metrics_daily).where(
    otc_metrics_daily.c.symbol == bindparam("of_symbol"),
    otc_metrics_daily.c.date == bindparam("of_day"),
)
