"""Gold: compute the metrics of the symbol-days that changed."""

from datetime import date
from typing import Any

from market_spine.context import Context
from market_spine.pipelines import DateRange, Pipeline, Symbol


class ComputeParams(DateRange):
    """With params: all days that they name. Without: those whose trades changed."""

    symbol: Symbol | None = None


def run(context: Context, params: ComputeParams) -> dict[str, Any]:
    """Compute what the params name.

    Raises:
        MetricError: a total is too large to be held exactly.
    """
    from market_spine.services.otc import metrics

    if params.symbol or params.start_date or params.end_date:
        days = metrics.take_days(
            context.connection, params.symbol, params.start_date, params.end_date
        )
    else:
        days = metrics.take_stale_days(context.connection)
    return compute(context, days)


def compute(context: Context, days: list[tuple[str, date]]) -> dict[str, int]:
    """Refresh the metrics of some symbol-days."""
    from market_spine.services.otc import metrics

    kept = 0
    for number, (symbol, day) in enumerate(days, start=1):
        kept += metrics.refresh_day(context.connection, symbol, day)
        context.checkpoint("computed", number, len(days))
    counts = {"days_computed": kept, "days_removed": len(days) - kept}
    context.stage_done("computed", counts)
    return counts


PIPELINE = Pipeline(
    name="otc_compute_daily_metrics",
    description="Compute the metrics of the symbol-days that changed (gold).",
    params=ComputeParams,
    run=run,
)
