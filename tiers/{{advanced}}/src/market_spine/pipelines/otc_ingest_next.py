"""Bronze, a batch at a time: capture what a source has sent since the last time."""

from datetime import timedelta
from itertools import islice
from typing import Any

from pydantic import Field

from market_spine.context import Context
from market_spine.pipelines import Pipeline
from market_spine.pipelines.otc_ingest import IngestParams, read, store, told


class IngestNextParams(IngestParams):
    """Those of `otc_ingest` name the source, and must stay the same for a cursor."""

    cursor: str = Field(min_length=1, max_length=100, description="remembers how far it came")
    batch_size: int = Field(10_000, ge=1, le=100_000, description="records, at most")


def run(context: Context, params: IngestNextParams) -> dict[str, Any]:
    """Capture the next records, and move the cursor behind them; without any there is no capture.

    Raises:
        SourceError: the source cannot be read, or is another than the cursor's.
    """
    from market_spine.services.otc import cursors

    cursor = cursors.take(context.connection, params.cursor)
    if cursor is None:  # by a tick that is still at it: the next one goes on
        return {"records": 0, "cursor": "in use"}
    after = params.start_date - timedelta(days=1) if params.start_date else None
    records, mapping = read(params, after, params.end_date, context)
    cursors.skip(cursor, records, context.checkpoint)
    batch = list(islice(records, params.batch_size))
    if not batch:
        return {"records": 0, "position": cursor.position}
    stored = store(context, params, batch, mapping)
    moved = cursors.move(context.connection, cursor, batch)
    return {**told(stored), "position": moved.position}


PIPELINE = Pipeline(
    name="otc_ingest_next",
    description="Capture the next batch of what a source sends, from where a cursor is (bronze).",
    params=IngestNextParams,
    run=run,
)
