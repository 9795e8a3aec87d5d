"""A range of trading days, one child for each."""

from datetime import date
from typing import Any

from pydantic import ValidationInfo, field_validator

from market_spine.context import Context
from market_spine.pipelines import LONGEST_RANGE, DateRange, Day, Pipeline
from market_spine.pipelines.otc_ingest import SourceParams


class BackfillRangeParams(SourceParams, DateRange):
    """The dates are those of reporting."""

    start_date: Day
    end_date: Day

    @field_validator("end_date")
    @classmethod
    def _not_too_long(cls, end: date, info: ValidationInfo) -> date:
        if (end - info.data.get("start_date", end)).days >= LONGEST_RANGE:
            raise ValueError(f"the range is longer than {LONGEST_RANGE} days")
        return end


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
