"""Doing again what dead letters stand for."""

from typing import Annotated, Literal
from uuid import UUID

from fastapi import APIRouter, Path, Response
from pydantic import BaseModel, ConfigDict, Field

from market_spine import database, dispatcher, ledger
from market_spine.api import docs, examples
from market_spine.api.models import Execution
from market_spine.api.routing import ThreadedRoute
from market_spine.errors import RequestError

router = APIRouter(prefix="/dead-letters", tags=["dead letters"], route_class=ThreadedRoute)

MOST = 100  # letters of one request

RETRIED = {
    "dead_letter_id": examples.DEAD_LETTER["id"],
    "execution_id": examples.PARENT_ID,
    "error": None,
}

LetterId = Annotated[
    UUID, Path(description="A dead letter's id.", examples=[examples.DEAD_LETTER["id"]])
]


class Selection(BaseModel):
    """Which open letters that have not been retried, newest first."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"kind": "record", "limit": 10}]}
    )

    kind: Literal["execution", "record"] | None = Field(None, description="Only this kind.")
    before: UUID | None = Field(None, description="Only older ones than this letter.")
    limit: int = Field(MOST, ge=1, le=MOST, description="How many at the most.")


class Retried(BaseModel):
    """What has become of one letter."""

    dead_letter_id: UUID
    execution_id: UUID | None = Field(description="Which does it again.")
    error: str | None = Field(description="Why none does.")


class RetriedList(BaseModel):
    """What has become of each letter."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"items": [RETRIED]}]})

    items: list[Retried]


@router.post("/retry", status_code=202, responses=docs.failures(400, 413, 415, 422, 503))
def retry_dead_letters(selection: Selection) -> RetriedList:
    """Do again what the open letters stand for, each as an execution of its own."""
    with database.snapshot() as connection:
        letters = ledger.list_dead_letters(connection, **selection.model_dump())
    return RetriedList(items=[_retried(letter.id) for letter in letters])


@router.post("/{letter_id}/retry", status_code=202, responses=docs.failures(404, 409, 422, 503))
def retry_dead_letter(letter_id: LetterId, response: Response) -> Execution:
    """Do again what a dead letter stands for, as a new execution with `retry_of`.

    Asked again, it answers with the same execution.
    """
    execution = dispatcher.retry(letter_id)
    response.headers["Location"] = f"/executions/{execution.id}"
    return Execution.model_validate(execution)


def _retried(letter_id: UUID) -> Retried:
    try:
        execution = dispatcher.retry(letter_id)
    except RequestError as error:  # of this letter alone
        return Retried(dead_letter_id=letter_id, execution_id=None, error=str(error))
    return Retried(dead_letter_id=letter_id, execution_id=execution.id, error=None)
