"""Keys of the API, through the command line and HTTP."""

import pytest
from fastapi.testclient import TestClient
from typer.testing import CliRunner

from market_spine.api.app import create_app
from market_spine.cli import build_app


def spine(*words: str) -> str:
    ended = CliRunner().invoke(build_app(), words, catch_exceptions=False)
    assert ended.exit_code == 0, ended.output
    return ended.stdout.strip()


def bearer(secret: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {secret}"}


@pytest.mark.usefixtures("client")
def test_a_key_opens_what_its_scopes_name() -> None:
    secret = spine("keys", "make", "ann", "--scope", "read")
    with TestClient(create_app(), base_url="http://localhost") as client:
        refused = client.get("/executions")
        assert refused.status_code == 401
        assert refused.headers["www-authenticate"].startswith("Bearer")
        assert "spine keys make" in refused.json()["detail"]
        assert refused.headers["x-content-type-options"] == "nosniff"
        assert client.get("/livez").status_code == 200
        assert client.get("/executions", headers=bearer(secret)).status_code == 200
        missing = client.post("/executions", headers=bearer(secret), json={})
        assert missing.status_code == 403
        assert "submit" in missing.json()["detail"]
    assert secret not in spine("keys", "list", "--json")
    spine("keys", "revoke", "ann")


@pytest.mark.usefixtures("client")
def test_elsewhere_than_on_loopback_nobody_is_let_in_without_a_key() -> None:
    with TestClient(create_app("0.0.0.0"), base_url="http://localhost") as client:
        assert client.get("/executions").status_code == 401
        assert client.get("/readyz").status_code == 200
