"""One trading day from the source to its metrics: a child of `otc_backfill_range`."""

from typing import Any

from market_spine.context import Context
from market_spine.pipelines import Day, Pipeline
from market_spine.pipelines.otc_compute_daily_metrics import compute
from market_spine.pipelines.otc_ingest import SourceParams, capture, told
from market_spine.pipelines.otc_normalize import normalize


class BackfillDayParams(SourceParams):
    """The day is the one on which trades were reported."""

    day: Day


def run(context: Context, params: BackfillDayParams) -> dict[str, Any]:
    """Capture, normalize and compute what was reported since the trading day before."""
    from market_spine.services.otc import metrics
    from market_spine.services.otc.calendar import previous_trading_day

    captured = capture(context, params, previous_trading_day(params.day), params.day)
    normalized = normalize(context, captured)
    computed = compute(context, metrics.take_stale_days(context.connection))
    return {**told(captured), **normalized, **computed}


PIPELINE = Pipeline(
    name="otc_backfill_day",
    description="Ingest, normalize and compute what was reported for one trading day.",
    params=BackfillDayParams,
    run=run,
    lane="backfill",
)
