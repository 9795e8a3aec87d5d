"""What is operated through the API: letters are retried, and the system tells how it is."""

from typing import Any

import pytest

from tests import postgres
from tests.api.serving import PROBLEM, Api


def fail(api: Api, name: str) -> dict[str, Any]:
    """The letter of an execution that cannot succeed, because its file is not there."""
    ended = api.follow(api.submit("otc_ingest", path=f"data/{name}.csv")["id"])
    assert ended["status"] == "failed"
    (letter,) = (one for one in letters(api) if one["execution_id"] == ended["id"])
    return letter


def letters(api: Api) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = api.get("/dead-letters")["items"]
    return found


def test_a_letter_is_retried_once(api: Api) -> None:
    letter = fail(api, "nowhere")
    (api.folder / "data/nowhere.csv").write_bytes((api.folder / "data/otc_sample.csv").read_bytes())
    answer = api.http.post(f"/dead-letters/{letter['id']}/retry")
    assert answer.status_code == 202
    execution = answer.json()
    assert answer.headers["location"] == f"/executions/{execution['id']}"
    assert execution["retry_of"] == letter["execution_id"]
    assert api.follow(execution["id"])["status"] == "succeeded"
    again = api.http.post(f"/dead-letters/{letter['id']}/retry").json()
    assert again["id"] == execution["id"]
    assert letters(api) == []


def test_many_letters_are_retried_from_the_newest_on(api: Api) -> None:
    first, second, third = (fail(api, name) for name in ("a", "b", "c"))

    def retried(**selection: object) -> list[dict[str, Any]]:
        answer = api.http.post("/dead-letters/retry", json=selection)
        assert answer.status_code == 202, answer.text
        found: list[dict[str, Any]] = answer.json()["items"]
        return found

    assert retried(kind="record") == []
    (older,) = retried(before=second["id"])
    assert older["dead_letter_id"] == first["id"]
    # Before what the retry that has begun may leave.
    both = retried(kind="execution", limit=2, before=older["execution_id"])
    assert [one["dead_letter_id"] for one in both] == [third["id"], second["id"]]
    for one, letter in zip([older, *both], [first, third, second], strict=True):
        assert one["error"] is None
        ended = api.follow(one["execution_id"])
        assert (ended["retry_of"], ended["status"]) == (letter["execution_id"], "failed")


def test_health_is_told_as_json_and_to_prometheus(api: Api) -> None:
    fail(api, "nowhere")
    api.run("otc_normalize")
    found = api.get("/health/metrics")
    counts = {one["pipeline"]: (one["succeeded"], one["failed"]) for one in found["work"]}
    assert counts == {"otc_ingest": (0, 1), "otc_normalize": (1, 0)}
    assert found["open_dead_letters"] == {"execution": 1, "record": 0}
    text = api.http.get("/health/metrics", headers={"Accept": "text/plain"})
    assert text.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert 'spine_dead_letters_open{kind="execution"} 1' in text.text.splitlines()


@pytest.mark.parametrize("role", ["worker", "relay", "beat"])
def test_a_role_is_ready_when_one_of_it_was_heard_of_lately(api: Api, role: str) -> None:
    tell = f"INSERT INTO processes VALUES ('it', '{role}', now(), now() - interval '31 seconds')"
    absent = api.http.get(f"/readyz/{role}")
    assert (absent.status_code, absent.headers["content-type"]) == (503, PROBLEM)
    assert f"spine {role}" in absent.json()["detail"]
    with postgres.connect(api.database) as connection:
        connection.execute(tell.encode())
        assert api.http.get(f"/readyz/{role}").status_code == 503
        connection.execute(b"UPDATE processes SET seen_at = now()")
    assert api.get(f"/readyz/{role}") == {"role": role, "processes": 1}
