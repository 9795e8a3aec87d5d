"""Redis: does it answer, and does it keep what it is given?"""

from collections.abc import Iterator

from redis import Redis
from redis.exceptions import RedisError

from market_spine import backends, broker
from market_spine.backends import celery
from market_spine.celery_app import BROKER_SECONDS
from market_spine.checks import Finding


def check() -> Iterator[Finding]:
    """Ask it, if the backend in use has one."""
    in_use: object = backends.chosen()
    if in_use is not celery:
        return
    url = broker.url().replace("redis+socket://", "unix://")
    try:
        with Redis.from_url(url, socket_timeout=BROKER_SECONDS) as redis:
            policy = redis.info("memory")["maxmemory_policy"]  # CONFIG is often forbidden
    except (RedisError, ValueError) as error:  # the latter: REDIS_URL is none
        todo = "start Redis, or name it in REDIS_URL; what is submitted meanwhile is not lost"
        yield Finding(what=f"the broker does not answer: {error}", todo=todo)
        return
    if policy != "noeviction":
        todo = "redis-cli config set maxmemory-policy noeviction, and in its configuration file"
        yield Finding(what=f"Redis drops messages when it is full ({policy})", todo=todo)
