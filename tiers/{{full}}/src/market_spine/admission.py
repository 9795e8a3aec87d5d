"""Admission: a lane that is full takes no more, and says so to whoever submits.

A lane is full while as much waits in it as SPINE_QUEUE_LIMIT says, or while something has waited
for longer than SPINE_QUEUE_SECONDS. Only what comes from outside is refused: children belong to
what was let in, and what has been written down goes back to its queue whenever it has to.

The ledger is asked, but not every time, since to count a long queue takes longer than to submit. A
process uses what it was told for a second at most, and for a small share of the room at most. So a
limit may be exceeded by a hundredth of it for each process that submits, and by what all of them
are submitting at the moment.

In SQLite nothing is refused: whoever submits there carries it out.
"""

from dataclasses import dataclass
from functools import cache
from time import monotonic

from sqlalchemy import Connection, text

from market_spine import database
from market_spine.errors import LaneFullError, RequestError
from market_spine.settings import per_lane, settings

FRESH_SECONDS = 1.0
ROOM_SHARE, LIMIT_SHARE = 100, 1000  # a hundredth of the room, or a thousandth of the limit

# What a guard lets wait, and what waits for its next attempt, has room like all else; its age is
# counted from when it could have been begun.
WAITING = text(
    """
SELECT (SELECT count(*) FROM (
            SELECT FROM executions WHERE lane = :lane AND status = 'queued'
            ORDER BY created_at LIMIT :most
        ) AS waiting),
       EXISTS (
            SELECT FROM executions
            WHERE lane = :lane AND status = 'queued'
              AND created_at < now() - make_interval(secs => :seconds)
              AND (not_before IS NULL OR not_before < now() - make_interval(secs => :seconds))
       )
"""
)


@dataclass
class Room:
    """What a lane was found to have."""

    limit: int  # executions that it has room for while nothing waits
    free: int  # executions that it had room for
    share: int  # of these, how many this process may still submit unasked
    until: float  # when it must be asked again, by time.monotonic
    reason: str  # why there is no more


def admit(connection: Connection, lane: str, wanted: int = 1) -> None:
    """Have room in a lane for executions that are about to be written.

    Raises:
        LaneFullError: there is none.
        RequestError: there never will be.
    """
    if database.store().SCHEME != "postgresql":
        return
    room = _rooms().get(lane)
    if room is None or monotonic() > room.until or room.share < wanted <= room.free:
        room = _rooms()[lane] = _look(connection, lane)
    if room.limit < wanted:
        raise RequestError(
            f"lane '{lane}' never has room for {wanted} executions (SPINE_QUEUE_LIMIT is "
            f"{room.limit}): submit fewer at a time"
        )
    if room.free < wanted:
        raise LaneFullError(room.reason)
    room.share -= wanted  # threads that do so at once may count as one


def _look(connection: Connection, lane: str) -> Room:
    limit = _limit(settings().spine_queue_limit, lane)
    seconds = _limit(settings().spine_queue_seconds, lane)
    asked = {"lane": lane, "most": limit, "seconds": seconds}
    counted, is_old = connection.execute(WAITING, asked).one()
    free = 0 if is_old else limit - counted
    if is_old:
        reason = f"something waits for longer than {seconds} s (SPINE_QUEUE_SECONDS)"
    else:
        reason = f"it has room for {free} more executions of {limit} (SPINE_QUEUE_LIMIT)"
    return Room(
        limit=limit,
        free=free,
        share=min(free, max(free // ROOM_SHARE, limit // LIMIT_SHARE)),
        until=monotonic() + FRESH_SECONDS,
        reason=f"lane '{lane}' is too full: {reason}; try again later, or have more workers for it",
    )


def _limit(setting: str, lane: str) -> int:
    limits = per_lane(setting)
    return limits.get(lane, limits[""])


@cache
def _rooms() -> dict[str, Room]:
    return {}
