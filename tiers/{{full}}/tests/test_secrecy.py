"""Secrets come from the environment or from files, and no line of a log has one.

What the whole run logs is looked through when it ends, see `conftest.py`; here is what would show
a secret most easily, and that a line which does is found.
"""

import json
import logging
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from pydantic import ValidationError

from market_spine.observability.logs import JsonLines
from market_spine.settings import Settings
from tests import postgres, secrecy
from tests.api.serving import add, serving
from tests.fleet import fleet_in
from tests.support import Spine

LOGS_IT = """
import logging
from fastapi import APIRouter, Request

router = APIRouter()

@router.get("/logs")
def logs(request: Request) -> None:
    logging.getLogger("own").warning("it sent %s", request.headers["authorization"])
"""


@pytest.fixture(scope="module")
def store() -> str:
    """Settings are the same with every store."""
    return "sqlite"


@pytest.fixture
def listening() -> Iterator[list[str]]:
    """What is found from now on, which is found on purpose."""
    before = len(secrecy.told)
    yield secrecy.told
    del secrecy.told[before:]


def test_a_secret_in_a_log_is_found(tmp_path: Path, listening: list[str]) -> None:
    add(tmp_path, "routes", "logs", LOGS_IT)
    made_up = "spine_" + "0" * 43
    with serving(tmp_path, postgres.new_database()) as api:
        assert secrecy.PASSWORD in api.database
        assert api.http.get("/logs", headers={"Authorization": f"Bearer {made_up}"}).is_success
        secrecy.heed_files(tmp_path)
        assert [made_up in line for line in listening] == [True]
        api.expect_in_log("it sent")
    assert len(listening) == 2


def test_no_process_logs_the_password_of_a_server(tmp_path: Path) -> None:
    broker, collector = "redis://:hush-broker@127.0.0.1:1/0", "http://me:hush-collector@127.0.0.1:1"
    with fleet_in(tmp_path, REDIS_URL=broker, OTEL_EXPORTER_OTLP_ENDPOINT=collector) as fleet:
        fleet.worker()
        fleet.relay()
        fleet.api()
        fleet.start("beat")
        (api,) = fleet.alive("api")
        fleet.until(lambda: api.address)
        assert httpx.get(f"{api.address}/executions", trust_env=False).is_success
        fleet.until(lambda: "redis" in fleet.said and "since http://127.0.0.1:1/" in fleet.said)
        secrecy.heed_files(tmp_path)
    assert secrecy.told == []


@pytest.mark.parametrize("password", ["hush", "hush%2Fhush", "hush@hush", 'hush"hush'])
def test_a_line_has_the_url_without_its_user(password: str) -> None:
    said = f"cannot reach http://me:{password}@host:1/path or nobody@host"
    line = JsonLines().format(logging.LogRecord("own", logging.ERROR, "", 0, said, None, None))
    assert json.loads(line)["event"] == "cannot reach http://host:1/path or nobody@host"


def test_a_setting_that_is_wrong_is_not_repeated() -> None:
    with pytest.raises(ValidationError) as raised:
        Settings(redis_url="valkey://:hush-broker@127.0.0.1/0")
    assert ("redis_url" in str(raised.value), "hush" in str(raised.value)) == (True, False)


# --- from files ----------------------------------------------------------------------------------


@pytest.fixture
def secrets(spine: Spine, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of secrets, for commands that have no other database."""
    monkeypatch.delenv("DATABASE_URL")
    monkeypatch.setenv("SPINE_SECRETS", "secrets")
    folder = spine.folder / "secrets"
    folder.mkdir()
    spine.restart()
    return folder


def test_a_secret_may_be_a_file(
    spine: Spine, secrets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As Kubernetes lays it there: a link into a folder that is exchanged as a whole."""
    (secrets / "..1").mkdir()
    (secrets / "..1" / "DATABASE_URL").write_text("sqlite:///kept.db\n")
    (secrets / "DATABASE_URL").symlink_to("..1/DATABASE_URL")
    spine.ok("executions")
    assert (spine.folder / "kept.db").exists()
    monkeypatch.setenv("DATABASE_URL", "sqlite:///nearer.db")
    spine.restart()
    spine.ok("executions")
    assert (spine.folder / "nearer.db").exists()


def test_a_file_that_cannot_be_read_is_named(spine: Spine, secrets: Path) -> None:
    (secrets / "DATABASE_URL").write_bytes(b"sqlite:///hush-\xff.db")
    ended = spine("executions").fails(2, "SPINE_SECRETS", "secrets", "utf-8")
    assert "hush" not in ended.err
