"""How the system is, for people and for Prometheus; and whether each kind of process lives."""

from datetime import datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Header, Path, Response
from pydantic import BaseModel, ConfigDict, Field
from pydantic.config import JsonDict

from market_spine import database, health, presence
from market_spine.api import docs
from market_spine.api.routing import ThreadedRoute
from market_spine.errors import StoreError

router = APIRouter(tags=["health"], route_class=ThreadedRoute)

TEXT = "text/plain; version=0.0.4"
SOME_TEXT = 'spine_past_lease{lane="default",pipeline="otc_normalize"} 0\n'
A_STRING = {"schema": {"type": "string"}, "example": SOME_TEXT}
AS_TEXT: docs.Responses = {
    200: {
        "content": {"text/plain": A_STRING},
    }
}

WORK: JsonDict = {
    "lane": "backfill",
    "pipeline": "otc_backfill_day",
    "queued": 4,
    "running": 2,
    "waiting": 0,
    "past_lease": 0,
    "oldest_queued_seconds": 1.5,
    "succeeded": 3,
    "failed": 0,
    "cancelled": 0,
    "finished_per_minute": 0.6,
    "seconds_p50": 0.4,
    "seconds_p95": 0.6,
    "seconds_p99": 0.6,
}
HEALTH: JsonDict = {
    "at": "2025-12-06T09:30:02.512003Z",
    "work": [WORK],
    "open_dead_letters": {"execution": 0, "record": 2},
    "processes": {"worker": 1, "relay": 1, "beat": 1},
}

Role = Annotated[
    Literal["worker", "relay", "beat"], Path(description="Of a process.", examples=["worker"])
]


class WorkOfPipeline(BaseModel):
    """What waits, runs and was done of one pipeline in one lane."""

    lane: str
    pipeline: str
    queued: int
    running: int
    waiting: int
    past_lease: int = Field(description="Of those that run: whose worker has gone silent.")
    oldest_queued_seconds: float | None = Field(description="Since it could have been begun.")
    succeeded: int = Field(description="In the last hour, like all that follow.")
    failed: int
    cancelled: int
    finished_per_minute: float = Field(description="In the last five minutes.")
    seconds_p50: float | None
    seconds_p95: float | None
    seconds_p99: float | None


class HealthMetrics(BaseModel):
    """How the system is, by its ledger."""

    model_config = ConfigDict(json_schema_extra={"examples": [HEALTH]})

    at: datetime
    work: list[WorkOfPipeline]
    open_dead_letters: dict[str, int] = Field(description="By kind.")
    processes: dict[str, int] = Field(description="Those that live, by role.")


class RoleReady(BaseModel):
    """Processes of a role live."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"role": "worker", "processes": 2}]})

    role: Literal["worker", "relay", "beat"]
    processes: int = Field(description="How many.")


@router.get(
    "/health/metrics", response_model=HealthMetrics, responses=AS_TEXT | docs.failures(422, 503)
)
def read_health_metrics(
    accept: Annotated[
        str, Header(description="text/plain: for Prometheus.", examples=["text/plain"])
    ] = "application/json",
) -> Any:
    """Show how the system is: JSON, or with `Accept: text/plain` the text that Prometheus reads."""
    with database.snapshot() as connection:
        found = health.health(connection)
    if "text/plain" in accept:
        return Response(health.prometheus(found), media_type=TEXT)
    work = [WorkOfPipeline(**one._asdict()) for one in found.work]
    return HealthMetrics(**{**found._asdict(), "work": work})


@router.get("/readyz/{role}", responses=docs.failures(422, 503))
def readyz_of_role(role: Role) -> RoleReady:
    """Tell whether a process of this role has been heard of lately."""
    with database.snapshot() as connection:
        alive = presence.alive(connection, role)
    if not alive:
        raise StoreError(f"no {role} has been heard of lately: start one with spine {role}")
    return RoleReady(role=role, processes=len(alive))
