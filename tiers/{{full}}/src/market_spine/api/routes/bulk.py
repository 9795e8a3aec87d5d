"""Submit many at once."""

from typing import Annotated

from fastapi import APIRouter, HTTPException
from pydantic import BaseModel, ConfigDict, Field

from market_spine import bulk
from market_spine.api import docs, examples
from market_spine.api.models import Execution, Submission
from market_spine.api.routing import ThreadedRoute

router = APIRouter(prefix="/executions", tags=["executions"], route_class=ThreadedRoute)

MOST = 1000  # submissions of one request

SUBMISSION = {**examples.SUBMISSION, "idempotency_key": "backfill-2025-11-24"}


class KeyedSubmission(Submission):
    """What shall be run, as one of many."""

    model_config = ConfigDict(json_schema_extra={"examples": [SUBMISSION]})

    idempotency_key: Annotated[str, Field(pattern=r"^[!-~]+$", max_length=200)] | None = Field(
        None, description="Sent again with the same submission, it stands for the same execution."
    )


class BulkSubmission(BaseModel):
    """What shall be run, all of it or nothing."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"items": [SUBMISSION]}]}
    )

    items: list[KeyedSubmission] = Field(min_length=1, max_length=MOST)


class SubmittedList(BaseModel):
    """The executions, in the order of the submissions."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"items": [examples.EXECUTION]}]})

    items: list[Execution]


@router.post("/bulk", status_code=202, responses=docs.failures(400, 409, 413, 415, 422, 429, 503))
def submit_executions(submission: BulkSubmission) -> SubmittedList:
    """Submit many pipelines: all of them, or none.

    A problem names the item at fault, counted from 0. Where a lane has no room for all of them,
    none is written down.
    """
    requests = [bulk.Request(**item.model_dump()) for item in submission.items]
    executions = bulk.submit(requests, "api")
    return SubmittedList(items=[Execution.model_validate(execution) for execution in executions])


@router.get("/bulk", include_in_schema=False)
def refuse_to_read() -> None:
    """Say that this is no id of an execution, which it would be taken for."""
    raise HTTPException(405)
