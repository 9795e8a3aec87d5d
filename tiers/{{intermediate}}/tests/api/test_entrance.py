"""What a request may have read: what lies beneath a folder that is a setting, and nothing else."""

import os
from pathlib import Path
from typing import Any

import pytest

from tests import postgres
from tests.api.serving import PROBLEM, Api, serving

INSIDE = [
    "data/otc_sample.csv",
    "./data/../data//otc_sample.csv",
    "data",
    "data/*.csv",
    "data/[o]tc_sample.csv",
    "data/nothing.csv",
    "data/nothing/*",
]
OUTSIDE = [
    "/etc/passwd",
    "/nothing/at/all",
    "//etc/passwd",
    "/",
    ".",
    "..",
    "mappings/otc.toml",
    "database",
    "data/../mappings/otc.toml",
    "data/nothing/../../mappings/otc.toml",
    "file:///etc/passwd",
    "*",
    "*.csv",
    "d*ta/*.csv",
    "/*/passwd",
    "data/../*",
    "data/*/../../mappings/otc.toml",
    "data/nothing/*/../../../mappings/*",
    "linked/passwd",
    "data/linked",
    "data/linked/passwd",
    "data/linked/*",
    "data/linked/../passwd",
    "data/l*/passwd",
    "data/l*",
    "data/folder",
    "data/folder/passwd",
]
SOURCE_PIPELINES: dict[str, dict[str, str]] = {
    "otc_ingest": {},
    "otc_backfill_day": {"day": "2025-11-24"},
    "otc_backfill_range": {"start_date": "2025-11-24", "end_date": "2025-11-24"},
}


def refused(api: Api, pipeline: str, **params: str) -> str:
    """Check that a submit is refused for its path, and wrote nothing; returns why."""
    answer = api.http.post("/executions", json={"pipeline": pipeline, "params": params})
    assert (answer.status_code, answer.headers["content-type"]) == (422, PROBLEM), params
    problem: dict[str, Any] = answer.json()
    assert [fault["field"] for fault in problem["errors"]] == ["params.path"]
    assert api.get("/executions")["items"] == []
    return str(problem["errors"][0]["detail"])


def test_only_what_lies_beneath_its_folder_may_be_named(tmp_path: Path) -> None:
    url = postgres.new_database()
    with serving(tmp_path, url) as api:
        for link in ("linked", "data/linked"):
            (tmp_path / link).symlink_to("/etc")
        (tmp_path / "data/folder").mkdir()
        (tmp_path / "data/folder/passwd").symlink_to("/etc/passwd")
        for path in OUTSIDE:
            reason = refused(api, "otc_ingest", path=path)
            assert "SPINE_API_SOURCES" in reason or "'..' behind" in reason, (path, reason)
        for path in ("", "x" * 5_000, "data/" + "x" * 5_000):
            assert "character" in refused(api, "otc_ingest", path=path)
        for pipeline, params in SOURCE_PIPELINES.items():
            refused(api, pipeline, path="/etc/passwd", **params)
        for link in ("data/linked", "data/folder/passwd"):
            (tmp_path / link).unlink()
        for path in INSIDE:
            ended = api.follow(api.submit("otc_ingest", None, path=path)["id"])
            if "nothing" in path:
                assert "there is no" in ended["error"]
            else:
                assert (ended["status"], ended["result"]["records"] > 0) == ("succeeded", True)
    postgres.drop_database(url)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no such pipes")
def test_a_pipe_keeps_no_worker(tmp_path: Path) -> None:
    (tmp_path / "tapes").mkdir()
    os.mkfifo(tmp_path / "tapes" / "pipe.csv")
    url = postgres.new_database()
    with serving(tmp_path, url, SPINE_API_SOURCES="tapes", SPINE_WORKER_THREADS="1") as api:
        refused(api, "otc_ingest", path="data/otc_sample.csv")
        for path in ("tapes/pipe.csv", "tapes/*.csv", "tapes", f"tapes/{'x' * 300}"):
            ended = api.follow(api.submit("otc_ingest", None, path=path)["id"])
            reason = "too long" if "xx" in path else "pipe.csv: not a regular file"
            assert (ended["status"], reason in ended["error"]) == ("failed", True), ended
        assert api.run("otc_normalize")
    postgres.drop_database(url)


def test_what_is_no_path_of_a_file_is_free(api: Api) -> None:
    days = {"start_date": "2025-11-24", "end_date": "2025-11-24"}
    ran = api.run("otc_ingest", connector="synthetic", path="7/20", **days)
    assert ran["result"]["records"] == 20
    for name, value in (("source", "../mappings/otc"), ("source", ".."), ("connector", "../file")):
        ended = api.follow(api.submit("otc_ingest", None, **{name: value})["id"])
        assert (ended["status"], f"'{value}'" in ended["error"]) == ("failed", True)
