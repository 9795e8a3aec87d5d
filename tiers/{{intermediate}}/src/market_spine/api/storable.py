"""What JSON can say and a database cannot hold: refused here, before anything is written."""

from math import isfinite
from typing import Any, TypeVar

from pydantic_core import PydanticCustomError

Value = TypeVar("Value")

DEEPEST = 20  # levels of lists and objects


def storable(value: Value) -> Value:
    """A text, or a JSON value, that every store can hold.

    Raises:
        PydanticCustomError: a part of it cannot be held, which it names.
    """
    waiting: list[tuple[Any, tuple[object, ...]]] = [(value, ())]
    while waiting:
        part, path = waiting.pop()
        reason = "is nested too deeply" if len(path) > DEEPEST else _reason(part)
        if reason:
            where = f"{'.'.join(map(str, path))} " if path else ""
            raise PydanticCustomError("not_storable", "{fault}", {"fault": where + reason})
        if isinstance(part, dict):
            waiting += [(inner, (*path, name)) for name, inner in part.items()]
            waiting += [(name, (*path, name)) for name in part]
        elif isinstance(part, list):
            waiting += [(inner, (*path, index)) for index, inner in enumerate(part)]
    return value


def _reason(part: object) -> str | None:
    match part:
        case str() if "\x00" in part:
            return "has a NUL character"
        case str() if not part.isascii() and any("\ud800" <= letter <= "\udfff" for letter in part):
            return "has half of a surrogate pair"
        case int() if not -(2**63) <= part < 2**63:
            return "does not fit in 64 bits"
        case float() if not isfinite(part):
            return "is not a finite number"
    return None
