"""The embedded Postgres: real users, supervisors and servers, killed at every turn."""

import os
import pwd
import signal
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from shutil import copy, copytree, ignore_patterns, rmtree
from typing import Any

import psutil
import psycopg
import pytest

from market_spine import embedded
from market_spine.embedded import _places, postgres
from market_spine.errors import StoreError
from tests.house import USER, House, house_in, line, new_folder, until
from tests.support import REPO

ENDLESS = "DO $$ BEGIN LOOP END LOOP; END $$"
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="what only root can do")


@pytest.fixture
def empty() -> Iterator[House]:
    """A house where no server has been yet."""
    with new_folder() as folder, house_in(folder) as house:
        yield house


@pytest.fixture(scope="module")
def lived_in() -> Iterator[Path]:
    """The folder of a house with data, whose set-up is most of the time of a first start."""
    with new_folder() as folder:
        with embedded.server(folder / ".spine"):
            pass
        yield folder


@pytest.fixture
def house(lived_in: Path) -> Iterator[House]:
    """A house with data, and no server running."""
    with house_in(lived_in) as house:
        yield house


def write(process: subprocess.Popen[str], text: str) -> None:
    assert process.stdin is not None
    process.stdin.write(text)
    process.stdin.flush()


def leave(process: subprocess.Popen[str]) -> None:
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (0, "", "")


def connect(url: str) -> psycopg.Connection[Any]:
    return psycopg.connect(url.replace("+psycopg", ""), autocommit=True)


def ask(url: str, sql: str) -> Any:
    with connect(url) as connection:
        found = connection.execute(sql)
        row = found.fetchone() if found.description else None
        return row and row[0]


def commands() -> list[list[str]]:
    """The command lines of all processes."""
    return [process.info["cmdline"] or [] for process in psutil.process_iter(["cmdline"])]


def modes(*paths: Path) -> list[tuple[int, int, int]]:
    found = [path.stat() for path in paths]
    return [(one.st_mode, one.st_uid, one.st_gid) for one in found]


# --- coming and going --------------------------------------------------------------------------


def test_it_runs_from_the_first_user_to_the_last(empty: House) -> None:
    house = empty
    first, url = house.user()
    second, same = house.user()
    assert same == url
    started = house.postmaster()
    leave(first)
    third, same = house.user()
    assert (same, house.postmaster()) == (url, started)
    ask(url, "CREATE TABLE kept AS SELECT 42 AS n")
    leave(second)
    leave(third)
    fourth, same = house.user()
    assert (same, ask(same, "SELECT n FROM kept")) == (url, 42)
    assert ask(url, "SHOW fsync") == "on"
    assert not started.is_running()
    leave(fourth)
    house.await_end()


def test_no_port_is_opened_and_nobody_else_can_open_the_socket(house: House) -> None:
    _, url = house.user()
    assert [one for process in house.servers() for one in process.net_connections("tcp")] == []
    assert ask(url, "SHOW listen_addresses") == ""
    private = Path(ask(url, "SHOW unix_socket_directories"))
    assert private.stat().st_mode & 0o777 == 0o700
    assert (private / ".s.PGSQL.5432").stat().st_mode & 0o077 == 0
    assert (private.parent / _places.SUPERVISOR).stat().st_mode & 0o077 == 0
    assert (house.home / "postgres").stat().st_mode & 0o077 == 0
    assert (house.home / _places.LOG).stat().st_mode & 0o077 == 0


def test_many_that_start_at_once_share_one_server(empty: House) -> None:
    when_told = f"import market_spine.embedded; print('here', flush=True); input(){USER}"
    starting = [empty.start(sys.executable, "-c", when_told) for _ in range(8)]
    assert {line(process) for process in starting} == {"here"}
    for process in starting:
        write(process, "\n")
    assert len({line(process) for process in starting}) == 1
    assert len(empty.supervisors()) == 1
    for process in starting:
        leave(process)


def test_threads_and_forks_share_what_their_process_holds(house: House) -> None:
    script = """
import os, sys
from concurrent.futures import ThreadPoolExecutor
from market_spine import embedded
with ThreadPoolExecutor(8) as pool:
    (url,) = {found.result() for found in [pool.submit(embedded.ensure) for _ in range(8)]}
if os.fork():
    os._exit(0)
assert embedded.ensure() == url
print(url, flush=True)
sys.stdin.read()
"""
    process = house.start(sys.executable, "-c", script)
    url = line(process)
    assert process.wait(60) == 0  # the child alone is left
    assert ask(url, "SELECT 1") == 1
    assert process.stdin is not None
    process.stdin.close()


def test_a_while_ends_when_the_server_has_stopped_or_others_go_on(house: House) -> None:
    with embedded.server(house.home, durable=False) as url:
        assert ask(url, "SHOW fsync") == "off"
        with embedded.server(house.home) as same:
            assert same == url
        user, same = house.user()
        assert same == url
    assert ask(url, "SELECT 1") == 1
    leave(user)
    house.await_end()
    with embedded.server(house.home):
        pass
    assert house.servers() == []


def test_a_supervisor_that_is_told_to_end_stops_the_server_cleanly(house: House) -> None:
    user, _ = house.user()
    house.supervisors()[0].terminate()
    house.await_end()
    assert "database system is shut down" in (house.home / _places.LOG).read_text()
    leave(user)


# --- kill -9 -----------------------------------------------------------------------------------


def test_killed_users_leave_nothing_running(house: House) -> None:
    killed = [house.user()[0] for _ in range(2)]
    for process in killed:
        process.kill()
    house.await_end()


def test_a_user_who_is_killed_before_the_server_is_ready_leaves_nothing_running(
    empty: House,
) -> None:
    user = empty.start()
    until(lambda: any(empty.home.glob("new-*")))
    user.kill()
    empty.await_end()
    assert (empty.home / "postgres").exists()


def test_what_interrupts_a_terminal_does_not_reach_the_server(house: House) -> None:
    starter, url = house.user(process_group=0)
    other, _ = house.user()
    os.killpg(starter.pid, signal.SIGINT)
    starter.communicate()
    assert ask(url, "SELECT 1") == 1
    leave(other)


def test_the_orphan_of_a_killed_supervisor_is_stopped_at_the_next_start(house: House) -> None:
    user, url = house.user()
    orphan = house.postmaster()
    with connect(url) as connection:
        house.supervisors()[0].kill()
        until(lambda: not house.supervisors())
        assert ask(url, "CREATE TABLE kept AS SELECT 42 AS n") is None
        _, same = house.user()
        assert not orphan.is_running()
        assert (same, ask(url, "SELECT n FROM kept")) == (url, 42)
        with pytest.raises(psycopg.OperationalError):
            connection.execute("SELECT 1")
    leave(user)


def test_a_killed_server_is_started_anew_for_the_next_user(house: House) -> None:
    """Even if one of its processes is too busy to notice the end, which keeps a new one away."""
    _, url = house.user()
    asking = (
        f"import psycopg; psycopg.connect({url.replace('+psycopg', '')!r}).execute({ENDLESS!r})"
    )
    busy = house.start(sys.executable, "-c", asking)
    until(lambda: ask(url, "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'DO%'"))
    house.postmaster().kill()
    until(lambda: not house.supervisors())
    assert house.servers() != []
    _, same = house.user()
    assert ask(same, "SELECT 1") == 1
    assert "OperationalError" in busy.communicate(timeout=60)[1]


def test_a_user_who_asks_again_gets_a_server_again(house: House) -> None:
    script = """
from market_spine import embedded
while True:
    print(embedded.ensure(), flush=True)
    input()
"""
    process = house.start(sys.executable, "-c", script)
    url, killed = line(process), house.postmaster()
    killed.kill()
    until(lambda: not house.supervisors())
    write(process, "\n")
    assert line(process) == url
    assert ask(url, "SELECT 1") == 1
    assert house.postmaster() != killed


def test_a_set_up_that_was_cut_off_is_done_again(empty: House) -> None:
    cut = empty.start()
    until(lambda: any(empty.home.glob("new-*/base")))
    empty.supervisors()[0].kill()
    assert "died" in cut.communicate()[1]
    user, url = empty.user()
    assert ask(url, "SELECT 1") == 1
    leave(user)
    setting_up = f"{empty.home}/new-"
    until(lambda: not any(setting_up in " ".join(one) for one in commands()))
    leave(empty.user()[0])
    assert [*empty.home.glob("new-*")] == []


def test_an_innocent_process_that_got_the_number_of_the_server_is_left_alone(house: House) -> None:
    """Even one of the server's own user, whom its programs could stop."""
    user = (house.home / "postgres").stat().st_uid
    sleeping = house.start("sleep", "600", user=user)
    (house.home / "postgres/postmaster.pid").write_text(f"{sleeping.pid}\nready\n")
    _, url = house.user()
    assert ask(url, "SELECT 1") == 1
    assert sleeping.poll() is None


# --- a command ---------------------------------------------------------------------------------

HOLD = [sys.executable, "-m", "market_spine.embedded"]
STARTED = """
import psycopg
from market_spine import embedded
with psycopg.connect(embedded.ensure().replace("+psycopg", "")) as connection:
    print(connection.execute("SELECT pg_postmaster_start_time()").fetchone()[0])
"""


def test_a_command_keeps_one_server_for_all_that_it_runs(house: House) -> None:
    twice = f"set -e; for n in 1 2; do '{sys.executable}' -c '{STARTED}'; done; exit 7"
    held = house.start(*HOLD, "sh", "-c", twice)
    out, err = held.communicate(timeout=60)
    assert (held.returncode, err) == (7, "")
    assert len(out.splitlines()) == 2
    assert len({*out.splitlines()}) == 1


def test_a_signal_reaches_the_command(house: House) -> None:
    waiting = "trap 'exit 3' TERM; echo here; while :; do sleep 0.1; done"
    held = house.start(*HOLD, "sh", "-c", waiting)
    assert line(held) == "here"
    held.terminate()
    assert held.wait(60) == 3


def test_a_command_starts_no_server_where_another_is_named(empty: House) -> None:
    (empty.folder / ".env").write_text("DATABASE_URL=postgresql://elsewhere/\n")
    held = empty.start(*HOLD, "echo", "here")
    assert held.communicate(timeout=60) == ("here\n", "")
    assert not empty.home.exists()


def test_a_command_that_cannot_be_run(house: House) -> None:
    held = house.start(*HOLD, "no-such-command")
    assert held.communicate(timeout=60)[1].startswith("error: no-such-command: ")
    assert held.returncode == 127


# --- what can be wrong -------------------------------------------------------------------------


def test_data_of_a_version_that_is_not_there(empty: House) -> None:
    data = empty.home / "postgres"
    data.mkdir(parents=True)
    (data / "PG_VERSION").write_text("9\n")
    with pytest.raises(StoreError, match=r"was made by Postgres 9, .* brings .*18.*: install"):
        embedded.server(empty.home).__enter__()


def test_a_server_that_does_not_start_says_why(house: House) -> None:
    settings = house.home / "postgres/postgresql.conf"
    before = settings.read_text()
    settings.write_text(f"{before}no_such_setting = 1\n")
    with pytest.raises(StoreError, match=r"did not start: .*no_such_setting.*servers\.log"):
        embedded.server(house.home).__enter__()
    settings.write_text(before)


def test_a_wheel_that_is_not_installed(house: House) -> None:
    """As with a Python that it does not know yet."""
    hidden = house.folder / postgres.WHEEL
    hidden.mkdir()
    (hidden / "__init__.py").touch()
    path = f"{sysconfig.get_path('scripts')}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PYTHONPATH": str(house.folder), "PATH": path}
    demo = house.start("sh", str(REPO / "scripts/demo.sh"), env=environment)
    out, err = demo.communicate(timeout=60)
    assert (demo.returncode, out, err.count("\n")) == (3, "", 1)
    assert err.startswith("error: there is no Postgres to start: ")
    for culprit in ("Python 3.11 to 3.13", "DATABASE_URL", "make up"):
        assert culprit in err


def test_sockets_of_somebody_else_are_not_used(house: House) -> None:
    planted = _places.sockets_of(house.home)
    planted.mkdir()
    planted.chmod(0o777)
    with pytest.raises(StoreError, match=f"^{planted} is not this user's"):
        embedded.server(house.home).__enter__()
    planted.rmdir()
    planted.symlink_to(house.folder)
    with pytest.raises(StoreError, match=f"^{planted} is not this user's"):
        embedded.server(house.home).__enter__()
    planted.unlink()


def test_a_lock_that_nobody_answers_for(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    import fcntl

    monkeypatch.setattr(embedded, "WAIT_SECONDS", 0.1)
    with (house.home / _places.LOCK).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(StoreError, match="does not answer"):
            embedded.server(house.home).__enter__()


# --- where it stands ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["x" * 200, "Ünder a näme: 50%, and (more)/below"])
def test_any_folder_will_do(name: str, empty: House) -> None:
    folder = empty.folder / name
    folder.mkdir(parents=True)
    with embedded.server(folder / ".spine") as url:
        assert ask(url, "SHOW data_directory") == str(folder / ".spine/postgres")


@as_root
def test_root_runs_it_as_nobody_and_opens_nothing(empty: House) -> None:
    house = empty
    around = [house.folder, *house.folder.parents]
    before = modes(*around)
    with embedded.server(house.home) as url:
        data = Path(ask(url, "SHOW data_directory"))
        nobody = pwd.getpwnam("nobody").pw_uid
        assert data == house.home / "postgres"
        assert house.postmaster().uids().real == nobody  # sessions come and go
        assert data.stat().st_uid == nobody
        assert (house.home.stat().st_uid, house.home.stat().st_mode & 0o777) == (0, 0o755)
    assert modes(*around) == before


@as_root
def test_root_keeps_the_data_of_the_user_whose_it_is(empty: House) -> None:
    house, games = empty, pwd.getpwnam("games")
    with embedded.server(house.home):
        pass
    for path in (house.home / "postgres", *(house.home / "postgres").rglob("*")):
        os.chown(path, games.pw_uid, games.pw_gid)
    os.chown(house.folder, games.pw_uid, games.pw_gid)
    house.folder.chmod(0o700)
    with embedded.server(house.home) as url:
        assert ask(url, "SELECT 1") == 1
        assert house.postmaster().uids().real == games.pw_uid


@as_root
def test_root_leaves_private_folders_private(empty: House) -> None:
    """Both the repo's and the one that the programs are in: they get a place of their own."""
    house, site = empty, Path(psycopg.__file__).parents[1]
    private = house.folder / "private"
    repo, packages = private / "repo", private / "packages"
    repo.mkdir(parents=True)
    for part in site.glob(f"{postgres.WHEEL}*"):
        unused = ignore_patterns("pginstall", "include", "*.a")
        copytree(part, packages / part.name, symlinks=True, ignore=unused)
    private.chmod(0o700)
    paths = [private, *private.parents, *private.rglob("*")]
    before = modes(*paths)
    user, url = house.user(cwd=repo, env={**os.environ, "PYTHONPATH": str(packages)})
    data = Path(ask(url, "SHOW data_directory"))
    elsewhere = House(repo)
    elsewhere.home = data.parent
    try:
        ask(url, "CREATE TABLE kept AS SELECT 42 AS n")
        assert str(elsewhere.postmaster().exe()).startswith(str(data.parent))
        leave(user)
        elsewhere.await_end()
        assert modes(*paths) == before
        assert [*repo.iterdir()] == []
        assert (data.parent / "repo").readlink() == repo
        with embedded.server(repo / ".spine") as same:
            assert (same, ask(same, "SELECT n FROM kept")) == (url, 42)
        copy(REPO / "Makefile", repo)
        copytree(REPO / "make", repo / "make")
        told = elsewhere.start("make", "clean").communicate(timeout=60)[0].splitlines()
        assert f"The data stays; to remove it as well: rm -r {data.parent}" in told
        assert (data / "PG_VERSION").exists()
    finally:
        user.kill()
        elsewhere.await_end()
        rmtree(data.parent)
