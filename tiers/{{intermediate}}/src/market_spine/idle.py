"""Connections that were idle: is their server still there?

It is asked before one of them is used again. Those that were in use a moment ago are not asked, for
that would take a third of a short transaction's time; if one is lost all the same, its first
statement says so.
"""

import time
from typing import Any

from sqlalchemy import Engine, event
from sqlalchemy.exc import InvalidatePoolError

IDLE_SECONDS = 5.0


def ask_after_idling(engine: Engine) -> None:
    """Replace connections of an engine's pool whose server is gone, all of them at once."""
    lost: type[Exception] = engine.dialect.dbapi.Error  # type: ignore[union-attr]

    def checkin(_connection: object, record: Any) -> None:
        record.info["idle_since"] = time.monotonic()

    def checkout(connection: Any, record: Any, _proxy: object) -> None:
        if time.monotonic() - record.info.pop("idle_since", time.monotonic()) < IDLE_SECONDS:
            return
        try:
            engine.dialect.do_ping(connection)
        except lost as error:
            raise InvalidatePoolError from error

    event.listen(engine, "checkin", checkin)
    event.listen(engine, "checkout", checkout)
