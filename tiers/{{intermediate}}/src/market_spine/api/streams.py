"""Server-sent events: the events of an execution as they happen, until it has ended.

A stream looks into the ledger now and then. While it waits it holds neither a connection nor a
thread, and an outage of the store only delays it.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from uuid import UUID

from fastapi.sse import format_sse_event

from market_spine import database, ledger
from market_spine.api.models import Event
from market_spine.api.threads import in_thread
from market_spine.errors import StoreError

POLL_SECONDS = 0.5
POLLS_IN_SILENCE = 30  # after so many without an event a comment keeps the connection open

HEADERS = {
    "Cache-Control": "no-cache",
    "X-Accel-Buffering": "no",  # a proxy shall pass events on as they come
}


async def follow(
    execution_id: UUID, events: Sequence[ledger.Event], after: int, stopping: asyncio.Event
) -> AsyncIterator[bytes]:
    """Send events, then those that come; end with the terminal one, or when the server stops.

    Args:
        execution_id: whose events.
        events: those behind `after` that are known already.
        after: the seq of the last event that the client has.
        stopping: set when the server stops.
    """
    silence = 0
    while not stopping.is_set():
        for event in events:
            after, silence = event.seq, 0
            yield format_sse_event(
                data_str=Event.model_validate(event).model_dump_json(), id=str(event.seq)
            )
            if event.kind in ledger.TERMINAL:
                return
        if silence == POLLS_IN_SILENCE:
            silence = 0
            yield format_sse_event(comment="waiting")
        silence += 1
        await _pause(stopping)
        events = await _look(execution_id, after)


async def _pause(stopping: asyncio.Event) -> None:
    try:
        await asyncio.wait_for(stopping.wait(), POLL_SECONDS)
    except TimeoutError:
        return


async def _look(execution_id: UUID, after: int) -> Sequence[ledger.Event]:
    def look() -> Sequence[ledger.Event]:
        with database.snapshot() as connection:
            return ledger.events_of(connection, execution_id, after)

    try:
        return await in_thread(look)
    except StoreError:
        return ()
