"""Retention: do its policies let anything go?"""

from collections.abc import Iterator

from market_spine.checks import Finding
from market_spine.settings import settings

PREFIX = "spine_retain_"
TOGETHER = {"SPINE_RETAIN_EVENTS_DAYS", "SPINE_RETAIN_EXECUTIONS_DAYS"}


def check() -> Iterator[Finding]:
    """Look at the settings; whether the folder is there is for whoever writes to it."""
    given = {
        name.upper() for name, value in settings() if name.startswith(PREFIX) and value is not None
    }
    if given and settings().spine_archive is None:
        what = "there are policies of retention, and SPINE_ARCHIVE is unset"
        yield Finding(what=what, todo="name a folder: nothing is removed that is not archived")
    if len(lacking := TOGETHER - given) == 1:
        what = f"no execution leaves the store, since {lacking.pop()} is unset"
        yield Finding(what=what, todo="set it, too: executions leave together with their events")
