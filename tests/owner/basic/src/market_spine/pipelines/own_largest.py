"""The largest trade of each symbol."""

from typing import Any

from sqlalchemy import func, select

from market_spine.context import Context
from market_spine.pipelines import Params, Pipeline
from market_spine.schema import otc_trades


def run(context: Context, _params: Params) -> dict[str, Any]:
    """The notional of each symbol's largest trade that stands, in dollars."""
    trade = otc_trades.c
    largest = select(trade.symbol, func.max(trade.notional)).group_by(trade.symbol)
    rows = context.connection.execute(largest.where(trade.known_to.is_(None)))
    return {row[0]: str(row[1]) for row in rows}


PIPELINE = Pipeline(
    name="own_largest", description="Each symbol's largest trade.", params=Params, run=run
)
