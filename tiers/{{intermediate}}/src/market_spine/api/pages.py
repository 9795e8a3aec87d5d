"""Cursors: where a page ends, as a text that only the query that it came from takes back.

A cursor holds a place in a listing and a digest of both the place and the query's filters. It is no
secret and gives no access: the digest keeps a cursor that was cut, edited or moved to another query
from quietly skipping rows.
"""

import hashlib
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable, Sequence
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from market_spine.api.problems import at_fault

Place = TypeVar("Place")
Row = TypeVar("Row")

DIGEST_BYTES = 12


class Paging(BaseModel):
    """What every listing is asked; a listing's own query adds its filters."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    limit: int = Field(
        default=50, ge=1, le=1000, description="How many at the most.", examples=[50]
    )
    cursor: str | None = Field(
        default=None,
        max_length=500,
        description="The `next_cursor` of the page before, asked for with the same filters.",
        examples=["hsGc-l3-_ongjfMkIjAxYTIwZGM3LWZmZTYtNzAyYy05OGE5LWZiNjRiMzFmMmZhZiI"],
    )


def issue(query: Paging, place: TypeAdapter[Place], last: Place) -> str:
    """The cursor of the page that follows the one whose last row stands at a place."""
    content = place.dump_json(last)
    filters = query.model_dump_json(exclude={"limit", "cursor"})
    bound = f"{type(query).__name__} {filters} ".encode() + content
    digest = hashlib.sha256(bound).digest()[:DIGEST_BYTES]
    return urlsafe_b64encode(digest + content).decode().rstrip("=")


def read(query: Paging, place: TypeAdapter[Place]) -> Place | None:
    """The place behind which a query's page begins; None: it is the first page.

    Raises:
        RequestValidationError: the cursor is not, to the letter, one that this query has issued.
    """
    if query.cursor is None:
        return None
    reason = "was not issued for this query; leave it out to begin at the first page"
    try:
        raw = urlsafe_b64decode(query.cursor + "=" * (-len(query.cursor) % 4))
        last = place.validate_json(raw[DIGEST_BYTES:])
    except ValueError:
        raise at_fault("query", "cursor", reason) from None
    if issue(query, place, last) != query.cursor:
        raise at_fault("query", "cursor", reason)
    return last


def cut(
    query: Paging,
    place: TypeAdapter[Place],
    rows: Sequence[Row],
    place_of: Callable[[Row], Place],
) -> tuple[Sequence[Row], str | None]:
    """The rows of a page, of which one to spare was read, and the next page's cursor."""
    if len(rows) <= query.limit:
        return rows, None
    return rows[: query.limit], issue(query, place, place_of(rows[query.limit - 1]))
