"""Who carries an execution's id to the runner; one module each, found by scanning this folder."""

from functools import cache
from importlib import import_module
from pkgutil import iter_modules
from typing import Any, Protocol
from uuid import UUID

from market_spine.errors import RequestError
from market_spine.settings import settings


class Backend(Protocol):
    """What a module in this folder provides."""

    RANK: int  # the highest one found is the default

    def enqueue(self, execution_id: UUID, lane: str, /) -> None:
        """See to it that `run_pipeline` is called with the id, now or later."""

    def resume(self) -> None:
        """Make good what a process that died has left behind, where this backend can tell."""


@cache
def chosen() -> Backend:
    """The backend in use.

    Raises:
        RequestError: SPINE_BACKEND names none.
    """
    found: dict[str, Any] = {
        module.name: import_module(f"{__name__}.{module.name}") for module in iter_modules(__path__)
    }
    name = settings().spine_backend
    if name is None:
        return max(found.values(), key=lambda backend: backend.RANK)  # type: ignore[no-any-return]
    if name not in found:
        raise RequestError(f"SPINE_BACKEND: no backend '{name}' (there are: {', '.join(found)})")
    return found[name]  # type: ignore[no-any-return]
