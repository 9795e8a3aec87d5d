"""Log lines, as whoever gathers them reads them."""

import json
from typing import Any

FIELDS = {"timestamp", "level", "logger", "event", "execution_id", "pipeline", "lane", "trace_id"}


def lines_of(said: str) -> list[dict[str, Any]]:
    """The lines of a log, each of which must be one object with every field."""
    found = []
    for line in said.splitlines():
        told = json.loads(line)
        assert told.keys() >= FIELDS, line
        found.append(told)
    return found
