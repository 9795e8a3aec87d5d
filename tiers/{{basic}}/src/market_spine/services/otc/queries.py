"""What is asked of gold and silver: reads, and all that the control plane knows of this folder."""

from collections.abc import Sequence
from datetime import date, datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, exists, select, tuple_

from market_spine.errors import NotFoundError, RequestError
from market_spine.schema import otc_metrics_daily, otc_trades


def metrics_daily(
    connection: Connection, symbol: str, start: date, end: date, as_of: datetime | None = None
) -> list[dict[str, Any]]:
    """A symbol's daily metrics from start to end, both included, oldest first.

    Args:
        as_of: what was known at this instant, computed from silver; None: what gold holds.

    Raises:
        RequestError: the dates are reversed.
        NotFoundError: no trade of the symbol was ever seen.
    """
    _check(connection, symbol, start, end)
    if as_of is None:
        gold = otc_metrics_daily
        stored = (
            select(gold)
            .where(gold.c.symbol == symbol, gold.c.date.between(start, end))
            .order_by(gold.c.date)
        )
        return [row._asdict() for row in connection.execute(stored)]
    from market_spine.services.otc.metrics import day_metrics

    known_days = (
        select(otc_trades.c.trade_date)
        .where(otc_trades.c.symbol == symbol, otc_trades.c.trade_date.between(start, end))
        .distinct()
        .order_by(otc_trades.c.trade_date)
    )
    days = connection.execute(known_days).scalars().all()
    computed = (day_metrics(connection, symbol, day, as_of) for day in days)
    return [metrics for metrics in computed if metrics is not None]


def trades(
    connection: Connection,
    symbol: str,
    start: date,
    end: date,
    *,
    limit: int,
    after: tuple[date, datetime, int, int] | None = None,
) -> Sequence[dict[str, Any]]:
    """The trades of a symbol that stand, from start to end, both included, in the order of time.

    Args:
        after: the (trade_date, trade_ts, source_seq, version_id) of the last trade of the page
            before.

    Raises:
        RequestError: the dates are reversed.
        NotFoundError: no trade of the symbol was ever seen.
    """
    _check(connection, symbol, start, end)
    silver = otc_trades.c
    order = (silver.trade_date, silver.trade_ts, silver.source_seq, silver.version_id)
    begin: ColumnElement[bool] = silver.trade_date >= start
    if after is not None and after[0] >= start:
        # In the place of the above: of two beginnings an index takes the first, and reads it all.
        begin = tuple_(*order) > tuple_(*after, types=[column.type for column in order])
    chosen = (
        select(otc_trades)
        .where(silver.symbol == symbol, begin, silver.trade_date <= end, silver.known_to.is_(None))
        .order_by(*order)
        .limit(limit)
    )
    return [row._asdict() for row in connection.execute(chosen)]


def _check(connection: Connection, symbol: str, start: date, end: date) -> None:
    if start > end:
        raise RequestError(f"start {start} is after end {end}")
    seen = select(exists().where(otc_trades.c.symbol == symbol))
    if not connection.execute(seen).scalar_one():
        known = connection.execute(
            select(otc_metrics_daily.c.symbol).distinct().order_by("symbol").limit(12)
        ).scalars()
        listed = ", ".join(known) or "none yet"
        raise NotFoundError(f"no trade of the symbol '{symbol}' was ever seen (seen: {listed})")
