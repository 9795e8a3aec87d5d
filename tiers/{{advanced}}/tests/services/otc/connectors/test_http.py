"""Pages of JSON, from servers that fail in every way such servers do."""

import csv
import gzip
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from market_spine import dispatcher, leases
from market_spine.schema import execution_events, executions, otc_trades_raw
from market_spine.services.otc.connectors import http
from tests import postgres
from tests.api.serving import Api, serving
from tests.services.otc.connectors import pages
from tests.services.otc.connectors.pages import Answer, Pages, page, status
from tests.support import FIRST_CAPTURE, REPO, Spine, spine_in
from tests.tape import trade

T1, T2, T3 = trade("T1"), trade("T2"), trade("T3")
TRIES = 3


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Pages]:
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setattr(http, "WAITS", (0.0,) * (TRIES - 1))
    with pages.serving_pages() as found:
        yield found


@pytest.fixture
def slept(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds that would have been slept."""
    seconds: list[float] = []
    monkeypatch.setattr(time, "sleep", seconds.append)
    return seconds


def ids(spine: Spine) -> list[tuple[int, str]]:
    """Number and trade id of each raw record."""
    rows = sorted(spine.rows(otc_trades_raw), key=lambda row: row["raw_id"])
    return [(row["source_row"], row["payload"].partition('trade_id":"')[2][:2]) for row in rows]


def fetch(spine: Spine, server: Pages, *script: Answer, **params: object) -> dict[str, Any]:
    server.script = [*script]
    return spine.run("otc_ingest", connector="http", **{"path": server.url, **params})


def fails(spine: Spine, server: Pages, *script: Answer, **params: object) -> str:
    """Check that a capture fails, and keeps nothing; returns why."""
    server.script = [*script]
    ended = spine.submit("otc_ingest", connector="http", **{"path": server.url, **params})
    assert (ended.code, ended.json["status"]) == (1, "failed")
    assert spine.count(otc_trades_raw) == 0
    return str(ended.json["error"])


def test_the_pages_of_a_server_say_what_a_file_says(
    spine: Spine, server: Pages, tmp_path_factory: pytest.TempPathFactory, store: str
) -> None:
    with (REPO / "data/otc_sample.csv").open(newline="") as file:
        rows: list[dict[str, str | None]] = [
            {name: text or None for name, text in row.items() if name is not None}
            for row in csv.DictReader(file)
            if None not in row and None not in row.values()
        ]
    script = [
        page(*rows[first : first + 400], following=f"?page={first}")
        for first in range(0, len(rows), 400)
    ]
    fetch(spine, server, *script, page(), captured_at=FIRST_CAPTURE)
    spine.settle()
    folder = tmp_path_factory.mktemp("file")
    with (folder / "tape.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    over_http = spine.state()
    assert len(spine.silver()) > 3000
    with spine_in(folder, store) as other:
        other.run("otc_ingest", path="tape.csv", captured_at=FIRST_CAPTURE)
        other.settle()
        assert other.state() == over_http
    spine.restart()


def test_next_is_a_url_or_a_cursor(spine: Spine, server: Pages) -> None:
    more = [f"{server.origin}/more?x=1", "/2?y=1", "?z=1", "abc+/=", 7]
    script = [page(trade(f"T{n}"), following=following) for n, following in enumerate(more, 1)]
    fetch(
        spine, server, *script, page(trade("T6")), path=f"{server.url}?key=k", end_date="2025-11-25"
    )
    assert server.asked == [
        "/trades?key=k&end=2025-11-25",
        "/more?x=1",
        "/2?y=1",
        "/2?z=1",
        "/trades?key=k&end=2025-11-25&cursor=abc%2B%2F%3D",
        "/trades?key=k&end=2025-11-25&cursor=7",
    ]
    assert ids(spine) == [(n, f"T{n}") for n in range(1, 7)]
    assert {row["source_file"] for row in spine.rows(otc_trades_raw)} == {server.url}


def test_days_are_asked_for_and_other_days_are_passed_over(spine: Spine, server: Pages) -> None:
    late = trade("T9", trade_ts="2025-11-26T15:00:00Z")
    fetch(spine, server, page(T1, late), start_date="2025-11-24", end_date="2025-11-25")
    assert server.asked == ["/trades?start=2025-11-24&end=2025-11-25"]
    assert [found for _, found in ids(spine)] == ["T1"]


def test_values_are_kept_as_they_were_written(spine: Spine, server: Pages) -> None:
    text = (
        '{"records": [{"trade_id": "T1", "price": 0.10, "size": 1E2, "symbol": null, "x": true,'
        ' "y": [1.50, "\\ud83d"], "z": 12345678901234567890, "half": "\\ud83d"}, 3.0, "T2"],'
        ' "next": null}'
    )
    fetch(spine, server, pages.body(text.replace(', "\\ud83d"]', "]").encode()))
    assert [row["payload"] for row in spine.rows(otc_trades_raw)] == [
        '{"half":"?","price":"0.10","size":"1E2","symbol":"","trade_id":"T1","x":"true",'
        '"y":"[1.50]","z":"12345678901234567890"}',
        '{"":"3.0"}',
        '{"":"T2"}',
    ]
    spine.settle()
    assert [field for field, _ in spine.faults()] == ["row", "row", "row"]


FAULTS: dict[str, Answer] = {
    "reset": pages.reset,
    "silent": pages.silent,
    "dripping": pages.dripping,
    "half": pages.half(T2, T3),
    "half unnoticed": pages.half_unnoticed(T2, T3),
    "429": status(429),
    "500": status(500, b"sorry"),
    "503": status(503),
    "garbage": pages.body(b"<html>\xff\0 maintenance"),
    "nothing": pages.body(b""),
    "deep": pages.body(b'{"records":' + b"[" * 200_000),
    "another shape": pages.body(b'{"data": [], "next": null}'),
    "no next": pages.body(b'{"records": []}'),
    "records of another kind": pages.body(b'{"records": "none", "next": null}'),
    "next of another kind": pages.body(b'{"records": [], "next": "http://host:port/"}'),
    "bad compression": status(
        200, gzip.compress(b"{}")[:-9] + b"oops" * 9, Content_Encoding="gzip"
    ),
    "back to itself": page(T2, following="?page=2"),
    "back to the first": page(T2, following="/trades"),
}


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lose patience at once with what would take for ever."""
    monkeypatch.setattr(http, "READ_SECONDS", 0.5)
    monkeypatch.setattr(http, "PAGE_SECONDS", 0.5)


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("fault", FAULTS)
def test_a_page_is_asked_for_until_it_is_good(spine: Spine, server: Pages, fault: str) -> None:
    bad = FAULTS[fault]
    fetch(spine, server, page(T1, following="?page=2"), bad, bad, page(T2, T3))
    assert server.asked == ["/trades", "/trades?page=2", "/trades?page=2", "/trades?page=2"]
    assert ids(spine) == [(1, "T1"), (2, "T2"), (3, "T3")]


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("fault", FAULTS)
def test_a_page_that_stays_bad_is_given_up(spine: Spine, server: Pages, fault: str) -> None:
    script = [page(T1, following="?page=2"), *[FAULTS[fault]] * TRIES]
    error = fails(spine, server, *script, page(T2))
    assert len(server.asked) == 1 + TRIES
    assert error.startswith(f"{server.url}: page 2: ")
    assert f"{TRIES} times; try again" in error


def test_a_server_that_is_not_there_is_given_up(spine: Spine, server: Pages) -> None:
    server.server_close()
    assert "page 1: has not come (" in fails(spine, server)


def test_waits_grow_and_are_as_long_as_the_server_says(
    spine: Spine, server: Pages, monkeypatch: pytest.MonkeyPatch, slept: list[float]
) -> None:
    monkeypatch.setattr(http, "WAITS", (1.0, 2.0, 4.0, 8.0, 16.0))
    asks = ["", "7", "9999999", "tomorrow", "1"]
    fetch(spine, server, *[status(429, Retry_After=ask) for ask in asks], page(T1))
    assert slept == [1.0, 7.0, http.LONGEST_WAIT, 8.0, 16.0]


@pytest.mark.parametrize("code", [204, 400, 401, 403, 404, 408, 410, 422])
def test_other_answers_are_errors_at_once(spine: Spine, server: Pages, code: int) -> None:
    content = b"" if code == 204 else b"<b>what \n is</b> " + b"x" * 1000
    error = fails(spine, server, status(code, content), page(T1))
    assert len(server.asked) == 1
    assert error.startswith(f"{server.url}: page 1: the server answers {code}")
    assert ("SPINE_HTTP_TOKEN" in error) is (code in (401, 403))
    assert ("<b>what is</b> xxx" in error, len(error) < 500) == (code != 204, True)


def test_a_page_that_is_served_twice_counts_once(spine: Spine, server: Pages) -> None:
    fetch(
        spine,
        server,
        page(T1, following="a"),
        page(T1, following="b"),
        page(following="c"),
        page(T2, following="d"),
        page(T2),
    )
    assert ids(spine) == [(1, "T1"), (2, "T2")]


@pytest.mark.parametrize("rows", [[], [T1]])
def test_pages_that_bring_nothing_new_come_to_an_end(
    spine: Spine, server: Pages, rows: list[object]
) -> None:
    error = fails(spine, server, *[page(*rows, following=n) for n in range(1, 300)])
    assert "in a row without a new record" in error
    assert len(server.asked) <= http.MOST_STALE + 2


def test_a_page_that_is_too_large_is_refused(
    spine: Spine, server: Pages, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http, "LARGEST_PAGE", 100_000)
    bomb = gzip.compress(b" " * 200_000)
    for large in (pages.body(b" " * 200_000), status(200, bomb, Content_Encoding="gzip")):
        error = fails(spine, server, large)
        assert "page 1: is larger than 100,000 bytes" in error
    assert len(server.asked) == 2


def test_no_other_server_is_asked_and_none_learns_the_token(
    spine: Spine, server: Pages, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPINE_HTTP_TOKEN", "hush-hush")
    monkeypatch.setenv("SPINE_HTTP_SOURCES", f"https://vendor.example/ {server.origin}/trades")
    spine.restart()
    with pages.serving_pages() as other:
        for place in (other.url, other.url.removeprefix("http:"), f"http://me@{server.url[7:]}"):
            assert "another server" in fails(spine, server, page(T1, following=place))
        error = fails(spine, server, page(T1, following="/admin"))
        assert "not beneath SPINE_HTTP_SOURCES" in error
        error = fails(spine, server, status(302, Location=f"{other.url}?token=secret"))
        assert "no redirect is followed" in error
        assert {*server.tokens} == {"Bearer hush-hush"}
        error = fails(spine, server, status(401, b"no Bearer hush-hush here"))
        assert ("no Bearer … here" in error, "hush" in error) == (True, False)
        assert other.asked == []
        fetch(spine, other, page(T1), path=other.url)
        assert other.tokens == [None]


@pytest.mark.parametrize("token", ["", "two words", "line\nend", "größe"])
def test_a_token_that_is_none_is_refused_and_not_shown(
    spine: Spine, server: Pages, monkeypatch: pytest.MonkeyPatch, token: str
) -> None:
    monkeypatch.setenv("SPINE_HTTP_TOKEN", token)
    monkeypatch.setenv("SPINE_HTTP_SOURCES", server.origin)
    spine.restart()
    error = fails(spine, server)
    assert error == "SPINE_HTTP_TOKEN: is empty, or has characters that no token has"


@pytest.mark.parametrize(
    "path",
    ["trades", "ftp://host/x", "https://", "http://host:port/", "http://u:hush@h/"],
)
def test_what_is_no_url_is_refused(spine: Spine, server: Pages, path: str) -> None:
    error = fails(spine, server, path=path)
    assert (error.startswith("http: the path"), "hush" in error) == (True, False)


def test_a_url_is_needed_and_trade_ids_are(spine: Spine, server: Pages) -> None:
    ended = spine.submit("otc_ingest", connector="http")
    assert "must be a URL" in ended.json["error"]
    mapping = spine.folder / "mappings/otc.toml"
    mapping.write_text(mapping.read_text().replace('trade_id = "trade_id"', ""))
    assert "must name the column of trade_id" in fails(spine, server, page(T1))


def test_a_cancel_is_met_between_pages(spine: Spine, server: Pages, store: str) -> None:
    if store == "sqlite":
        pytest.skip("a run keeps whoever wants to write waiting there")

    def cancelling(handler: pages.Handler) -> None:
        (row,) = spine.rows(executions)
        dispatcher.cancel(UUID(str(row["id"])))
        page(T2, following="?page=3")(handler)

    server.script = [page(T1, following="?page=2"), cancelling, page(T3)]
    ended = spine.submit("otc_ingest", connector="http", path=server.url)
    assert ended.json["status"] == "cancelled"
    assert len(server.asked) == 2
    assert spine.count(otc_trades_raw) == 0


def test_what_is_given_up_is_attempted_again_later(spine: Spine, server: Pages, store: str) -> None:
    if store == "sqlite":
        pytest.skip("nothing has a lease there")
    leases.hold()
    try:
        server.script = [*[status(503)] * TRIES, page(T1)]
        dispatcher.submit("otc_ingest", {"connector": "http", "path": server.url})
    finally:
        leases.let_go()
    (row,) = spine.rows(executions)
    assert (row["attempt"], row["error"]) == (2, None)
    assert row["not_before"] is not None
    (told,) = [row for row in spine.rows(execution_events) if row["kind"] == "requeued"]
    assert "page 1: the server answers 503" in str(told["data"])


def test_what_is_refused_is_not_attempted_again(spine: Spine, server: Pages, store: str) -> None:
    if store == "sqlite":
        pytest.skip("nothing has a lease there")
    leases.hold()
    try:
        assert "answers 404" in fails(spine, server)
    finally:
        leases.let_go()
    assert [row["attempt"] for row in spine.rows(executions)] == [1]


# --- through the API ---------------------------------------------------------------------------

LISTED = ["{0}/trades", "{0}/trades/", "{0}/trades/x?a=../b", "{0}/trades?x", "{0}/all/of/it"]
NOT_LISTED = [
    "{0}",
    "{0}/",
    "{0}/trade",
    "{0}/trades2",
    "{0}/all",
    "{0}/trades/../admin",
    "{0}/trades/%2e%2E/admin",
    "{0}/trades/..\\admin",
    "{0}/trades/%3F/../../admin",
    "{0}/trades/\u2025/admin",
    "{0}@evil.example/trades",
    "{0}.evil.example/trades",
    "{0}0/trades",
    "http://me@{1}/trades",
    "HTTP://{1}/trades",
    "http://169.254.169.254/latest",
    "http://localhost/trades",
    "https://{1}/trades",
    "file:///etc/passwd",
    "data/otc_sample.csv",
]


def test_callers_of_the_api_may_name_only_what_is_listed(tmp_path: Path, server: Pages) -> None:
    host = server.origin.removeprefix("http://")
    url = postgres.new_database()

    def accepted(api: Api, path: str) -> bool:
        params = {"connector": "http", "path": path.format(server.origin, host)}
        answer = api.http.post("/executions", json={"pipeline": "otc_ingest", "params": params})
        assert answer.status_code in (202, 422), answer.text
        if answer.status_code == 422:
            (fault,) = answer.json()["errors"]
            assert (fault["field"], "SPINE_HTTP_SOURCES" in fault["detail"]) == (
                "params.path",
                True,
            )
        return bool(answer.status_code == 202)

    listed = f"{server.origin}/trades {server.origin}/all/"
    with serving(tmp_path, url, SPINE_BACKEND="thread", SPINE_HTTP_SOURCES=listed) as api:
        assert [path for path in NOT_LISTED if accepted(api, path)] == []
        assert server.asked == []
        assert [path for path in LISTED if not accepted(api, path)] == []
    with serving(tmp_path, url, SPINE_BACKEND="thread") as api:
        assert not accepted(api, LISTED[0])
    postgres.drop_database(url)
