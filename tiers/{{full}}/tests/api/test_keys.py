"""Keys of the API, through the command line and HTTP."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import postgres
from tests.api.serving import Api, serving
from tests.support import REPO


@pytest.fixture
def anywhere(tmp_path: Path) -> Iterator[Api]:
    """The API, bound to every network, over a database of its own."""
    url = postgres.new_database()
    try:
        with serving(tmp_path, url, SPINE_API_HOST="0.0.0.0", SPINE_API_HOSTS="*") as found:
            yield found
    finally:
        postgres.drop_database(url)


def spine(api: Api, *words: str) -> str:
    """What a command over the same database prints."""
    code = "from market_spine.cli import main; main()"
    command = [sys.executable, "-c", code, *words]
    at_home = {"DATABASE_URL": api.database, "SPINE_MIGRATIONS": str(REPO / "migrations")}
    ended = subprocess.run(
        command, env={**os.environ, **at_home}, cwd=api.folder, capture_output=True, text=True
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout.strip()


def status_becomes(api: Api, status: int, headers: dict[str, str]) -> None:
    deadline = time.monotonic() + 30
    while api.http.get("/executions", headers=headers).status_code != status:
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_a_key_opens_what_its_scopes_name_until_it_is_revoked(anywhere: Api) -> None:
    refused = anywhere.http.get("/executions")
    assert refused.status_code == 401
    assert refused.headers["www-authenticate"].startswith("Bearer")
    assert refused.headers["x-content-type-options"] == "nosniff"
    assert "spine keys make" in refused.json()["detail"]
    assert anywhere.http.get("/livez").status_code == 200
    assert anywhere.http.get("/readyz").status_code == 200
    secret = spine(anywhere, "keys", "make", "ann", "--scope", "read", "--scope", "submit")
    held = {"Authorization": f"Bearer {secret}"}
    status_becomes(anywhere, 200, held)
    body = {"pipeline": "slow", "params": {}}
    submitted = anywhere.http.post("/executions", headers=held, json=body)
    assert submitted.status_code == 202, submitted.text
    place = submitted.headers["location"]
    events = anywhere.http.get(f"{place}/events", headers=held).json()["items"]
    assert events[0]["data"]["by"] == "ann"
    cancelled = anywhere.http.post(f"{place}/cancel", headers=held)
    assert cancelled.status_code == 403
    assert "operate" in cancelled.json()["detail"]
    anywhere.go()
    assert secret not in spine(anywhere, "keys", "list", "--json") + anywhere.log
    spine(anywhere, "keys", "revoke", "ann")
    status_becomes(anywhere, 401, held)
