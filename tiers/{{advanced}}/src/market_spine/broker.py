"""Where Redis is: REDIS_URL, or else the embedded Valkey of this folder."""

from market_spine.settings import settings


def url() -> str:
    """The address of the broker.

    Raises:
        StoreError: the embedded one cannot be started.
    """
    given = settings().redis_url
    if given:
        return given
    from market_spine import embedded

    return embedded.hold().urls["valkey"]
