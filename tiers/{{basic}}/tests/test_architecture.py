"""The architecture: planes that stay apart, and what is found by scanning a folder."""

import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from market_spine.services.otc import connectors
from tests.support import REPO, Spine
from tests.tape import trade


def test_the_import_contracts_hold() -> None:
    checked = subprocess.run(
        [Path(sysconfig.get_path("scripts")) / "lint-imports", "--no-cache"],
        cwd=REPO,
        capture_output=True,
        text=True,
        check=False,
    )
    assert checked.returncode == 0, checked.stdout
    assert "kept" in checked.stdout


def test_the_control_plane_starts_without_the_execution_plane() -> None:
    """Neither the runner nor a service is loaded to submit or to look."""
    script = """
import sys
from market_spine import cli, dispatcher, ledger, pipelines
cli.build_app()
names = pipelines.names()
assert all(pipelines.find(name).name == name for name in names), names
found = [name for name in sys.modules if name.startswith("market_spine.")]
print([n for n in found if n == "market_spine.runner" or n.startswith("market_spine.services")])
"""
    found = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert found.stdout.strip() == "[]"


def test_a_pipeline_is_one_new_file(spine: Spine) -> None:
    assert "doubles" not in {row["name"] for row in spine.json("pipelines")}
    spine.pipeline("doubles", "return {'twice': 2 * params.n}")
    assert "doubles" in {row["name"] for row in spine.json("pipelines")}
    assert spine.run("doubles", n=21)["result"] == {"twice": 42}
    spine.submit("doubles", n="many").fails(2, "doubles", "n")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("import no_such_module", "no_such_module"),
        ("def broken(:", "SyntaxError"),
        ("1 / 0", "ZeroDivisionError"),
        ("NOTHING = 1", "PIPELINE"),
    ],
)
def test_a_pipeline_that_cannot_be_loaded_is_refused_alone(
    text: str, reason: str, spine: Spine
) -> None:
    (spine.folder / "pipelines" / "broken.py").write_text(text)
    spine.submit("broken").fails(2, "broken", reason)
    listed = {row["name"]: row for row in spine.json("pipelines")}
    assert reason in listed["broken"]["description"]
    assert "BROKEN" not in listed["otc_normalize"]["description"]
    spine.take(trade())
    assert spine.day()["trade_count"] == 1


CONNECTOR = """
from market_spine.services.otc.connector import Record, matching

def fetch(request):
    rows = [{name: text for name, text in ROW.items()}]
    return matching((Record("pigeon", n, row) for n, row in enumerate(rows, 1)), request)
"""


def test_a_connector_is_one_new_module(spine: Spine, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = spine.folder / "connectors"
    folder.mkdir()
    (folder / "pigeon.py").write_text(f"ROW = {trade()!r}\n{CONNECTOR}")
    monkeypatch.setattr(connectors, "__path__", [*connectors.__path__, str(folder)])
    spine.run("otc_ingest", connector="pigeon")
    spine.run("otc_ingest", connector="pigeon", symbols="BOLT")
    spine.settle()
    assert [row["result"].get("records") for row in spine.executions()[:2]] == [1, 0]
    assert {*spine.silver()} == {"T1"}


def test_a_source_is_one_mapping_file(spine: Spine) -> None:
    (spine.folder / "mappings" / "vendor.toml").write_text(
        """
delimiter = "|"
[fields]
symbol = "Ticker"
trade_ts = { column = "Time", zone = "America/New_York" }
price = "Px"
size = "Qty"
side = { column = "BS", values = { B = "buy", S = "sell", X = "" } }
"""
    )
    (spine.folder / "vendor.txt").write_text(
        "Ticker|Time|Px|Qty|BS\nACME|2025-11-24T10:00:00|10|100|B\n"
    )
    spine.run("otc_ingest", source="vendor", path="vendor.txt")
    spine.settle()
    (stands,) = spine.silver().values()
    assert (stands["source"], stands["side"]) == ("vendor", "buy")
    assert stands["trade_ts"] == "2025-11-24T15:00:00+00:00"
