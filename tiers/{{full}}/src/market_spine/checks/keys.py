"""The keys: is there one, where the API asks for it?"""

from collections.abc import Iterator

from market_spine import database
from market_spine.checks import Finding
from market_spine.security import is_loopback, keys
from market_spine.settings import settings


def check() -> Iterator[Finding]:
    """Look whether the API can be called at all."""
    with database.snapshot() as connection:
        if keys.live(connection):
            return
        is_unused = keys.is_unused(connection)
    if not is_unused:
        what = "every key was revoked, so that the API refuses whoever calls it"
        yield Finding(what=what, todo=keys.MAKE_ONE)
    elif not is_loopback(settings().spine_api_host):
        where = settings().spine_api_host or "every network"
        what = f"the API listens on {where} and refuses whoever calls it: no key was ever made"
        yield Finding(what=what, todo=keys.MAKE_ONE)
