"""Bad input: a problem that names the field, never a 500, and no row too many."""

import json
import socket
from collections.abc import Iterator
from typing import Any
from urllib.parse import unquote

import httpx
import pytest

from tests.api.serving import PROBLEM, Api

ID = "019ac1f0-3a5e-7c41-9b12-6f0d2c8e4a01"
DAYS = {"start": "2025-11-24", "end": "2025-12-05"}
SQL = "'; DROP TABLE executions; --"
RANGE = {"pipeline": "otc_backfill_range"}
JSON = {"Content-Type": "application/json"}


def refused(answer: httpx.Response, status: int, *fields: str | None) -> dict[str, Any]:
    """Check that an answer is a problem with these fields at fault."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == PROBLEM
    problem: dict[str, Any] = answer.json()
    assert problem.keys() == {"type", "title", "status", "detail", "instance", "errors"}
    assert problem["status"] == status
    path = answer.request.url.raw_path.partition(b"?")[0].decode()
    assert unquote(problem["instance"]) == unquote(path)
    assert [fault["field"] for fault in problem["errors"]] == [*fields]
    assert len(answer.content) < 5_000
    return problem


@pytest.fixture(autouse=True)
def _no_row_too_many(shared: Api) -> Iterator[None]:
    """Whatever is refused leaves no execution."""
    yield
    assert shared.get("/executions")["items"] == []
    assert shared.get("/dead-letters")["items"] == []


@pytest.mark.parametrize(
    "sent",
    [
        b"nonsense\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n",
        b"GET /livez HTTP/1.1\r\n\r\n",
        b"POST /executions HTTP/1.1\r\nHost: here\r\nContent-Length: x\r\n\r\n",
    ],
    ids=["words", "TLS", "no host", "a length that is none"],
)
def test_what_is_no_request(shared: Api, sent: bytes) -> None:
    address = shared.http.base_url
    with socket.create_connection((address.host, address.port), timeout=30) as connection:
        connection.sendall(sent)
        with connection.makefile("rb") as stream:
            head, _, body = stream.read().partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 Bad Request\r\n")
    assert f"content-type: {PROBLEM}".encode() in head.lower()
    problem = json.loads(body)
    assert (problem["status"], problem["type"]) == (400, "about:blank")


MALFORMED = {
    "nothing": b"",
    "half an object": b'{"pipeline": "otc_norm',
    "no JSON": b"pipeline=otc_normalize",
    "not UTF-8": b'{"pipeline": "\xff\xfe"}',
    "too deep": b'{"pipeline": "otc_normalize", "params": ' + b"[" * 100_000,
    "a number without end": b'{"pipeline": ' + b"9" * 10_000 + b"}",
}


@pytest.mark.parametrize("kind", MALFORMED)
def test_a_body_that_is_no_json(shared: Api, kind: str) -> None:
    answer = shared.http.post("/executions", content=MALFORMED[kind], headers=JSON)
    problem = refused(answer, 422 if kind == "nothing" else 400, None)
    assert problem["errors"][0]["location"] == "body"
    assert " at at " not in problem["detail"]


@pytest.mark.parametrize(
    "headers", [{}, {"Content-Type": "text/plain"}, {"Content-Type": "multipart/form-data"}]
)
def test_a_body_that_does_not_say_that_it_is_json(shared: Api, headers: dict[str, str]) -> None:
    content = b'{"pipeline": "otc_normalize"}'
    problem = refused(shared.http.post("/executions", content=content, headers=headers), 415)
    assert "application/json" in problem["detail"]


TEN_MEGABYTES = b'{"pipeline": "' + b"x" * 10_000_000 + b'"}'


@pytest.mark.parametrize("path", ["/executions", "/livez", "/nowhere"])
def test_a_body_of_ten_megabytes(shared: Api, path: str) -> None:
    answer = shared.http.post(path, content=TEN_MEGABYTES, headers=JSON)
    assert "1048576" in refused(answer, 413, None)["detail"]


def test_a_large_body_that_does_not_tell_its_length(shared: Api) -> None:
    def pieces() -> Iterator[bytes]:
        for start in range(0, len(TEN_MEGABYTES), 65_536):
            yield TEN_MEGABYTES[start : start + 65_536]

    answer = shared.http.post("/executions", content=pieces(), headers=JSON)
    assert "1048576" in refused(answer, 413, None)["detail"]


def dates(start: object, end: object) -> dict[str, object]:
    return asked("otc_backfill_range", start_date=start, end_date=end)


def asked(pipeline: str, **given: object) -> dict[str, object]:
    return {"pipeline": pipeline, "params": given}


def ingest(name: str, value: object) -> dict[str, object]:
    return asked("otc_ingest", **{name: value})


MANY: list[str | None] = ["pipeline", *map(str, range(19))]
BODIES: dict[str, tuple[object, list[str | None]]] = {
    "null": (None, [None]),
    "a list": ([], [None]),
    "a text": ("otc_normalize", [None]),
    "no pipeline": ({}, ["pipeline"]),
    "an unknown pipeline": ({"pipeline": "otc_nothing"}, ["pipeline"]),
    "a pipeline that is a number": ({"pipeline": 1}, ["pipeline"]),
    "a path for a pipeline": ({"pipeline": "../otc_normalize"}, ["pipeline"]),
    "a module for a pipeline": ({"pipeline": "__init__"}, ["pipeline"]),
    "SQL for a pipeline": ({"pipeline": SQL}, ["pipeline"]),
    "NUL in a pipeline": ({"pipeline": "otc\0"}, ["pipeline"]),
    "half a character in a pipeline": ({"pipeline": "\ud800"}, ["pipeline"]),
    "a long pipeline": ({"pipeline": "x" * 500_000}, ["pipeline"]),
    "an unknown field": ({"pipeline": "otc_normalize", "lane": "fast"}, ["lane"]),
    "half a character in a field": ({"pipeline": "otc_normalize", "\ud800": 1}, [None]),
    "many unknown fields": ({str(n): n for n in range(50_000)}, MANY),
    "params that are a list": ({"pipeline": "otc_normalize", "params": []}, ["params"]),
    "params that are null": ({"pipeline": "otc_normalize", "params": None}, ["params"]),
    "an unknown param": (ingest("colour", "red"), ["params.colour"]),
    "SQL for a param": (ingest(SQL, SQL), [f"params.{SQL}"]),
    "SQL for a date": (dates(SQL, SQL), ["params.start_date", "params.end_date"]),
    "no dates": (RANGE, ["params.start_date", "params.end_date"]),
    "dates reversed": (dates("2025-12-05", "2025-11-24"), ["params.end_date"]),
    "ten years": (dates("2015-01-01", "2025-01-01"), ["params.end_date"]),
    "before all time": (dates("0001-01-01", "2025-01-01"), ["params.start_date"]),
    "after all time": (dates("2025-01-01", "9999-12-31"), ["params.end_date"]),
    "a day that is none": (dates("2025-02-30", "2025-03-01"), ["params.start_date"]),
    "a date of a megabyte": (dates("2" * 900_000, "2025-03-01"), ["params.start_date"]),
    "dates that are numbers": (dates(0, 1.5), ["params.start_date", "params.end_date"]),
    "an instant before all time": (
        ingest("captured_at", "0001-01-01T00:00:00+14:00"),
        ["params.captured_at"],
    ),
    "an instant to come": (
        ingest("captured_at", "9000-01-01T00:00:00Z"),
        ["params.captured_at"],
    ),
    "a naive instant": (ingest("captured_at", "2025-12-06T12:00:00"), ["params.captured_at"]),
    "no uuid": (asked("otc_normalize", capture_id="1"), ["params.capture_id"]),
    "beyond 64 bits": (asked("otc_normalize", raw_id=2**63), ["params"]),
    "far beyond 64 bits": (asked("otc_normalize", raw_id=10**300), ["params"]),
    "NUL in a param": (ingest("path", "a\0b"), ["params"]),
    "NUL in a param's name": (ingest("a\0b", 1), ["params"]),
    "half a character in a param": (ingest("symbols", ["A", "\udfff"]), ["params"]),
    "a symbol of a megabyte": (ingest("symbols", ["A", "x" * 900_000]), ["params.symbols.1"]),
    "ninety thousand symbols": (ingest("symbols", ["A"] * 90_000), ["params.symbols"]),
    "too deep": (ingest("path", json.loads("[" * 90 + "]" * 90)), ["params"]),
}


@pytest.mark.parametrize("kind", BODIES)
def test_a_body_that_asks_for_what_cannot_be(shared: Api, kind: str) -> None:
    body, fields = BODIES[kind]
    content = json.dumps(body).encode()
    refused(shared.http.post("/executions", content=content, headers=JSON), 422, *fields)


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_a_number_that_is_none(shared: Api, number: str) -> None:
    content = f'{{"pipeline": "otc_normalize", "params": {{"raw_id": {number}}}}}'
    problem = refused(shared.http.post("/executions", content=content, headers=JSON), 422, "params")
    assert "raw_id" in problem["detail"]


@pytest.mark.parametrize("key", ["", "é".encode(), b"\xff", "a b", "x" * 201, "\x7f"])
def test_an_idempotency_key_that_cannot_be(shared: Api, key: str | bytes) -> None:
    headers = httpx.Headers([(b"idempotency-key", key.encode() if isinstance(key, str) else key)])
    answer = shared.http.post("/executions", json={"pipeline": "otc_normalize"}, headers=headers)
    refused(answer, 422, "Idempotency-Key")


@pytest.mark.parametrize("name", ["1", "x", "0" * 36, SQL, "%00", "é", ID + "0", "..%2f"])
def test_an_id_that_is_no_uuid(shared: Api, name: str) -> None:
    for method, rest in (("GET", ""), ("POST", "/cancel"), ("GET", "/events")):
        answer = shared.http.request(method, f"/executions/{name}{rest}")
        if answer.status_code != 404 or "%2f" not in name:  # a slash makes it another path
            refused(answer, 422, "execution_id")


QUERIES: list[tuple[str, dict[str, object], list[str]]] = [
    ("/executions", {"status": "asleep"}, ["status"]),
    ("/executions", {"status": SQL}, ["status"]),
    ("/executions", {"stauts": "failed"}, ["stauts"]),
    ("/executions", {"limit": 0}, ["limit"]),
    ("/executions", {"limit": 1001}, ["limit"]),
    ("/executions", {"limit": -(10**30)}, ["limit"]),
    ("/executions", {"limit": "many"}, ["limit"]),
    ("/executions", {"parent_id": "me"}, ["parent_id"]),
    ("/executions", {"pipeline": "a\0b"}, ["pipeline"]),
    ("/executions", {"pipeline": "x" * 101}, ["pipeline"]),
    ("/dead-letters", {"kind": "letter"}, ["kind"]),
    ("/dead-letters", {"include_closed": "perhaps"}, ["include_closed"]),
    ("/dead-letters", {"closed": "true"}, ["closed"]),
    ("/otc/metrics/daily", {}, ["symbol", "start", "end"]),
    ("/otc/metrics/daily", {"symbol": "", **DAYS}, ["symbol"]),
    ("/otc/metrics/daily", {"symbol": "A\0", **DAYS}, ["symbol"]),
    ("/otc/metrics/daily", {"symbol": "A" * 65, **DAYS}, ["symbol"]),
    ("/otc/metrics/daily", {"symbol": "A", "start": "2025-12-05", "end": "2025-11-24"}, ["end"]),
    ("/otc/metrics/daily", {"symbol": "A", "start": "2015-01-01", "end": "2025-01-01"}, ["end"]),
    ("/otc/metrics/daily", {"symbol": "A", "start": SQL, "end": SQL}, ["start", "end"]),
    ("/otc/metrics/daily", {"symbol": "A", "start": "0", "end": "0"}, ["start", "end"]),
    ("/otc/metrics/daily", {"symbol": "A", "as_of": "yesterday", **DAYS}, ["as_of"]),
    ("/otc/metrics/daily", {"symbol": "A", "as_of": "2025-12-06T12:00:00", **DAYS}, ["as_of"]),
    ("/otc/metrics/daily", {"symbol": "A", "as_of": "0001-01-01T00:00+14:00", **DAYS}, ["as_of"]),
    ("/otc/metrics/daily", {"symbol": "A", "limit": "5", **DAYS}, ["limit"]),
    ("/otc/trades", {"symbol": "A", "start": "2025-12-05", "end": "2025-11-24"}, ["end"]),
    ("/otc/trades", {"symbol": "A", "as_of": "2025-12-06T12:00:00Z", **DAYS}, ["as_of"]),
]


@pytest.mark.parametrize(("path", "query", "fields"), QUERIES, ids=str)
def test_a_query_that_cannot_be(
    shared: Api, path: str, query: dict[str, Any], fields: list[str]
) -> None:
    refused(shared.http.get(path, params=query), 422, *fields)


@pytest.mark.parametrize("path", ["/executions", "/dead-letters", "/otc/trades"])
@pytest.mark.parametrize(
    "cursor", ["", "x", "é", SQL, "%", "A" * 500, "A" * 600, "\0", "====", "e30"]
)
def test_a_cursor_that_was_never_issued(shared: Api, path: str, cursor: str) -> None:
    query = {"symbol": "ALDRF", **DAYS} if path == "/otc/trades" else {}
    refused(shared.http.get(path, params={**query, "cursor": cursor}), 422, "cursor")


@pytest.mark.parametrize(
    ("method", "path", "status", "allowed"),
    [
        ("GET", "/", 404, None),
        ("GET", "/executions/", 404, None),
        ("GET", "/executions/a/b/c", 404, None),
        ("GET", "/%2e%2e/etc/passwd", 404, None),
        ("GET", "/\u00e9%00", 404, None),
        ("DELETE", "/executions", 405, "GET, POST"),
        ("PUT", f"/executions/{ID}", 405, "GET"),
        ("GET", f"/executions/{ID}/cancel", 405, "POST"),
        ("POST", "/livez", 405, "GET"),
        ("HEAD", "/executions", 405, "GET, POST"),
        ("TRACE", "/otc/trades", 405, "GET"),
        ("PUT", "/docs", 405, "GET, HEAD"),
        ("FOO", "/openapi.json", 405, "GET, HEAD"),
    ],
)
def test_what_there_is_not(
    shared: Api, method: str, path: str, status: int, allowed: str | None
) -> None:
    answer = shared.http.request(method, path)
    assert answer.headers.get("allow") == allowed
    if method == "HEAD":
        assert (answer.status_code, answer.headers["content-type"]) == (status, PROBLEM)
    else:
        refused(answer, status)
