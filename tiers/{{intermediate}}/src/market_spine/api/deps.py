"""What a handler is given: each parameter, or set of them, is one alias with its rules and words.

The query of a listing is a model, so that a parameter that nobody knows is refused and not ignored.
"""

import asyncio
from datetime import date
from typing import Annotated, Literal, cast
from uuid import UUID

from fastapi import Depends, Header, Path, Query, Request
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
)

from market_spine.api import examples
from market_spine.api.pages import Paging
from market_spine.api.storable import storable
from market_spine.ledger import Status
from market_spine.pipelines import LONGEST_RANGE, LONGEST_SYMBOL, Day, Instant

Text = Annotated[
    str, AfterValidator(storable), Field(json_schema_extra={"pattern": r"^[^\u0000]*$"})
]


class ExecutionQuery(Paging):
    """Which executions."""

    status: Status | None = Field(
        None, description="Only those in this state.", examples=["succeeded"]
    )
    pipeline: Text | None = Field(
        None,
        max_length=100,
        description="Only those of this pipeline.",
        examples=["otc_backfill_day"],
    )
    parent_id: UUID | None = Field(
        None, description="Only the children of this execution.", examples=[examples.PARENT_ID]
    )


class DeadLetterQuery(Paging):
    """Which dead letters."""

    kind: Literal["execution", "record"] | None = Field(
        None, description="Only this kind.", examples=["record"]
    )
    include_closed: bool = Field(
        default=False, description="The closed ones too.", examples=[False]
    )


class SymbolDays(BaseModel):
    """A symbol, and a range of days in New York."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    symbol: Text = Field(
        min_length=1,
        max_length=LONGEST_SYMBOL,
        description="As the source has it.",
        examples=["ALDRF"],
    )
    start: Day = Field(description="The first day.", examples=["2025-11-24"])
    end: Day = Field(
        description=f"The last day, which is included: {LONGEST_RANGE} days at the most.",
        examples=["2025-12-05"],
    )

    @field_validator("end")
    @classmethod
    def _in_order_and_not_too_long(cls, end: date, info: ValidationInfo) -> date:
        start = info.data.get("start", end)
        if start > end:
            raise ValueError(f"{end} is before start, {start}")
        if (end - start).days >= LONGEST_RANGE:
            raise ValueError(f"the range is longer than {LONGEST_RANGE} days: ask for it in parts")
        return end


class MetricsQuery(SymbolDays):
    """Which days, as they were known when."""

    as_of: Instant | None = Field(
        None,
        description="What was known at this instant, before later corrections. Unset: now.",
        examples=["2025-12-07T00:00:00Z"],
    )


class TradeQuery(Paging, SymbolDays):
    """Which trades."""


ExecutionId = Annotated[UUID, Path(description="An execution's id.", examples=[examples.PARENT_ID])]
IdempotencyKey = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        pattern=r"^[!-~]+$",
        max_length=200,
        description="Sent again with the same body, it is answered with the same execution.",
        examples=["backfill-2025-11-24"],
    ),
]
LastEventId = Annotated[
    int,
    Header(
        alias="Last-Event-ID",
        ge=0,
        lt=2**31,
        description="The `seq` of the last event that was received: only those behind it.",
        examples=[3],
    ),
]
Executions = Annotated[ExecutionQuery, Query()]
DeadLetters = Annotated[DeadLetterQuery, Query()]
Metrics = Annotated[MetricsQuery, Query()]
Trades = Annotated[TradeQuery, Query()]


async def _accepts_stream(request: Request) -> bool:
    return "text/event-stream" in request.headers.get("accept", "")


async def _stopping(request: Request) -> asyncio.Event:
    return cast(asyncio.Event, request.app.state.stopping)


AcceptsStream = Annotated[bool, Depends(_accepts_stream)]
Stopping = Annotated[asyncio.Event, Depends(_stopping)]
