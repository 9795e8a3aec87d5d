"""What the OpenAPI document says beyond the signatures of the handlers."""

import json
from typing import Any

from fastapi import FastAPI
from pydantic.json_schema import models_json_schema

from market_spine.api.examples import EVENT, PARENT_ID
from market_spine.api.problems import (
    KINDS,
    MEDIA_TYPE,
    NOT_JSON,
    RETRY_SECONDS,
    UNAVAILABLE,
    Fault,
    Problem,
    problem,
)

Responses = dict[int | str, dict[str, Any]]

DESCRIPTION = """
Submit pipelines, follow them, and read what they have computed.

**A backfill, from end to end.** `POST /executions` with the pipeline `otc_backfill_range` is
answered with its execution, which a worker runs: one child for each trading day. Follow it at its
`Location`, or by its events as a stream, and its children with `GET /executions?parent_id=…`. Once
it has succeeded, `GET /otc/metrics/daily` has the numbers.

**Once only.** A submit with an `Idempotency-Key` may be sent again without fear: the same key and
body are the same execution.

**Numbers and times.** Decimals are strings, exact to the last digit. Instants are RFC 3339 in UTC,
and a trade's date is the date in New York.

**Pages.** A listing has at most `limit` items. While there are more, its `next_cursor` is the
`cursor` of the next page, asked for with the same filters.

**Problems.** Every error is `application/problem+json` (RFC 9457). Its `errors` name the fields at
fault, and its `type` is for programs:

| `type` | status | |
| --- | --- | --- |
"""
DESCRIPTION += "".join(
    f"| `urn:market-spine:{kind}` | {status} | {title} |\n"
    for kind, (status, title) in KINDS.items()
)
DESCRIPTION += "| `about:blank` | others | What the status says |\n"

TAGS = [
    {"name": "executions", "description": "What was submitted, and what became of it."},
    {"name": "dead letters", "description": "What could not be processed."},
    {"name": "otc", "description": "What the OTC pipelines have computed."},
    {"name": "health", "description": "Whether the process lives, and whether it can be used."},
]

BROKEN = "Expecting ',' delimiter at character 12"
TOO_LARGE = "the body is larger than 1048576 bytes"
REVERSED = "2025-11-24 is before start, 2025-12-05"
# One example for each status.
PROBLEMS = {
    example.status: example
    for example in (
        problem("malformed-json", BROKEN, "/executions", [Fault.of("body", None, BROKEN)]),
        problem("not-found", f"there is no execution {PARENT_ID}", f"/executions/{PARENT_ID}"),
        problem(413, TOO_LARGE, "/executions", [Fault.of("body", None, TOO_LARGE)]),
        problem(415, NOT_JSON, "/executions"),
        problem(
            "invalid-request",
            f"end: {REVERSED}",
            "/otc/metrics/daily",
            [Fault.of("query", "end", REVERSED)],
        ),
        problem("unavailable", UNAVAILABLE, "/executions"),
    )
}
SUBMITTED: Responses = {
    202: {
        "description": "It is written down.",
        "headers": {
            "Location": {
                "description": "Where to follow it.",
                "required": True,
                "schema": {"type": "string"},
                "example": f"/executions/{PARENT_ID}",
            }
        },
        "links": {
            operation: {
                "operationId": operation,
                "parameters": {"execution_id": "$response.body#/id"},
            }
            for operation in ("read_execution", "cancel_execution", "list_events")
        },
    }
}
EVENT_STREAM: Responses = {
    200: {
        "content": {
            "text/event-stream": {
                "schema": {"type": "string"},
                "example": f"data: {json.dumps(EVENT)}\nid: 3\n\n",
            }
        }
    },
    204: {"description": "To a stream that is resumed: it has ended, there are no more events."},
}


def failures(*statuses: int) -> Responses:
    """How an operation may fail."""
    return {status: _failure(status) for status in statuses}


def _failure(status: int) -> dict[str, Any]:
    example = PROBLEMS[status]
    content = {"schema": {"$ref": "#/components/schemas/Problem"}, "example": example.model_dump()}
    failure: dict[str, Any] = {"description": example.title}
    failure["content"] = {MEDIA_TYPE: content}
    if status == 503:
        seconds = {"schema": {"type": "integer"}, "example": RETRY_SECONDS}
        seconds["description"] = "Seconds."
        failure["headers"] = {"Retry-After": seconds}
    return failure


class DocumentedApp(FastAPI):
    """An app whose OpenAPI document knows problems, and not what FastAPI would answer instead."""

    def openapi(self) -> dict[str, Any]:
        """The document."""
        document = super().openapi()
        _, schemas = models_json_schema(
            [(Problem, "serialization")], ref_template="#/components/schemas/{model}"
        )
        known = document["components"]["schemas"]
        known |= schemas["$defs"]
        for name in ("HTTPValidationError", "ValidationError"):
            known.pop(name, None)
        for path in document["paths"].values():
            for operation in path.values():
                if "HTTPValidationError" in str(operation["responses"].get("422")):
                    operation["responses"]["422"] = _failure(422)
        return document
