"""The doctor adds up the connections that the processes may want at once."""

import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import text

from market_spine import database, presence
from market_spine.checks import pool
from market_spine.stores.postgresql import process_id
from tests.fleet import Fleet, fleet_in

BEATS = """
INSERT INTO processes (id, role, started_at, seen_at)
SELECT 'beat ' || number, 'beat', now(), now() FROM generate_series(1, :many) AS number
"""
THREADS = 3
CALLERS = 8
SECONDS = 3.0


def found(fleet: Fleet) -> list[dict[str, Any]]:
    told: list[dict[str, Any]] = fleet.spine("doctor", "--json").json
    return [one for one in told if one["check"] == "pool"]


def sessions() -> Counter[str]:
    """How many connections each process has, by its name."""
    with database.snapshot() as connection:
        return Counter({row[0]: row[1] for row in connection.execute(pool.SESSIONS) if row[0]})


def roles() -> dict[str, str]:
    with database.snapshot() as connection:
        return {process.id: process.role for process in presence.alive(connection)}


def call(address: str) -> None:
    deadline = time.monotonic() + SECONDS
    with httpx.Client(base_url=address, trust_env=False, timeout=60) as http:
        while time.monotonic() < deadline:
            days = {"start_date": "2025-11-24", "end_date": "2025-11-28"}
            body = {"pipeline": "otc_backfill_range", "params": days, "on_conflict": "queue"}
            assert http.post("/executions", json=body).status_code == 202
            assert http.get("/executions").status_code == 200


def test_no_process_wants_more_than_it_is_counted_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPINE_API_THREADS", str(THREADS))
    with fleet_in(tmp_path, SPINE_API_THREADS=str(THREADS)) as fleet:
        fleet.mended(workers=1, relays=1, beats=1, apis=1)
        fleet.until(lambda: len(roles()) == 4 and fleet.alive("api")[0].address)
        address = fleet.alive("api")[0].address
        assert address
        most: Counter[str] = Counter()
        with ThreadPoolExecutor(CALLERS) as callers:
            calls = [callers.submit(call, address) for _ in range(CALLERS)]
            while not all(one.done() for one in calls):
                most |= sessions()
            for one in calls:
                one.result()
        known = roles()
        wanted = {"api": THREADS, **pool.WANTED}
        mine = process_id()
        counted = {name: (known.get(name, "api"), most[name]) for name in most if name != mine}
        assert sorted(role for role, _ in counted.values()) == [
            *("api", "beat", "relay", "worker", "worker")
        ]
        for role, connections in counted.values():
            assert connections <= wanted[role], counted


def test_what_would_not_fit_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with fleet_in(tmp_path) as fleet:
        fleet.mended(workers=1, relays=1, apis=1)
        fleet.until(lambda: len(roles()) == 3 and len(sessions()) >= 4)  # one of them the API's
        assert found(fleet) == []
        with database.transaction() as connection:
            let_in = connection.execute(pool.LET_IN).scalar_one()
            assert let_in < int(connection.execute(text("SHOW max_connections")).scalar_one())
            connection.execute(text(BEATS), {"many": let_in})
        (told,) = found(fleet)
        parts = f"1 api with 16, {let_in} beat with 1, 1 relay with 2, 2 worker with 3"
        assert parts in told["what"]
        assert f"lets in {let_in}" in told["what"]
        assert "SPINE_API_THREADS" in told["todo"]
        monkeypatch.setenv("SPINE_METRICS_PORT", "9464")
        fleet.spine.restart()
        (told,) = found(fleet)
        assert "1 api with 17" in told["what"]
