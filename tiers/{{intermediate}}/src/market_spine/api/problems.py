"""Errors as problem details (RFC 9457): what is wrong, and which field is at fault.

Every answer from 400 on is one of these, whoever raised it. Of an unexpected exception it says
nothing but that there was one: the log has the rest.
"""

import logging
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any, Literal, Self, cast
from urllib.parse import quote

import orjson
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, Field, ValidationError
from starlette.exceptions import HTTPException

from market_spine.errors import (
    ConflictError,
    IdempotencyKeyError,
    NotFoundError,
    SpineError,
    StoreError,
)

MEDIA_TYPE = "application/problem+json"
RETRY_SECONDS = 2  # how soon it is worth asking again while the store cannot be used
UNAVAILABLE = "the store cannot be used at the moment, as the log of the API explains"
# A commit whose answer was lost has been made.
REPEATABLE = "it may have been done all the same; a submit with an Idempotency-Key may be repeated"
NOT_JSON = "the body must be JSON, and say so: Content-Type: application/json"
LONGEST_DETAIL = 500  # characters: what a caller sent is not sent back by the megabyte
MOST_FAULTS = 20

log = logging.getLogger(__name__)

Kind = Literal[
    "malformed-json",
    "not-found",
    "conflict",
    "invalid-request",
    "idempotency-key-reused",
    "internal-error",
    "unavailable",
]
# What is more than its status says: the status and the title.
KINDS: dict[Kind, tuple[int, str]] = {
    "malformed-json": (400, "The body is not JSON"),
    "not-found": (404, "There is no such thing"),
    "conflict": (409, "The request contradicts what is already there"),
    "invalid-request": (422, "The request is not valid"),
    "idempotency-key-reused": (422, "The idempotency key belongs to another request"),
    "internal-error": (500, "The request failed, and not through its own fault"),
    "unavailable": (503, "The store cannot be used at the moment"),
}


class Fault(BaseModel):
    """What is wrong with one part of the request."""

    location: Literal["body", "query", "path", "header"]
    field: str | None = Field(description="Where in it, as `params.start_date`. Null: all of it.")
    detail: str

    @classmethod
    def of(cls, location: Any, field: str | None, detail: str) -> Self:
        """A fault, from its parts in their order."""
        return cls(location=location, field=field, detail=detail)


class Problem(BaseModel):
    """Why a request failed."""

    type: str = Field(description="What kind of problem it is, for programs.")
    title: str = Field(description="The same for people.")
    status: int = Field(description="The HTTP status, once more.")
    detail: str = Field(description="What is wrong with this request, and what to do.")
    instance: str = Field(description="The path that was asked for.")
    errors: list[Fault] = Field(default=[], description="The fields at fault, if there are any.")


def at_fault(location: str, field: str, detail: str) -> RequestValidationError:
    """The error to raise for one field of a request that is not valid."""
    return RequestValidationError([{"loc": (location, field), "msg": detail, "type": "value"}])


def problem(kind: Kind | int, detail: str, instance: str, faults: Sequence[Fault] = ()) -> Problem:
    """A problem of a kind, or one that says no more than its status does."""
    status, title = (kind, HTTPStatus(kind).phrase) if isinstance(kind, int) else KINDS[kind]
    return Problem(
        type="about:blank" if isinstance(kind, int) else f"urn:market-spine:{kind}",
        title=title,
        status=status,
        detail=detail,
        instance=instance,
        errors=list(faults),
    )


def too_large(request: Request, detail: str) -> Response:
    """The answer to a body that is too large."""
    return answer(request, 413, detail, _faults([{"loc": ("body",), "msg": detail}]))


def misdirected(request: Request, detail: str) -> Response:
    """The answer to what was sent to a host that this is not."""
    return answer(request, 421, detail)


def install(app: FastAPI) -> None:
    """Have every error of an app answered with a problem."""
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(IdempotencyKeyError, _reused)
    app.add_exception_handler(SpineError, _refused)
    app.add_exception_handler(HTTPException, _plain)
    app.add_exception_handler(Exception, _unexpected)


async def _invalid(request: Request, error: Exception) -> Response:
    invalid = cast(RequestValidationError, error)
    if isinstance(invalid.body, bytes):
        return answer(request, 415, NOT_JSON)
    first = invalid.errors()[0]
    if first["type"] == "json_invalid":
        return _malformed(request, f"{first['ctx']['error']} at character {first['loc'][-1]}")
    faults = _faults(invalid.errors())
    detail = "; ".join(f"{fault.field or fault.location}: {fault.detail}" for fault in faults)
    return answer(request, "invalid-request", detail, faults)


def _malformed(request: Request, detail: str) -> Response:
    return answer(request, "malformed-json", detail, _faults([{"loc": ("body",), "msg": detail}]))


async def _reused(request: Request, error: Exception) -> Response:
    faults = _faults([{"loc": ("header", "Idempotency-Key"), "msg": str(error)}])
    return answer(request, "idempotency-key-reused", str(error), faults)


async def _refused(request: Request, error: Exception) -> Response:
    if isinstance(error, StoreError):
        return unavailable(request, error)
    if isinstance(error, NotFoundError):
        return answer(request, "not-found", str(error))
    if isinstance(error, ConflictError):
        return answer(request, "conflict", str(error))
    # The dispatcher refuses params by raising from what their model found wrong.
    wrong = error.__cause__
    found = wrong.errors() if isinstance(wrong, ValidationError) else []
    faults = _faults([{**fault, "loc": ("body", "params", *fault["loc"])} for fault in found])
    return answer(request, "invalid-request", str(error), faults)


def unavailable(request: Request, error: StoreError) -> Response:
    """The answer while the store is away."""
    log.warning("%s", error)
    # What a driver says names hosts, databases and users.
    detail = str(error) if error.__cause__ is None else UNAVAILABLE
    if request.method == "POST":
        detail = f"{detail}; {REPEATABLE}"
    return answer(request, "unavailable", detail, headers={"Retry-After": str(RETRY_SECONDS)})


async def _plain(request: Request, error: Exception) -> Response:
    plain = cast(HTTPException, error)
    headers = dict(plain.headers or {})
    detail = plain.detail
    if plain.status_code == 400:  # of a body that is not even text
        return _malformed(request, "it cannot be read as JSON")
    if plain.status_code == 413:
        return too_large(request, detail)
    if plain.status_code == 404:
        detail = f"there is nothing at {request.url.path} (what there is: /docs)"
    if plain.status_code == 405:
        headers["Allow"] = _allowed(request) or "GET, HEAD"  # /docs, /openapi.json
        detail = f"{request.method} is not possible here (possible: {headers['Allow']})"
    return answer(request, plain.status_code, detail, headers=headers)


def _allowed(request: Request) -> str:
    """The methods of every route at this path; an exception knows those of one."""
    path = getattr(request.scope.get("route"), "path", "")
    return ", ".join(sorted(map(str.upper, request.app.openapi()["paths"].get(path, ()))))


async def _unexpected(request: Request, _error: Exception) -> Response:
    # The server logs the exception, which is raised on after this answer.
    detail = "an unexpected error, which the log of the API explains"
    return answer(request, "internal-error", detail)


def _faults(found: Sequence[Mapping[str, Any]]) -> list[Fault]:
    """The first faults that pydantic found, without its own prefix and what cannot be sent."""
    faults = []
    for error in found[:MOST_FAULTS]:
        location, *field = error["loc"]
        detail = error["msg"].removeprefix("Value error, ")
        name = _sendable(".".join(map(str, field)))
        faults.append(Fault.of(location, name or None, _sendable(detail)))
    return faults


def answer(
    request: Request,
    kind: Kind | int,
    detail: str,
    faults: Sequence[Fault] = (),
    headers: Mapping[str, str] | None = None,
) -> Response:
    """A problem as the answer to a request."""
    told = problem(kind, _sendable(detail), quote(request.scope["path"]), faults)
    return Response(orjson.dumps(told.model_dump()), told.status, headers, media_type=MEDIA_TYPE)


def _sendable(text: str) -> str:
    """A text of reasonable length that UTF-8 can carry."""
    shown = text if len(text) <= LONGEST_DETAIL else f"{text[:LONGEST_DETAIL]}…"
    return shown.encode("utf-8", "replace").decode("utf-8")
