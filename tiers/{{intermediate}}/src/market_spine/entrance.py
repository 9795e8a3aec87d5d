"""Which files a request may have read: asked once, at the entrance, when its params are checked.

The API names a folder for each of its requests; a command names none, and reads what its user may.
What was let in is not asked again, so that a worker runs, and a parent submits to its children,
what a command was allowed. Whoever retries that through the API is asked like every other caller.
"""

from collections.abc import Iterator
from contextvars import ContextVar
from glob import glob, has_magic
from itertools import takewhile
from os import path
from pathlib import Path

from pydantic import ValidationInfo

WITHOUT_FILES = ("synthetic",)  # the connectors to which a path is something else

# Beneath it lies whatever a request of this context may name; None: it may name anything.
folder: ContextVar[Path | None] = ContextVar("folder", default=None)


def within_reach(given: str, info: ValidationInfo) -> str:
    """A path, or a pattern of paths, that a request of this context may name.

    Args:
        given: the param.
        info: those before it, of which `connector` is one.

    Raises:
        ValueError: it leads out of the folder, itself or by a link, whether or not it leads to
            something.
    """
    allowed = folder.get()
    if allowed is not None and info.data.get("connector") not in WITHOUT_FILES:
        root = path.realpath(allowed)
        if not all(Path(path.realpath(name)).is_relative_to(root) for name in _named(given)):
            raise ValueError(
                f"lies outside of {allowed}, beneath which the API reads (SPINE_API_SOURCES)"
            )
    return given


def _named(given: str) -> Iterator[str]:
    """Where a path or a pattern begins, and then, where that is good, all that it leads to."""
    parts = Path(given).parts
    plain = [*takewhile(lambda part: not has_magic(part), parts)]
    if ".." in parts[len(plain) :]:
        raise ValueError("has '..' behind a wildcard: name the folder that is meant")
    yield path.join("", *plain)
    if len(plain) < len(parts):
        yield from glob(given)
    elif path.isdir(given):
        yield from glob(f"{given}/*")
