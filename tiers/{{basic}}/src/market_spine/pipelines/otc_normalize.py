"""Silver: turn captured records into versions of trades."""

from collections import Counter
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Self
from uuid import UUID

from pydantic import Field, model_validator

from market_spine.context import Context
from market_spine.pipelines import Params, Pipeline

if TYPE_CHECKING:
    from market_spine.services.otc.bronze import Capture


class NormalizeParams(Params):
    """Without params: every capture that was never normalized."""

    capture_id: UUID | None = Field(None, description="one capture, even if it was normalized")
    raw_id: int | None = Field(None, gt=0, lt=2**63, description="one record of bronze")

    @model_validator(mode="after")
    def _one_of_them(self) -> Self:
        if self.capture_id is not None and self.raw_id is not None:
            raise ValueError("give capture_id or raw_id, not both")
        return self


def run(context: Context, params: NormalizeParams) -> dict[str, Any]:
    """Normalize what the params name.

    Raises:
        NotFoundError: there is no such capture or record, or no mapping for its source.
    """
    from market_spine.errors import NotFoundError
    from market_spine.services.otc import bronze

    if params.raw_id is not None:
        found = bronze.capture_of_record(context.connection, params.raw_id)
    elif params.capture_id is not None:
        found = bronze.capture_by_id(context.connection, params.capture_id)
    else:
        captures = bronze.pending_captures(context.connection)
        total = Counter({"captures": len(captures)})
        for capture in captures:
            total.update(normalize(context, capture))
        return dict(total)
    if found is None:
        raise NotFoundError(f"bronze has no such capture or record: {params}")
    return normalize(context, found, params.raw_id)


def normalize(context: Context, capture: "Capture", raw_id: int | None = None) -> dict[str, int]:
    """Merge one capture, or one record of it, into silver; returns what became of the records."""
    from market_spine.services.otc import normalizer
    from market_spine.services.otc.mapping import load_mapping
    from market_spine.settings import settings

    counts = asdict(
        normalizer.normalize(
            context.connection,
            capture,
            load_mapping(settings().spine_mappings, capture.source),
            reject=context.reject,
            close_letters=context.close_letters,
            checkpoint=context.checkpoint,
            raw_id=raw_id,
        )
    )
    context.stage_done("normalized", {"capture_id": str(capture.capture_id), **counts})
    return counts


PIPELINE = Pipeline(
    name="otc_normalize",
    description="Turn captured records into versions of trades (silver).",
    params=NormalizeParams,
    run=run,
)
