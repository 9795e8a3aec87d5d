"""Bronze: capture what a source sends."""

from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BeforeValidator, Field, field_validator

from market_spine.context import Context
from market_spine.pipelines import DateRange, Instant, Params, Pipeline, SourcePath, Symbol

if TYPE_CHECKING:
    from market_spine.services.otc.bronze import Capture


def _split(given: object) -> object:
    return [part.strip() for part in given.split(",")] if isinstance(given, str) else given


# Bounded, because a backfill gives the list to each of its days.
Symbols = Annotated[
    list[Symbol],
    BeforeValidator(_split),
    Field(min_length=1, max_length=1000),
]


class SourceParams(Params):
    """Which source is read, and how."""

    connector: str = Field("file", max_length=100)
    source: str = Field("otc", max_length=100, description="names the mapping file")
    path: SourcePath | None = Field(
        None, description="where the connector reads; unset: its own default"
    )
    symbols: Symbols | None = Field(None, description="A,B,C; unset: all")
    captured_at: Instant | None = Field(
        None, description="when the source delivered it, for history; unset: now"
    )

    @field_validator("captured_at")
    @classmethod
    def _has_been(cls, instant: datetime | None) -> datetime | None:
        if instant is not None and instant > datetime.now(UTC):
            raise ValueError(f"{instant.isoformat()} lies in the future")
        return instant


class IngestParams(SourceParams, DateRange):
    """The dates are those of reporting."""


def run(context: Context, params: IngestParams) -> dict[str, Any]:
    """Capture the records that were reported from the start date to the end date."""
    after = params.start_date - timedelta(days=1) if params.start_date else None
    return told(capture(context, params, after, params.end_date))


def capture(
    context: Context, params: SourceParams, after: date | None, until: date | None
) -> "Capture":
    """Append one capture to bronze; it has the execution's id.

    Raises:
        NotFoundError: there is no such connector or source.
        SourceError: the source cannot be read.
    """
    from market_spine.services.otc import bronze, connector
    from market_spine.services.otc.mapping import load_mapping
    from market_spine.settings import settings

    mapping = load_mapping(settings().spine_mappings, params.source)
    request = connector.FetchRequest(
        mapping=mapping,
        path=params.path,
        reported_after=after,
        reported_until=until,
        symbols=frozenset(params.symbols) if params.symbols else None,
    )
    stored = bronze.store_capture(
        context.connection,
        context.execution.id,
        params.source,
        params.captured_at or datetime.now(UTC),
        connector.find(params.connector).fetch(request),
        mapping,
        context.checkpoint,
    )
    context.stage_done("captured", told(stored))
    return stored


def told(stored: "Capture") -> dict[str, Any]:
    """What a result and an event say of a capture."""
    return {"capture_id": str(stored.capture_id), "records": stored.row_count}


PIPELINE = Pipeline(
    name="otc_ingest",
    description="Capture what a source sends, as it was sent (bronze).",
    params=IngestParams,
    run=run,
)
