"""spine dev: everything in one terminal, and nothing left of it afterwards."""

import os
import shutil
import signal
import sys
import sysconfig
from collections.abc import Iterator
from contextlib import closing

import pytest

from market_spine.settings import Settings
from tests.api.serving import Api
from tests.house import House, house_in, line, new_folder, until
from tests.support import REPO


@pytest.fixture
def house() -> Iterator[House]:
    """A folder with what the command needs of a repo, and no server yet."""
    with new_folder() as folder:
        for name in ("data", "mappings", "migrations"):
            shutil.copytree(REPO / name, folder / name)
        with house_in(folder) as house:
            yield house


def dev(house: House, said: str, *args: str) -> Api:
    """Start it, see what it says of the schema, and that it can be used."""
    command = shutil.which("spine", path=sysconfig.get_path("scripts"))
    assert command is not None
    process = house.start(command, "dev", *(args or ("--port", "0")), env=environment())
    assert line(process).startswith(said)
    api = Api(process, house.folder, "")
    assert api.url.startswith("http://127.0.0.1:")
    api.follow(api.submit("otc_normalize")["id"])
    return api


def environment() -> dict[str, str]:
    known = {name.upper() for name in Settings.model_fields}
    inherited = {name: value for name, value in os.environ.items() if name not in known}
    return {**inherited, "PYTHONWARNINGS": "error", "SPINE_BACKEND": "thread"}


def end(api: Api, number: signal.Signals, code: int) -> None:
    api.process.send_signal(number)
    _, err = api.process.communicate(timeout=60)
    assert (api.process.returncode, err) == (code, "")


def test_it_has_all_that_it_needs_and_leaves_nothing_running(house: House) -> None:
    first = dev(house, "upgraded to ")
    with closing(first.http):
        ended = first.run("otc_backfill_day", day="2025-11-24")
        assert first.get("/readyz") == {"database": "ok", "migrations": "ok", "worker": "ok"}
    end(first, signal.SIGINT, 130)
    house.await_end()
    again = dev(house, "up to date")
    with closing(again.http):
        assert again.get(f"/executions/{ended['id']}") == ended
    end(again, signal.SIGTERM, -signal.SIGTERM)
    house.await_end()


def test_a_second_one_beside_it_shares_the_store_and_takes_over(house: House) -> None:
    first = dev(house, "upgraded to ")
    second = dev(house, "up to date")
    with closing(first.http), closing(second.http):
        seen = second.submit("otc_normalize")["id"]
        assert first.follow(seen)["status"] == "succeeded"
        first.process.kill()
        first.process.communicate()
        assert second.run("otc_normalize")
        assert second.get("/readyz")["worker"] == "ok"
    end(second, signal.SIGTERM, -signal.SIGTERM)
    house.await_end()


def test_a_server_that_is_killed_comes_back(house: House) -> None:
    only = dev(house, "upgraded to ")
    with closing(only.http):
        before = only.run("otc_normalize")
        house.postmaster().kill()
        until(lambda: only.http.get("/readyz").status_code == 503)
        until(lambda: only.http.get("/readyz").status_code == 200)
        assert only.get(f"/executions/{before['id']}") == before
        assert only.run("otc_normalize")
    only.process.send_signal(signal.SIGTERM)
    _, err = only.process.communicate(timeout=60)
    assert "Traceback" not in err
    house.await_end()


def test_a_second_one_on_the_same_port_says_so(house: House) -> None:
    first = dev(house, "upgraded to ")
    with closing(first.http):
        port = first.url.rpartition(":")[2]
        command = [sys.executable, "-c", "from market_spine.cli import main; main()"]
        refused = house.start(*command, "dev", "--port", port, env=environment())
        out, err = refused.communicate(timeout=60)
        assert (refused.returncode, out) == (2, "up to date\n")
        assert err.startswith(f"error: cannot listen on 127.0.0.1, port {port}: ")
        assert (err.count("\n"), "--port" in err) == (1, True)
        assert first.run("otc_normalize")
    end(first, signal.SIGTERM, -signal.SIGTERM)
    house.await_end()
