"""spine metrics, spine trades: what the OTC pipelines have computed."""

from datetime import UTC, date, datetime
from typing import Annotated

import typer

from market_spine.cli._output import AsJson, print_rows
from market_spine.cli.executions import Limit

Start = Annotated[str, typer.Option(help="The first day, as 2025-11-24.")]
End = Annotated[str, typer.Option(help="The last day.")]

METRICS = {
    "date": "date",
    "trade_count": "trades",
    "total_volume": "volume",
    "total_notional": "notional",
    "vwap": "vwap",
    "open_price": "open",
    "high_price": "high",
    "low_price": "low",
    "close_price": "close",
    "range_bps": "range bps",
    "side_spread_bps": "spread bps",
    "venue_count": "venues",
}
TRADES = {
    "trade_ts": "time (UTC)",
    "trade_id": "trade",
    "event": "event",
    "price": "price",
    "size": "size",
    "side": "side",
    "venue": "venue",
    "conditions": "conditions",
}


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    group = typer.Typer(help="Computed metrics.", no_args_is_help=True)
    group.callback()(lambda: None)
    group.command("daily")(daily)
    app.add_typer(group, name="metrics")
    app.command("trades")(list_trades)


def daily(
    symbol: str,
    start: Start,
    end: End,
    as_of: Annotated[
        str | None, typer.Option(help="What was known then, as 2025-12-01T18:00:00Z.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show a symbol's daily metrics."""
    from market_spine import database
    from market_spine.services.otc import queries

    instant = _instant(as_of) if as_of is not None else None
    with database.snapshot() as connection:
        rows = queries.metrics_daily(
            connection, symbol, _date("--start", start), _date("--end", end), instant
        )
    empty = f"There are no metrics of {symbol} in these days: spine run otc_compute_daily_metrics"
    print_rows(rows, METRICS, as_json=as_json, empty=empty)


def list_trades(
    symbol: str, start: Start, end: End, limit: Limit = 50, as_json: AsJson = False
) -> None:
    """Show a symbol's trades, each as it stands, in the order of time."""
    from market_spine import database
    from market_spine.services.otc import queries

    with database.snapshot() as connection:
        rows = queries.trades(
            connection, symbol, _date("--start", start), _date("--end", end), limit=limit
        )
    empty = f"There are no trades of {symbol} in these days."
    print_rows(rows, TRADES, as_json=as_json, empty=empty)


def _date(option: str, text: str) -> date:
    from market_spine.errors import RequestError

    try:
        return date.fromisoformat(text)
    except ValueError:
        raise RequestError(f"{option} {text}: write a date as 2025-11-24") from None


def _instant(text: str) -> datetime:
    from market_spine.errors import RequestError

    try:
        instant = datetime.fromisoformat(text)
        if instant.tzinfo is None:
            raise ValueError
        return instant.astimezone(UTC)
    except (ValueError, OverflowError):
        reason = "write an instant with its zone, as 2025-12-01T18:00:00Z"
        raise RequestError(f"--as-of {text}: {reason}") from None
