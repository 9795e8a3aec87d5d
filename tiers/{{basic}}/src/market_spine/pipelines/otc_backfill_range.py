"""A range of trading days, one child for each."""

from typing import Any, Self

from pydantic import model_validator

from market_spine.context import Context
from market_spine.pipelines import DateRange, Day, Pipeline
from market_spine.pipelines.otc_ingest import SourceParams

LONGEST = 366  # days; a longer range is asked for in parts


class BackfillRangeParams(SourceParams, DateRange):
    """The dates are those of reporting."""

    start_date: Day
    end_date: Day

    @model_validator(mode="after")
    def _not_too_long(self) -> Self:
        if (self.end_date - self.start_date).days >= LONGEST:
            raise ValueError(f"the range is longer than {LONGEST} days")
        return self


def run(context: Context, params: BackfillRangeParams) -> dict[str, Any]:
    """Name a child for every trading day of the range."""
    from market_spine.services.otc.calendar import trading_days

    days = [*trading_days(params.start_date, params.end_date)]
    shared = params.model_dump(mode="json", exclude={"start_date", "end_date"})
    for day in days:
        context.spawn("otc_backfill_day", {**shared, "day": day.isoformat()})
    return {"days": len(days)}


PIPELINE = Pipeline(
    name="otc_backfill_range",
    description="Backfill every trading day of a range, each as a child of its own.",
    params=BackfillRangeParams,
    run=run,
    lane="backfill",
)
