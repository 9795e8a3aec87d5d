"""The app: its limits, its problems, and every module of `routes/`.

It only writes requests down; a backend carries them out, for as long as the app lives.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib import import_module
from pkgutil import iter_modules

from anyio import to_thread
from fastapi import FastAPI

from market_spine import backends
from market_spine.api import docs, problems, routes
from market_spine.api.hosts import KnownHosts
from market_spine.api.limits import RequestLimits
from market_spine.settings import settings


def create_app(host: str = "") -> FastAPI:
    """The app of this process.

    Args:
        host: where it listens, which is one of its names then.
    """
    app = docs.DocumentedApp(
        title="Market Spine",
        version="1",
        description=docs.DESCRIPTION,
        openapi_tags=docs.TAGS,
        generate_unique_id_function=lambda route: route.name,
        redirect_slashes=False,
        redoc_url=None,
        swagger_ui_oauth2_redirect_url=None,
        lifespan=_lifespan,
    )
    app.add_middleware(
        RequestLimits,
        max_body=settings().spine_api_max_body,
        query_seconds=settings().spine_query_seconds,
        sources=settings().spine_api_sources,
    )
    app.add_middleware(KnownHosts, hosts=[*settings().spine_api_hosts.split(","), host])
    problems.install(app)
    for module in iter_modules(routes.__path__):
        app.include_router(import_module(f"{routes.__name__}.{module.name}").router)
    return app


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    app.state.stopping = asyncio.Event()
    await to_thread.run_sync(backends.chosen().serve)
    draining = asyncio.create_task(_drain_after(app.state.stopping))
    yield
    app.state.stopping.set()
    await draining


async def _drain_after(stopping: asyncio.Event) -> None:
    """Let executions finish while requests do: one time for both."""
    await stopping.wait()
    await to_thread.run_sync(backends.chosen().drain, settings().spine_drain_seconds)
