"""Submit, look, cancel: the executions."""

from typing import Any
from uuid import UUID

from fastapi import APIRouter, Response
from fastapi.responses import StreamingResponse
from pydantic import TypeAdapter

from market_spine import database, dispatcher, ledger
from market_spine.api import deps, docs, pages, streams
from market_spine.api.models import Event, EventList, Execution, ExecutionPage, Submission
from market_spine.api.routing import ThreadedRoute

router = APIRouter(prefix="/executions", tags=["executions"], route_class=ThreadedRoute)
PLACE = TypeAdapter(UUID)


@router.post("", status_code=202, responses=docs.SUBMITTED | docs.failures(400, 413, 415, 422, 503))
def submit_execution(
    submission: Submission, response: Response, key: deps.IdempotencyKey = None
) -> Execution:
    """Submit a pipeline.

    It is written down when this returns, and a worker runs it: follow it at `Location`.
    """
    execution = dispatcher.submit(
        submission.pipeline, submission.params, trigger_source="api", idempotency_key=key
    )
    response.headers["Location"] = f"/executions/{execution.id}"
    return Execution.model_validate(execution)


@router.get("", responses=docs.failures(422, 503))
def list_executions(query: deps.Executions) -> ExecutionPage:
    """List executions, newest first.

    The children of a backfill are those with its id as `parent_id`.
    """
    with database.snapshot() as connection:
        found = ledger.list_executions(
            connection,
            status=query.status,
            pipeline=query.pipeline,
            parent_id=query.parent_id,
            before=pages.read(query, PLACE),
            limit=query.limit + 1,
        )
    shown, cursor = pages.cut(query, PLACE, found, lambda row: row.id)
    return ExecutionPage(items=[Execution.model_validate(row) for row in shown], next_cursor=cursor)


@router.get("/{execution_id}", responses=docs.failures(404, 422, 503))
def read_execution(execution_id: deps.ExecutionId) -> Execution:
    """Show an execution as it stands."""
    with database.snapshot() as connection:
        return Execution.model_validate(ledger.get(connection, execution_id))


@router.post("/{execution_id}/cancel", status_code=202, responses=docs.failures(404, 422, 503))
def cancel_execution(execution_id: deps.ExecutionId) -> Execution:
    """Ask for an execution and its children to end.

    What is queued ends at once, what runs at its next checkpoint; what has ended is left alone.
    """
    return Execution.model_validate(dispatcher.cancel(execution_id))


@router.get(
    "/{execution_id}/events",
    response_model=EventList,
    responses=docs.EVENT_STREAM | docs.failures(404, 422, 503),
)
def list_events(
    execution_id: deps.ExecutionId,
    accepts_stream: deps.AcceptsStream,
    stopping: deps.Stopping,
    after: deps.LastEventId = 0,
) -> Any:
    """List the events of an execution, or follow them.

    With `Accept: text/event-stream` they are sent as they happen, and the stream ends with the
    execution. A client that was cut off resumes it by `Last-Event-ID`.
    """
    with database.snapshot() as connection:
        execution = ledger.get(connection, execution_id)
        after = min(after, execution.version)  # behind what has not happened is everything new
        events = ledger.events_of(connection, execution_id, after)
    if not accepts_stream:
        return EventList(items=[Event.model_validate(event) for event in events])
    if not events and execution.status in ledger.TERMINAL:
        return Response(status_code=204)  # to an EventSource: do not come back
    follow = streams.follow(execution_id, events, after, stopping)
    return StreamingResponse(follow, media_type="text/event-stream", headers=streams.HEADERS)
