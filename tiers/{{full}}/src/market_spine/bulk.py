"""Many submissions at once, of which all are written down or none is.

They are one transaction, and the locks that it takes come in an order that all agree on, so that
two of them never wait for each other in a circle: the idempotency keys by name, then what is
claimed by the name of its resource. Such transactions take turns: each may want a thousand locks,
of which Postgres has some thousands for all of its sessions together.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from market_spine import admission, database, dispatcher, ledger, pipelines
from market_spine.errors import RequestError
from market_spine.guard import OnConflict
from market_spine.ledger import Execution


@dataclass(frozen=True, kw_only=True)
class Request:
    """One of many: see `dispatcher.submit`."""

    pipeline: str
    params: Mapping[str, Any]
    idempotency_key: str | None = None
    on_conflict: OnConflict = "reject"


def submit(requests: Sequence[Request], trigger_source: str = "cli") -> list[Execution]:
    """Write a queued execution for each request, then hand their ids to the backend.

    Returns:
        The executions in the order of the requests; the earlier one where a key is known.

    Raises:
        RequestError: as `dispatcher.submit`, of the request that its `item` names.
        LaneFullError: a lane has no room for all that is new.
        StoreError: the store cannot be used.
    """
    resources = []
    for index, request in enumerate(requests):
        with _of(index):
            resources.append(_resource(request))
    executions: dict[int, Execution] = {}
    with database.transaction() as connection:
        database.store().transaction_lock(connection, "bulk")
        keys = sorted({request.idempotency_key for request in requests if request.idempotency_key})
        for key in keys:
            database.store().transaction_lock(connection, f"idempotency key {key}")
        known = ledger.known_keys(connection, keys)
        new = [request for request in requests if request.idempotency_key not in known]
        lanes = Counter(pipelines.find(request.pipeline).lane for request in new)
        for lane, wanted in sorted(lanes.items()):
            admission.admit(connection, lane, wanted)
        for index in sorted(range(len(requests)), key=resources.__getitem__):
            request = requests[index]
            with _of(index):
                executions[index] = dispatcher.submit_in(
                    connection,
                    request.pipeline,
                    request.params,
                    trigger_source=trigger_source,
                    idempotency_key=request.idempotency_key,
                    on_conflict=request.on_conflict,
                    is_admitted=True,
                )
    return [dispatcher.enqueue(executions[index]) for index in range(len(requests))]


@contextmanager
def _of(index: int) -> Iterator[None]:
    """Say which request an error is of."""
    try:
        yield
    except RequestError as error:
        error.item = index
        raise


def _resource(request: Request) -> str:
    """The name of the resource that it claims a part of; "" if it claims none."""
    pipeline = pipelines.find(request.pipeline)
    if pipeline.claims is None:
        return ""
    try:
        claims = pipeline.claims(pipeline.params.model_validate(dict(request.params)))
    except ValidationError:
        return ""  # what is wrong with them is said when it is submitted
    return claims[0].resource if claims else ""
