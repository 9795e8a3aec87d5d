"""Threads for what may block: SPINE_API_THREADS of them, and for each request a time to wait.

A store that is frozen keeps its own time limit no more than it answers, so that a request whose
time has passed is answered without it. If it waited for a thread, it is never begun; if it had one,
that goes on as long as the store lets it, and nobody else has the thread meanwhile.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from functools import cache
from typing import TypeVar

from market_spine.deadline import query_seconds
from market_spine.errors import StoreUnavailableError
from market_spine.settings import settings

Result = TypeVar("Result")

MARGIN_SECONDS = 1.0  # in which a store that is well says itself that a query took too long


async def in_thread(work: Callable[[], Result]) -> Result:
    """Do some work in a thread, and wait for it as long as for one query.

    Raises:
        StoreUnavailableError: the time has passed; the work may still be done.
    """
    seconds = query_seconds.get()
    patience = None if seconds is None else seconds + MARGIN_SECONDS
    doing = asyncio.get_running_loop().run_in_executor(_threads(), copy_context().run, work)
    try:
        await asyncio.wait([doing], timeout=patience)
        if doing.done():
            return doing.result()
    finally:
        doing.cancel()  # which a thread that has begun does not notice
    raise StoreUnavailableError(f"the store has not answered within {seconds:g} s: try again")


@cache
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(settings().spine_api_threads, thread_name_prefix="request")
