"""The limits of lanes: does each name a lane that there is?"""

from collections.abc import Iterator

from market_spine.checks import Finding
from market_spine.settings import per_lane, settings
from market_spine.worker import lanes


def check() -> Iterator[Finding]:
    """Look at both settings; a limit of a lane that is none limits nothing."""
    known = lanes()
    for field in ("spine_queue_limit", "spine_queue_seconds"):
        for lane in sorted(per_lane(getattr(settings(), field)).keys() - {"", *known}):
            what = f"{field.upper()} names lane '{lane}', which no pipeline has"
            yield Finding(what=what, todo=f"name one of {', '.join(known)}, or leave it out")
