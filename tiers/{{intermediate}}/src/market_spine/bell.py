"""The worker's bell: rung by whoever submits, in any process, heard by the one that has the role.

The role is the store's run lock, held by a session of its own: whoever has it is the only process
that carries out executions, and loses it with the session. Others hold the run lock for other ends,
such as an import; a second lock of the session tells the worker apart.
"""

import select as system
from contextlib import suppress
from socket import socket
from typing import Any, Self

import psycopg
from sqlalchemy import Connection, func, select, text
from sqlalchemy.exc import DBAPIError

from market_spine import database
from market_spine.errors import StoreUnavailableError
from market_spine.stores.postgresql import RUN_LOCK, lock_key

CHANNEL = "market_spine"

ROLE = "worker"  # the second lock

# The locks that are held, each of which Postgres lists as two halves.
HELD = text(
    """
SELECT (CAST(classid AS bigint) << 32) | CAST(objid AS bigint)
FROM pg_locks
WHERE locktype = 'advisory' AND granted AND objsubid = 1
  AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
"""
)


def ring() -> None:
    """Tell whoever has the role that something is queued.

    Raises:
        StoreError: the store cannot be reached; what is queued will be found all the same.
    """
    with database.explained(), _autocommit() as connection:
        connection.execute(select(func.pg_notify(CHANNEL, "")))


def is_role_held(connection: Connection) -> bool:
    """Whether some process has the role."""
    return connection.execute(select(lock_key(ROLE).in_(HELD))).scalar_one()


class Session:
    """A session that can take the role, and that hears the bell.

    Each of its methods raises StoreError if the store is lost, and the role with it.
    """

    connection: Connection  # each statement is a transaction

    def __enter__(self) -> Self:
        with database.explained():
            self.connection = _autocommit()
            self.connection.detach()  # it is closed with this session, not given back
            self.connection.exec_driver_sql(f"LISTEN {CHANNEL}")
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(DBAPIError):  # it is lost already
            self.connection.close()

    def take_role(self) -> bool:
        """Try to get the role; False if another process has it, or the run lock alone."""
        with database.explained():
            lock = select(func.pg_try_advisory_lock(lock_key(RUN_LOCK)))
            if not self.connection.execute(lock).scalar_one():
                return False
            self.connection.execute(select(func.pg_advisory_lock_shared(lock_key(ROLE))))
            return True

    def wait(self, other: socket, seconds: float) -> None:
        """Wait for the bell, or until there is something to read from the other socket."""
        driver: Any = self.connection.connection.dbapi_connection
        watched = system.poll()
        watched.register(driver, system.POLLIN)
        watched.register(other, system.POLLIN)
        try:
            if not [*driver.notifies(timeout=0)]:  # none that came with a query's answer
                watched.poll(seconds * 1000)
                for _ in driver.notifies(timeout=0):
                    pass
        except psycopg.Error as error:
            reason = " ".join(str(error).split())
            raise StoreUnavailableError(f"the store was lost: {reason}") from error


def _autocommit() -> Connection:
    return database.engine().connect().execution_options(isolation_level="AUTOCOMMIT")
