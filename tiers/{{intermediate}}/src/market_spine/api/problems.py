"""Errors as problem details (RFC 9457): what is wrong, and which field is at fault.

Every answer from 400 on is one of these, whoever raised it. Of an unexpected exception it says
nothing but that there was one: the log has the rest.
"""

from collections.abc import Iterable, Mapping, Sequence
from http import HTTPStatus
from typing import Any, Literal, Self, cast
from urllib.parse import quote

import orjson
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, Field, ValidationError
from starlette.exceptions import HTTPException

from market_spine.errors import ConflictError, NotFoundError, SpineError, StoreError
from market_spine.settings import settings

MEDIA_TYPE = "application/problem+json"
RETRY_SECONDS = 2  # how soon it is worth asking again while the store cannot be used
NOT_JSON = "the body must be JSON, and say so: Content-Type: application/json"
LONGEST_DETAIL = 500  # characters: what a caller sent is not sent back by the megabyte

Kind = Literal[
    "malformed-json",
    "invalid-request",
    "idempotency-key-reused",
    "not-found",
    "conflict",
    "unavailable",
    "internal-error",
]
TITLES: dict[Kind, str] = {
    "malformed-json": "The body is not JSON",
    "invalid-request": "The request is not valid",
    "idempotency-key-reused": "The idempotency key belongs to another request",
    "not-found": "There is no such thing",
    "conflict": "The request contradicts what is already there",
    "unavailable": "The store cannot be used at the moment",
    "internal-error": "The request failed, and not through its own fault",
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


class IdempotencyError(Exception):
    """An idempotency key that belongs to another request; its text says to which."""


def at_fault(location: str, field: str, detail: str) -> RequestValidationError:
    """The error to raise for one field of a request that is not valid."""
    return RequestValidationError([{"loc": (location, field), "msg": detail, "type": "value"}])


def too_large(request: Request, limit: int) -> Response:
    """The answer to a body that is larger than the limit, in bytes."""
    detail = f"the body is larger than {limit} bytes"
    return _answer(request, 413, detail, faults=_faults([{"loc": ("body",), "msg": detail}]))


def install(app: FastAPI) -> None:
    """Have every error of an app answered with a problem."""
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(IdempotencyError, _reused)
    app.add_exception_handler(SpineError, _refused)
    app.add_exception_handler(HTTPException, _plain)
    app.add_exception_handler(Exception, _unexpected)


async def _invalid(request: Request, error: Exception) -> Response:
    invalid = cast(RequestValidationError, error)
    if isinstance(invalid.body, bytes):
        return _answer(request, 415, NOT_JSON)
    first = invalid.errors()[0]
    if first["type"] == "json_invalid":
        detail = f"{first['ctx']['error']} at character {first['loc'][-1]}"
        faults = _faults([{"loc": ("body",), "msg": detail}])
        return _answer(request, 400, detail, "malformed-json", faults)
    faults = _faults(invalid.errors())
    detail = "; ".join(f"{fault.field or fault.location}: {fault.detail}" for fault in faults)
    return _answer(request, 422, detail, "invalid-request", faults)


async def _reused(request: Request, error: Exception) -> Response:
    faults = _faults([{"loc": ("header", "Idempotency-Key"), "msg": str(error)}])
    return _answer(request, 422, str(error), "idempotency-key-reused", faults)


async def _refused(request: Request, error: Exception) -> Response:
    if isinstance(error, StoreError):
        return _unavailable(request, str(error))
    if isinstance(error, NotFoundError):
        return _answer(request, 404, str(error), "not-found")
    if isinstance(error, ConflictError):
        return _answer(request, 409, str(error), "conflict")
    # The dispatcher refuses params by raising from what their model found wrong.
    wrong = error.__cause__
    found: Iterable[Any] = wrong.errors() if isinstance(wrong, ValidationError) else ()
    faults = _faults({**fault, "loc": ("body", "params", *fault["loc"])} for fault in found)
    return _answer(request, 422, str(error), "invalid-request", faults)


async def _plain(request: Request, error: Exception) -> Response:
    plain = cast(HTTPException, error)
    headers = dict(plain.headers or {})
    if plain.status_code == 400:  # the body, where not even its text could be read
        faults = _faults([{"loc": ("body",), "msg": "it cannot be read as JSON"}])
        return _answer(request, 400, faults[0].detail, "malformed-json", faults)
    if plain.status_code == 413:
        return too_large(request, settings().spine_api_max_body)
    if plain.status_code == 405:
        path = request.app.openapi()["paths"].get(getattr(request.scope["route"], "path", None), {})
        headers["Allow"] = ", ".join(sorted(map(str.upper, path))) or headers["Allow"]
    details = {
        404: f"there is nothing at {request.url.path} (what there is: /docs)",
        405: f"{request.method} is not possible here (possible: {headers.get('Allow')})",
    }
    detail = details.get(plain.status_code, plain.detail)
    return _answer(request, plain.status_code, detail, headers=headers)


async def _unexpected(request: Request, _error: Exception) -> Response:
    # The server logs the exception, which is raised on after this answer.
    return _answer(
        request, 500, "an unexpected error, which the log of the API explains", "internal-error"
    )


def _unavailable(request: Request, detail: str) -> Response:
    headers = {"Retry-After": str(RETRY_SECONDS)}
    return _answer(request, 503, detail, "unavailable", headers=headers)


def _faults(found: Iterable[Mapping[str, Any]]) -> list[Fault]:
    """The faults that pydantic found, without its own prefix, and without what cannot be sent."""
    faults = []
    for error in found:
        location, *field = error["loc"]
        detail = error["msg"].removeprefix("Value error, ")
        for limit in error.get("ctx", {}).values():
            detail = detail.replace(repr(limit), str(limit))  # a date as people write it
        name = _sendable(".".join(map(str, field)))
        faults.append(Fault.of(location, name or None, _sendable(detail)))
    return faults


def problem(
    status: int, detail: str, kind: Kind | None, instance: str, faults: Sequence[Fault] = ()
) -> Problem:
    """A problem of a kind; without one it says no more than its status does."""
    return Problem(
        type=f"urn:market-spine:{kind}" if kind else "about:blank",
        title=TITLES[kind] if kind else HTTPStatus(status).phrase,
        status=status,
        detail=detail,
        instance=instance,
        errors=list(faults),
    )


def _answer(
    request: Request,
    status: int,
    detail: str,
    kind: Kind | None = None,
    faults: Sequence[Fault] = (),
    headers: Mapping[str, str] | None = None,
) -> Response:
    path = quote(request.scope["path"])
    content = orjson.dumps(problem(status, _sendable(detail), kind, path, faults).model_dump())
    return Response(content, status, headers, media_type=MEDIA_TYPE)


def _sendable(text: str) -> str:
    """A text of reasonable length that UTF-8 can carry."""
    shown = text if len(text) <= LONGEST_DETAIL else f"{text[:LONGEST_DETAIL]}…"
    return shown.encode("utf-8", "replace").decode("utf-8")
