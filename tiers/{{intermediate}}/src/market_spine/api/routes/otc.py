"""What the OTC pipelines have computed."""

from datetime import date, datetime
from typing import Annotated, Any

from fastapi import APIRouter
from pydantic import AwareDatetime, Field, TypeAdapter

from market_spine import database
from market_spine.api import deps, docs, pages
from market_spine.api.models import DayMetrics, DayMetricsList, Trade, TradePage
from market_spine.api.routing import ThreadedRoute
from market_spine.services.otc import queries

router = APIRouter(
    prefix="/otc",
    tags=["otc"],
    route_class=ThreadedRoute,
    responses=docs.failures(404, 422, 503),
)
Number = Annotated[int, Field(ge=-(2**63), lt=2**63)]
# trade_date, trade_ts, source_seq, version_id: the order of the listing
PLACE = TypeAdapter(tuple[date, AwareDatetime, Number, Number])


@router.get("/metrics/daily")
def daily_metrics(query: deps.Metrics) -> DayMetricsList:
    """Show a symbol's daily metrics, oldest first.

    With `as_of` they are computed from what was known at that instant.
    """
    with database.snapshot() as connection:
        days = queries.metrics_daily(connection, query.symbol, query.start, query.end, query.as_of)
    return DayMetricsList(items=[DayMetrics.model_validate(day) for day in days])


@router.get("/trades")
def list_trades(query: deps.Trades) -> TradePage:
    """List a symbol's trades, each as it stands, in the order of time."""
    with database.snapshot() as connection:
        found = queries.trades(
            connection,
            query.symbol,
            query.start,
            query.end,
            limit=query.limit + 1,
            after=pages.read(query, PLACE),
        )
    shown, cursor = pages.cut(query, PLACE, found, _place)
    return TradePage(items=[Trade.model_validate(row) for row in shown], next_cursor=cursor)


def _place(row: dict[str, Any]) -> tuple[date, datetime, int, int]:
    return row["trade_date"], row["trade_ts"], row["source_seq"], row["version_id"]
