"""A real Postgres for the tests: one server for all, and a database for each that wants one.

The server is that of DATABASE_URL, if it is set, and else an embedded one, started when needed.
A database is a copy of one whose schema is up to date, which takes a moment.
"""

import os
import shutil
import subprocess
import sysconfig
from contextlib import ExitStack
from functools import cache
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory

import psycopg
from sqlalchemy import make_url

from market_spine import embedded
from market_spine.settings import Settings

REPO = Path(__file__).parents[1]
GIVEN = Settings().database_url or ""  # before a test sets its own

Other = psycopg.Connection[tuple[object, ...]]  # somebody else's, and not the store's

_server = ExitStack()
_numbers = count(1)
_databases: dict[Path, str] = {}  # by the folder that they belong to


def new_database(*, template: str | None = None) -> str:
    """Make a database; returns its URL.

    Args:
        template: the name of the database that it is a copy of; None: one that is up to date.
    """
    name = f"spine_test_{os.getpid()}_{next(_numbers)}"
    _run(f"CREATE DATABASE {name} TEMPLATE {template or up_to_date()}")
    return url_of(name)


def drop_database(url: str) -> None:
    """Remove a database, whoever uses it."""
    _run(f"DROP DATABASE IF EXISTS {make_url(url).database} WITH (FORCE)")


def database_of(folder: Path) -> str:
    """The URL of the database that belongs to a folder, which is made if there is none."""
    for other in [known for known in _databases if not known.exists()]:
        drop_database(_databases.pop(other))
    if folder not in _databases:
        _databases[folder] = new_database()
    return _databases[folder]


def drop_databases() -> None:
    """Remove the databases of all folders."""
    while _databases:
        drop_database(_databases.popitem()[1])


def stop() -> None:
    """Remove what was made, and let go of the server."""
    drop_databases()
    if up_to_date.cache_info().currsize:
        drop_database(url_of(up_to_date()))
    _server.close()


@cache
def server() -> str:
    """The URL of a database of the server, which nothing is done to."""
    if GIVEN.startswith("postgresql"):
        return GIVEN
    folder = Path(_server.enter_context(TemporaryDirectory(ignore_cleanup_errors=True)))
    folder.chmod(0o755)  # for the user that root runs a server as
    return _server.enter_context(embedded.server(folder / "server", durable=False))


@cache
def up_to_date() -> str:
    """The name of a database whose schema is up to date; nobody uses it."""
    name = f"spine_test_{os.getpid()}_0"
    _run(f"CREATE DATABASE {name} TEMPLATE template0")
    upgrade(url_of(name))
    return name


def upgrade(url: str) -> None:
    """Bring a database up to date, as one does it."""
    command = shutil.which("spine", path=sysconfig.get_path("scripts"))
    assert command is not None
    environment = {**os.environ, "DATABASE_URL": url, "SPINE_MIGRATIONS": "migrations"}
    upgrade = [command, "db", "upgrade"]
    subprocess.run(upgrade, cwd=REPO, env=environment, check=True, capture_output=True)


def url_of(name: str) -> str:
    """The URL of another database of the server."""
    return make_url(server()).set(database=name).render_as_string(hide_password=False)


def connect(url: str) -> Other:
    """A connection on which each statement is a transaction."""
    plain = make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
    return psycopg.connect(plain, autocommit=True)


def _run(statement: str) -> None:
    with connect(server()) as connection:
        connection.execute(statement.encode())
