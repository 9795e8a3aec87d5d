"""What could not be processed."""

from uuid import UUID

from fastapi import APIRouter
from pydantic import TypeAdapter

from market_spine import database, ledger
from market_spine.api import deps, docs, pages
from market_spine.api.models import DeadLetter, DeadLetterPage
from market_spine.api.routing import ThreadedRoute

router = APIRouter(prefix="/dead-letters", tags=["dead letters"], route_class=ThreadedRoute)
PLACE = TypeAdapter(UUID)


@router.get("", responses=docs.failures(422, 503))
def list_dead_letters(query: deps.DeadLetters) -> DeadLetterPage:
    """List open dead letters, newest first."""
    with database.snapshot() as connection:
        found = ledger.list_dead_letters(
            connection,
            kind=query.kind,
            include_closed=query.include_closed,
            before=pages.read(query, PLACE),
            limit=query.limit + 1,
        )
    shown, cursor = pages.cut(query, PLACE, found, lambda row: row.id)
    return DeadLetterPage(
        items=[DeadLetter.model_validate(row) for row in shown], next_cursor=cursor
    )
