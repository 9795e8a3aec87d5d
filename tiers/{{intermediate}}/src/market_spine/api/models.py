"""What the API takes and gives, as its OpenAPI document shows it.

Decimals are strings, so that no digit is lost, and instants are RFC 3339 in UTC.
"""

from datetime import date, datetime
from decimal import Decimal
from typing import Annotated, Any, Generic, Literal, TypeVar
from uuid import UUID

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    GetJsonSchemaHandler,
    PlainSerializer,
    WithJsonSchema,
    field_validator,
)
from pydantic_core import CoreSchema

from market_spine import pipelines
from market_spine.api import examples
from market_spine.api.storable import storable
from market_spine.errors import RequestError
from market_spine.ledger import Status

Item = TypeVar("Item")
Amount = Annotated[
    Decimal,
    PlainSerializer(lambda amount: f"{amount:f}", return_type=str),
    WithJsonSchema({"type": "string", "pattern": r"^-?\d+(\.\d+)?$"}),
]


def _shown_as(example: dict[str, Any]) -> ConfigDict:
    return ConfigDict(from_attributes=True, frozen=True, json_schema_extra={"examples": [example]})


class Page(BaseModel, Generic[Item]):
    """A part of a listing."""

    items: list[Item]
    next_cursor: str | None = Field(description="Asks for the next page. Null: this is the last.")


# --- executions --------------------------------------------------------------------------------


def _known(name: str) -> str:
    try:
        return pipelines.find(name).name
    except RequestError as error:
        raise ValueError(str(error)) from None


class Submission(BaseModel):
    """What shall be run."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"examples": [examples.SUBMISSION]},
    )

    pipeline: Annotated[str, Field(max_length=100), AfterValidator(_known)]
    params: Annotated[dict[str, Any], AfterValidator(storable)] = {}

    @classmethod
    def __get_pydantic_json_schema__(
        cls, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        """Document the params of every pipeline that there is."""
        document = handler(schema)
        document["anyOf"] = []
        for name in pipelines.names():
            try:
                pipeline = pipelines.find(name)
            except RequestError:
                continue  # it cannot be loaded, and is refused alone
            params = handler(pipeline.params.__pydantic_core_schema__)
            needed = any(field.is_required() for field in pipeline.params.model_fields.values())
            document["anyOf"].append(
                {
                    "title": name,
                    "description": pipeline.description,
                    "properties": {"pipeline": {"const": name}, "params": params},
                    "required": ["pipeline", "params"] if needed else ["pipeline"],
                }
            )
        return document


class Execution(BaseModel):
    """One submitted piece of work, as it stands."""

    model_config = _shown_as(examples.EXECUTION)

    id: UUID
    pipeline: str
    params: dict[str, Any]
    lane: str = Field(description="The queue that it waits in.")
    trigger_source: str = Field(description="Who asked: `api`, `cli`, `parent` or `retry`.")
    status: Status
    attempt: int
    max_attempts: int
    version: int = Field(description="The `seq` of its latest event.")
    idempotency_key: str | None
    cancel_requested: bool = Field(description="It ends at its next checkpoint.")
    parent_id: UUID | None = Field(description="The execution that waits for this one.")
    root_id: UUID = Field(description="Its own id, unless a parent submitted it.")
    retry_of: UUID | None = Field(description="The execution that this one does again.")
    result: dict[str, Any] | None
    error: str | None = Field(description="Why it failed.")
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None = Field(description="Set if, and only if, it has ended.")


class ExecutionPage(Page[Execution]):
    """Executions, newest first."""

    model_config = _shown_as({"items": [examples.EXECUTION], "next_cursor": None})


class Event(BaseModel):
    """One thing that happened to an execution."""

    model_config = _shown_as(examples.EVENT)

    execution_id: UUID
    seq: int = Field(description="1, 2, 3 … without a gap.")
    kind: str = Field(description="A state that was reached, or a stage that was done.")
    at: datetime
    data: dict[str, Any] = Field(description="What else there is to say; no traceback.")

    @field_validator("data")
    @classmethod
    def _without_traceback(cls, data: dict[str, Any]) -> dict[str, Any]:
        """It shows the code, and is for whoever has the command line."""
        return {name: value for name, value in data.items() if name != "traceback"}


class EventList(BaseModel):
    """The events of an execution, in their order."""

    model_config = _shown_as({"items": [examples.EVENT]})

    items: list[Event]


# --- dead letters ------------------------------------------------------------------------------


class DeadLetter(BaseModel):
    """What could not be processed."""

    model_config = _shown_as(examples.DEAD_LETTER)

    id: UUID
    kind: Literal["execution", "record"] = Field(
        description="An execution that failed, or a record that was rejected."
    )
    execution_id: UUID = Field(description="The execution that failed, or that rejected it.")
    capture_id: UUID | None
    raw_id: int | None = Field(description="The record's row in bronze.")
    record_hash: str | None
    payload: str | None = Field(description="The record as it was sent.")
    field: str | None = Field(description="The field at fault; `row` for the record's shape.")
    reason: str
    created_at: datetime
    closed_at: datetime | None = Field(description="Null: it is open.")
    retried_as: UUID | None


class DeadLetterPage(Page[DeadLetter]):
    """Dead letters, newest first."""

    model_config = _shown_as({"items": [examples.DEAD_LETTER], "next_cursor": None})


# --- what the OTC pipelines have computed ------------------------------------------------------


class DayMetrics(BaseModel):
    """The metrics of a symbol's day; what is undefined is null."""

    model_config = _shown_as(examples.METRICS)

    symbol: str
    date: date
    trade_count: int
    total_volume: Amount
    total_notional: Amount
    vwap: Amount | None
    high_price: Amount | None
    low_price: Amount | None
    open_price: Amount | None
    close_price: Amount | None
    range_bps: Amount | None
    buy_vwap: Amount | None
    sell_vwap: Amount | None
    side_spread_bps: Amount | None
    venue_count: int
    computed_at: datetime | None = Field(None, description="Null: just now, for an `as_of`.")


class DayMetricsList(BaseModel):
    """A symbol's days, oldest first."""

    model_config = _shown_as({"items": [examples.METRICS]})

    items: list[DayMetrics]


class Trade(BaseModel):
    """A trade as it stands: its best version that is known."""

    model_config = _shown_as(examples.TRADE)

    trade_id: str
    source: str
    source_seq: int
    event: Literal["original", "correction", "cancel"]
    symbol: str
    trade_date: date = Field(description="The date in New York.")
    trade_ts: datetime
    reported_at: datetime
    price: Amount
    size: Amount
    notional: Amount
    side: Literal["buy", "sell"] | None
    venue: str | None
    conditions: str
    price_eligible: bool = Field(description="It counts for high, low, open and close.")
    volume_eligible: bool = Field(description="It counts for volume, notional and vwap.")
    capture_id: UUID
    record_hash: str
    known_from: datetime = Field(description="Since when this version is the best one known.")


class TradePage(Page[Trade]):
    """A symbol's trades, in the order of time."""

    model_config = _shown_as({"items": [examples.TRADE], "next_cursor": None})


# --- health ------------------------------------------------------------------------------------


class Alive(BaseModel):
    """The process answers."""

    model_config = _shown_as({"status": "alive"})

    status: Literal["alive"] = "alive"


class Ready(BaseModel):
    """Requests can be served, and what is submitted will be run."""

    model_config = _shown_as({"database": "ok", "migrations": "ok", "worker": "ok"})

    database: Literal["ok"] = "ok"
    migrations: Literal["ok"] = "ok"
    worker: Literal["ok"] = "ok"
