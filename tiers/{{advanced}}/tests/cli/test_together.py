"""spine dev, where workers are processes of their own: they outlive a server that is killed."""

import os
import shutil
import signal
import sysconfig
from contextlib import closing
from threading import Thread

import httpx

from market_spine.settings import Settings
from tests.house import house_in, new_folder, until
from tests.support import REPO


def test_servers_that_are_killed_come_back() -> None:
    command = shutil.which("spine", path=sysconfig.get_path("scripts"))
    assert command is not None
    known = {name.upper() for name in Settings.model_fields}
    inherited = {name: value for name, value in os.environ.items() if name not in known}
    with new_folder() as folder:
        for name in ("data", "mappings", "migrations"):
            shutil.copytree(REPO / name, folder / name)
        with house_in(folder) as house:
            process = house.start(command, "dev", "--port", "0", env=inherited)
            assert process.stderr is not None
            said = next(line for line in process.stderr if "listening on" in line)
            url = said.split("listening on ")[1].split()[0]
            # What they say meanwhile would fill the pipe, and then hold them up.
            Thread(target=process.stderr.read, daemon=True).start()
            with closing(httpx.Client(base_url=url, timeout=30, trust_env=False)) as api:
                until(lambda: api.get("/readyz").status_code == 200)
                house.postmaster().kill()
                until(lambda: api.get("/readyz").status_code == 503)
                until(lambda: api.get("/readyz").status_code == 200)
                submitted = api.post("/executions", json={"pipeline": "otc_normalize"})
                path = submitted.headers["Location"]
                until(lambda: bool(api.get(path).json()["status"] == "succeeded"))
            process.send_signal(signal.SIGTERM)
            process.wait(60)
