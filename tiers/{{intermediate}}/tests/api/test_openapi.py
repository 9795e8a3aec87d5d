"""The OpenAPI document: complete, with examples, and true."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from market_spine import pipelines
from tests.api.serving import PROBLEM, Api

ENDPOINTS = {
    "POST /executions",
    "GET /executions",
    "GET /executions/{execution_id}",
    "POST /executions/{execution_id}/cancel",
    "GET /executions/{execution_id}/events",
    "GET /dead-letters",
    "GET /livez",
    "GET /readyz",
    "GET /otc/metrics/daily",
    "GET /otc/trades",
}
# A schema cannot say that two dates are in order, who issued a cursor, or what a key was used for.
ATTACK = """
[[operations]]
include-name = [
    "POST /executions", "GET /executions", "GET /dead-letters", "GET /otc/metrics/daily",
    "GET /otc/trades",
]
checks.positive_data_acceptance.expected-statuses = [200, 202, 404, 409, 422]
"""


@pytest.fixture(scope="module")
def document(shared: Api) -> dict[str, Any]:
    found: dict[str, Any] = shared.get("/openapi.json")
    return found


def operations(document: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield f"{method.upper()} {path}", operation


def has_example(document: dict[str, Any], described: dict[str, Any]) -> bool:
    """Whether a parameter or a body shows what it looks like."""
    schema = described.get("schema", {})
    if "$ref" in schema:
        schema = document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    return bool(described.get("example") or schema.get("examples"))


def test_it_has_every_endpoint_with_its_words(document: dict[str, Any]) -> None:
    found = dict(operations(document))
    assert found.keys() >= ENDPOINTS
    named = [operation["operationId"] for operation in found.values()]
    assert len(set(named)) == len(named)
    for operation in found.values():
        assert operation["summary"]
        assert operation["description"]
        assert operation["tags"]


def test_everything_in_it_has_an_example(document: dict[str, Any]) -> None:
    for name in ENDPOINTS:
        operation = dict(operations(document))[name]
        for parameter in operation.get("parameters", []):
            assert has_example(document, parameter), (name, parameter["name"])
            assert parameter["description"], (name, parameter["name"])
        contents = [operation.get("requestBody", {}), *operation["responses"].values()]
        for content in contents:
            for media_type, described in content.get("content", {}).items():
                assert has_example(document, described), (name, media_type)


def test_whatever_fails_is_a_problem(document: dict[str, Any]) -> None:
    for name, operation in operations(document):
        for status, response in operation["responses"].items():
            assert "HTTPValidationError" not in str(response)
            if status >= "4":
                ((media_type, described),) = response["content"].items()
                assert media_type == PROBLEM, (name, status)
                assert described["schema"]["$ref"].endswith("/Problem")
                assert described["example"]["status"] == int(status)
                assert ("Retry-After" in response.get("headers", {})) is (status == "503")


def test_the_params_of_every_pipeline_are_in_it(document: dict[str, Any]) -> None:
    """Those of a pipeline that a team adds, too."""
    variants = document["components"]["schemas"]["Submission"]["anyOf"]
    found = {variant["title"]: variant["properties"]["params"] for variant in variants}
    assert found.keys() == {*pipelines.names(), "slow"}
    assert found["otc_backfill_range"]["required"] == ["start_date", "end_date"]
    assert found["slow"]["properties"].keys() == {"n"}


def test_its_documentation_is_shown(shared: Api) -> None:
    answer = shared.http.get("/docs")
    assert answer.headers["content-type"].startswith("text/html")
    assert "/openapi.json" in answer.text


def test_it_survives_whatever_it_allows(
    shared: Api, document: dict[str, Any], tmp_path: Path
) -> None:
    """Schemathesis: what it permits, what it forbids, and sequences of calls; every check."""
    shared.go()
    shared.run("otc_backfill_range", start_date="2025-11-24", end_date="2025-12-05")
    config = tmp_path / "schemathesis.toml"
    config.write_text(ATTACK)
    attack = subprocess.run(
        [
            *(sys.executable, "-m", "schemathesis.cli", "--config-file", str(config)),
            *("run", f"{shared.url}/openapi.json", "--checks", "all", "--max-examples", "50"),
            *("--generation-deterministic", "--continue-on-failure", "--no-color"),
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert attack.returncode == 0, attack.stdout[-10_000:] + attack.stderr
    assert f"Tested: {len([*operations(document)])}" in attack.stdout
    for phase in ("Examples", "Coverage", "Fuzzing", "Stateful"):
        assert f"✅ {phase}" in attack.stdout
