"""Routes whose handlers may block: each runs in a thread, and nothing else of a request does.

FastAPI by itself takes a second thread to validate the answer, for a sixth of a submit's time.
"""

from collections.abc import Callable
from functools import partial, wraps
from inspect import iscoroutinefunction
from typing import Any

from fastapi.routing import APIRoute

from market_spine.api.threads import in_thread


class ThreadedRoute(APIRoute):
    """The route class of every router here."""

    def __init__(self, path: str, endpoint: Callable[..., Any], **options: Any) -> None:
        super().__init__(path, _threaded(endpoint), **options)


def _threaded(handler: Callable[..., Any]) -> Callable[..., Any]:
    if iscoroutinefunction(handler):
        return handler

    @wraps(handler)
    async def threaded(**arguments: Any) -> Any:
        return await in_thread(partial(handler, **arguments))

    return threaded
