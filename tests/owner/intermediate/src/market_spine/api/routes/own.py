"""The notes of the desk."""

from fastapi import APIRouter
from sqlalchemy import select

from market_spine import database
from market_spine.api import docs
from market_spine.api.routing import ThreadedRoute
from market_spine.schema import own_notes

router = APIRouter(tags=["own"], route_class=ThreadedRoute, responses=docs.failures(503))


@router.get("/own/notes")
def list_notes() -> list[str]:
    """List the notes."""
    with database.snapshot() as connection:
        return [*connection.execute(select(own_notes.c.note)).scalars()]
