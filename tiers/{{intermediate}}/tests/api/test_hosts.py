"""A web page that lets its own name lead to this machine must not reach the API."""

from pathlib import Path

import pytest

from tests import postgres
from tests.api.serving import Api, serving


@pytest.mark.parametrize("path", ["/executions", "/livez", "/nowhere"])
def test_what_was_meant_for_another_host_is_not_answered(shared: Api, path: str) -> None:
    for host in ("rebound.example", "rebound.example:8000", "127.0.0.1.example", ""):
        answer = shared.http.get(path, headers={"Host": host})
        assert answer.status_code == 421, host
        assert answer.headers["content-type"] == "application/problem+json"
        told = answer.json()["detail"]
        assert f"'{host}'" in told
        assert "SPINE_API_HOSTS" in told


def test_the_names_of_this_machine_are_known(shared: Api) -> None:
    for host in ("localhost", "LOCALHOST:8000", "127.0.0.1", "[::1]", "[::1]:8000"):
        assert shared.http.get("/livez", headers={"Host": host}).status_code == 200, host


@pytest.mark.parametrize(
    ("hosts", "status"), [("api.example, localhost", 200), ("*", 200), ("localhost", 421)]
)
def test_further_names_are_a_setting(tmp_path: Path, hosts: str, status: int) -> None:
    url = postgres.new_database()
    try:
        with serving(tmp_path, url, SPINE_API_HOSTS=hosts, SPINE_API_HOST="0.0.0.0") as api:
            port = api.url.rpartition(":")[2]
            asked = f"http://127.0.0.1:{port}/livez"
            answer = api.http.get(asked, headers={"Host": "api.example"})
            assert answer.status_code == status
    finally:
        postgres.drop_database(url)
