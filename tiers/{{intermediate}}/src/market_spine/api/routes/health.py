"""Whether the process lives, and whether it can be used: a dead database is no dead process."""

from fastapi import APIRouter

from market_spine import backends, database, migrations
from market_spine.api import docs
from market_spine.api.models import Alive, Ready
from market_spine.api.routing import ThreadedRoute
from market_spine.errors import StoreError

router = APIRouter(tags=["health"], route_class=ThreadedRoute)


@router.get("/livez")
async def livez() -> Alive:
    """Tell that the process answers, whatever the state of the database.

    To be asked by whoever restarts processes.
    """
    return Alive()


@router.get("/readyz", responses=docs.failures(503))
def readyz() -> Ready:
    """Tell whether the database answers, has the tables of this version, and has a worker.

    To be asked by whoever sends requests here.
    """
    with database.snapshot() as connection:
        migrations.require_current(connection)
        if not backends.chosen().is_served(connection):
            raise StoreError("no worker: what is submitted waits until one is started")
    return Ready()
