"""The concurrency guard: two executions that claim the same cannot both be live.

A pipeline declares what it claims: of a resource, a symbol or all of them, over a range of dates.
The claims belong to the root of an execution tree and are held until it has ended. Whoever comes
second is refused, or waits without a claim until what it needs is free. A constraint of the
database forbids the overlap; whoever claims takes a lock first, because inserts into that
constraint alone would wait for each other in a circle.

In SQLite there is nothing to guard: one process carries out one execution at a time.
"""

from collections.abc import Iterable
from datetime import UTC, date, datetime
from typing import Literal, NamedTuple
from uuid import UUID

from sqlalchemy import (
    ColumnElement,
    Connection,
    Row,
    delete,
    exists,
    func,
    insert,
    select,
    text,
    update,
)

from market_spine import database
from market_spine.errors import ResourceInUseError
from market_spine.leases import release_locks_when_stopped
from market_spine.schema import executions, resource_claims
from market_spine.stores.postgresql import lock_key

OnConflict = Literal["reject", "queue"]

EVERY = "*"  # symbol
UNTIL_FREE = datetime(9999, 12, 31, tzinfo=UTC)  # the `not_before` of what waits for its claims

# The claims of others that overlap with one's own: those that are held, or all that came earlier.
IN_THE_WAY = text(
    """
SELECT theirs.root_id, theirs.key, theirs.first, theirs.last
FROM resource_claims AS mine
JOIN resource_claims AS theirs
  ON theirs.resource = mine.resource AND theirs.root_id <> mine.root_id
 AND (theirs.key = mine.key OR '*' IN (theirs.key, mine.key))
 AND theirs.first <= mine.last AND theirs.last >= mine.first
 AND (theirs.is_held OR theirs.root_id < mine.root_id)
WHERE mine.root_id = :root_id
ORDER BY theirs.is_held DESC, theirs.root_id
LIMIT 1
"""
)

WAITED_FOR = select(resource_claims.c.resource).where(~resource_claims.c.is_held).distinct()
# Asked in the same statement as the move of an execution that ends; most have none.
HAS_CLAIMS = exists().where(resource_claims.c.root_id == executions.c.id).label("has_claims")


class Claim(NamedTuple):
    """What an execution wants for itself."""

    resource: str
    key: str  # a symbol; EVERY for all of them
    first: date
    last: date


def over_days(resource: str, symbols: Iterable[str] | None, first: date, last: date) -> list[Claim]:
    """Claims of some symbols, or of all, over a range of dates."""
    return [Claim(resource, symbol, first, last) for symbol in symbols or [EVERY]]


def claim_for(
    connection: Connection, root_id: UUID, claims: Iterable[Claim], on_conflict: OnConflict
) -> None:
    """Claim for an execution that has just been written.

    Args:
        connection: the transaction that writes it.
        root_id: the execution.
        claims: of one resource.
        on_conflict: `reject`, or `queue` to let it wait.

    Raises:
        ResourceInUseError: a live execution holds what overlaps; nothing is to be committed.
    """
    rows = [{"root_id": root_id, **one._asdict(), "is_held": False} for one in claims]
    if not rows or database.store().SCHEME != "postgresql":
        return
    _lock(connection, {row["resource"] for row in rows})
    connection.execute(insert(resource_claims), rows)
    holder = _in_the_way(connection, root_id)
    if holder is None:
        _hold(connection, root_id)
    elif on_conflict == "queue":
        _let_wait(connection, root_id, UNTIL_FREE)
    else:
        what = "every symbol" if holder.key == EVERY else holder.key
        raise ResourceInUseError(
            f"execution {holder.root_id} has {what} from {holder.first} to {holder.last}: "
            "wait for it, cancel it, or submit with on_conflict 'queue' (spine run --queue)"
        )


def release_claims(connection: Connection, root_id: UUID) -> None:
    """Let go of what an execution that has ended had claimed, and give it to those who wait."""
    mine = resource_claims.c.root_id == root_id
    claimed = select(resource_claims.c.resource).where(mine).distinct()
    resources = connection.execute(claimed).scalars().all()
    _lock(connection, resources)
    connection.execute(delete(resource_claims).where(mine))
    grant(connection, resources)


def grant_what_is_free() -> None:
    """Give those who wait what nobody holds: whoever left it may have passed over one of them."""
    with database.transaction() as connection:
        waited_for = connection.execute(WAITED_FOR).scalars().all()
        if waited_for:
            release_locks_when_stopped(connection)
        # Whoever has the lock of a resource gives away what is free of it, and nobody waits here.
        if resources := [resource for resource in waited_for if _try_lock(connection, resource)]:
            grant(connection, resources)


def grant(connection: Connection, resources: Iterable[str]) -> None:
    """Let those who wait have what is free, in the order in which they came."""
    waiting = (
        select(resource_claims.c.root_id)
        .where(
            resource_claims.c.resource.in_([*resources]),
            resource_claims.c.is_held.is_(False),
        )
        .distinct()
        .order_by(resource_claims.c.root_id)
    )
    for root_id in connection.execute(waiting).scalars().all():
        # Whoever holds the row is ending the execution, and then gives away what it leaves.
        free = select(executions.c.id).where(executions.c.id == root_id)
        if connection.execute(free.with_for_update(skip_locked=True)).first() is None:
            continue
        if _in_the_way(connection, root_id) is None:
            _hold(connection, root_id)
            _let_wait(connection, root_id, func.clock_timestamp())


def _lock(connection: Connection, resources: Iterable[str]) -> None:
    release_locks_when_stopped(connection)
    for resource in sorted(resources):
        database.store().transaction_lock(connection, f"resource {resource}")


def _try_lock(connection: Connection, resource: str) -> bool:
    key = lock_key(f"resource {resource}")
    return bool(connection.execute(select(func.pg_try_advisory_xact_lock(key))).scalar_one())


def _in_the_way(connection: Connection, root_id: UUID) -> Row[tuple[UUID, str, date, date]] | None:
    return connection.execute(IN_THE_WAY, {"root_id": root_id}).first()


def _hold(connection: Connection, root_id: UUID) -> None:
    connection.execute(
        update(resource_claims).where(resource_claims.c.root_id == root_id).values(is_held=True)
    )


def _let_wait(
    connection: Connection, root_id: UUID, until: datetime | ColumnElement[datetime]
) -> None:
    connection.execute(
        update(executions)
        .where(executions.c.id == root_id)
        .values(not_before=until, dispatched_at=None)
    )
