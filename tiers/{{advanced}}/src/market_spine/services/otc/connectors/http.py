"""A JSON endpoint that answers page by page; the path is its URL.

It is asked `GET URL?start=2025-11-24&end=2025-11-25`: New York days of reporting, both included,
one left out where the request leaves its side open; what else is sent is passed over. The answer is
200 and `{"records": [{"symbol": "ACME", …}, …], "next": "…"}`. A record has a field for each column
that the mapping names, null where there is nothing; numbers are kept as they are written. `next` is
the URL of the next page (it begins with http, / or ?), or a cursor, which is sent as `cursor=` with
the days; null ends the last page. Neither it nor a redirect leads to another server.

A page counts when it has come whole, so none counts twice for having been asked for again. That is
done where the server cannot be reached, is slow, breaks off, answers 429 or 5xx, sends what is no
such page, or leads back to a page that was read; any other answer is an error at once. A page that
has the records of the one before it was served twice, and is passed over. Rows have no numbers that
would be the same the next time, so a record must have a trade id.
"""

import json
import logging
import re
import time
from collections.abc import Iterator
from contextlib import suppress
from datetime import timedelta
from typing import Any

import httpx
import orjson

from market_spine.entrance import is_listed
from market_spine.errors import SourceError, SourceUnavailableError
from market_spine.services.otc.connector import Checkpoint, FetchRequest, Record, matching
from market_spine.services.otc.readers import Payload
from market_spine.settings import settings

CONNECT_SECONDS, READ_SECONDS = 5.0, 20.0  # at most, to a connection and to whatever comes next
PAGE_SECONDS = 60.0  # at most, for all of a page
WAITS = (1.0, 2.0, 4.0, 8.0)  # seconds before a page is asked for again; after the last: given up
LONGEST_WAIT = 30.0  # seconds, of those that a server asks for
LARGEST_PAGE = 16 * 2**20  # bytes; a page is held in memory, beside the records of the last one
MOST_STALE = 100  # pages in a row without a new record

log = logging.getLogger(__name__)
logging.getLogger("httpx").setLevel(logging.WARNING)  # below, it tells URLs with all their secrets


class _FaultError(Exception):
    """An answer that may be a better one the next time."""

    def __init__(self, reason: str, wait: float = 0.0) -> None:
        super().__init__(reason)
        self.wait = wait  # seconds, at least


def fetch(request: FetchRequest) -> Iterator[Record]:
    """Stream the records of all pages.

    Raises:
        SourceError: the path is no URL, or the server gives an answer that will not get better.
        SourceUnavailableError: a page was asked for as often as it is worth.
    """
    url = _first_url(request)
    if "trade_id" not in request.mapping.fields:
        raise SourceError("http: the mapping must name the column of trade_id")
    with httpx.Client(
        headers={"Accept": "application/json", **_authorization(request.path or "")},
        timeout=httpx.Timeout(READ_SECONDS, connect=CONNECT_SECONDS),
    ) as client:
        yield from matching(_Pages(client, url, request.checkpoint).records(), request)


def _first_url(request: FetchRequest) -> httpx.URL:
    try:
        url = httpx.URL(request.path or "")
    except httpx.InvalidURL as error:
        raise SourceError(f"http: the path is not a URL: {error}") from None
    if url.scheme not in ("http", "https") or not url.host:
        raise SourceError("http: the path must be a URL, like https://HOST/trades")
    if url.userinfo:
        raise SourceError("http: the path is kept and shown: a password goes to SPINE_HTTP_TOKEN")
    after, until = request.reported_after, request.reported_until
    days = {
        **({"start": str(after + timedelta(days=1))} if after else {}),
        **({"end": str(until)} if until else {}),
    }
    return url.copy_merge_params(days) if days else url


def _authorization(path: str) -> dict[str, str]:
    secret = settings().spine_http_token
    if secret is None or not is_listed(path):
        return {}
    token = secret.get_secret_value()
    if not re.fullmatch("[!-~]+", token):
        raise SourceError("SPINE_HTTP_TOKEN: is empty, or has characters that no token has")
    return {"Authorization": f"Bearer {token}"}


class _Pages:
    """The pages of one fetch."""

    def __init__(self, client: httpx.Client, first: httpx.URL, checkpoint: Checkpoint) -> None:
        self.client = client
        self.first = first
        self.checkpoint = checkpoint
        self.place = _shown(first)
        self.asked: set[httpx.URL] = set()

    def records(self) -> Iterator[Record]:
        url: httpx.URL | None = self.first
        before: list[Payload] = []
        row = stale = 0
        while url:
            self.asked.add(url)
            payloads, url = self._page(url)
            stale += 1
            if payloads and payloads != before:
                before, stale = payloads, 0
                for payload in payloads:
                    row += 1
                    yield Record(self.place, row, payload)
            if stale > MOST_STALE:
                raise self._error(f"is one of {stale} in a row without a new record")

    def _error(self, reason: object, kind: type[SourceError] = SourceError) -> SourceError:
        return kind(f"{self.place}: page {len(self.asked)}: {reason}")

    def _page(self, url: httpx.URL) -> tuple[list[Payload], httpx.URL | None]:
        """The records of a page, and where the next one is; asked for until it is a good one."""
        waits = iter(WAITS)
        while True:
            self.checkpoint()
            try:
                payloads, following = _parsed(self._body(url))
                return payloads, self._next(url, following)
            except _FaultError as fault:
                wait = next(waits, None)
                if wait is None:
                    reason = f"{fault}, {len(WAITS) + 1} times; try again when the server is well"
                    raise self._error(reason, SourceUnavailableError) from fault
                wait = max(wait, fault.wait)
                log.info("%s; asked for again in %s s", self._error(fault), wait)
                time.sleep(wait)

    def _body(self, url: httpx.URL) -> bytearray:
        body, until = bytearray(), time.monotonic() + PAGE_SECONDS
        try:
            with self.client.stream("GET", url) as response:
                self._check(response)
                for chunk in response.iter_bytes():
                    body += chunk
                    if len(body) > LARGEST_PAGE:
                        most = f"{LARGEST_PAGE:,} bytes"
                        raise self._error(f"is larger than {most}: ask the server for smaller ones")
                    if time.monotonic() > until:
                        raise _FaultError(f"has not come whole in {PAGE_SECONDS:g} s")
        except (httpx.TransportError, httpx.DecodingError) as error:
            reason = str(error) or type(error).__name__  # some say nothing
            raise _FaultError(f"has not come ({reason})") from error
        return body

    def _check(self, response: httpx.Response) -> None:
        """Go on only with an answer that is a page."""
        status = response.status_code
        if status == 200:
            return
        answer = f"the server answers {status} {response.reason_phrase}".rstrip()
        if status == 429 or status >= 500:
            wait = response.headers.get("Retry-After", "")
            raise _FaultError(answer, min(float(wait), LONGEST_WAIT) if wait.isdecimal() else 0.0)
        if response.has_redirect_location:
            raise self._error(f"{answer}, and no redirect is followed: name the URL that is meant")
        if status in (401, 403):
            answer += " (check SPINE_HTTP_TOKEN, and that SPINE_HTTP_SOURCES has this URL)"
        raise self._error(f"{answer}: {_snippet(response)}")

    def _next(self, url: httpx.URL, following: str) -> httpx.URL | None:
        if not following:
            return None
        try:
            if following.startswith(("http:", "https:", "/", "?")):
                place = url.join(following)
            else:
                place = self.first.copy_merge_params({"cursor": following})
        except httpx.InvalidURL as error:
            raise _FaultError(f"its next is not a URL ({error})") from None
        if _server(place) != _server(self.first):
            raise self._error(f"leads to another server ({_shown(place)}), which is not asked")
        if is_listed(str(self.first)) and not is_listed(str(place)):
            where = "is not beneath SPINE_HTTP_SOURCES"
            raise self._error(f"leads to {_shown(place)}, which {where}, and is not asked")
        if place in self.asked:
            raise _FaultError("leads back to a page that was read")
        return place


def _server(url: httpx.URL) -> tuple[str, str, int | None, bytes]:
    return url.scheme, url.host, url.port, url.userinfo


def _shown(url: httpx.URL) -> str:
    """A URL without what may be secret in it."""
    return str(url.copy_with(userinfo=b"", query=None, fragment=None))


def _snippet(response: httpx.Response) -> str:
    """How an answer begins, in a line; a server may send back what it was sent."""
    text = ""
    with suppress(httpx.HTTPError):
        text = next(response.iter_bytes(), b"").decode(errors="replace")
    sent = response.request.headers.get("Authorization", "").removeprefix("Bearer ")
    return " ".join((text.replace(sent, "…") if sent else text).split())[:200]


def _parsed(body: bytearray) -> tuple[list[Payload], str]:
    """The records of a page, and what it says of the next one: nothing, if it is the last."""
    verbatim = orjson.Fragment  # a number as it is written, since a float would not be exact
    try:
        page = json.loads(body, parse_float=verbatim, parse_int=verbatim, parse_constant=verbatim)
        if not isinstance(page["records"], list):
            raise TypeError("records")
        return [_payload(record) for record in page["records"]], _text(page["next"])
    except (ValueError, TypeError, KeyError, RecursionError):
        begins = " ".join(body[:80].decode(errors="replace").split())
        raise _FaultError(f"is not a page of JSON, or not a whole one ('{begins}')") from None


def _payload(record: Any) -> Payload:
    """A record that is no object is one without the fields that are needed."""
    fields = record if isinstance(record, dict) else {"": record}
    return {_text(name): _text(value) for name, value in fields.items()}


def _text(value: Any) -> str:
    """Text as it is, nothing as an empty text, and anything else as JSON."""
    if value is None:
        return ""
    if isinstance(value, str):
        return value.encode(errors="replace").decode()  # one half of a character cannot be stored
    return orjson.dumps(value).decode()
