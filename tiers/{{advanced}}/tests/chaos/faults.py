"""What is done to a fleet while it works: each fault is a function, and a seed chooses them."""

import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from typing import NamedTuple

import psutil
from kombu.exceptions import OperationalError
from sqlalchemy import make_url

from market_spine.celery_app import send
from market_spine.errors import StoreUnavailableError
from tests import postgres
from tests.fleet import Fleet

Fault = Callable[[Fleet, random.Random], object]

LONGEST_PAUSE_SECONDS = 2.0  # between two faults
# An execution that is lost as often as it may be begun has failed, which is as it should be.
MOST_LOSSES = 2

# Every message of a fleet is delivered five times.
FIVE_TIMES = """
from market_spine.backends import celery
celery.send = lambda *message, once=celery.send: [once(*message) for _ in range(5)]
"""


class Step(NamedTuple):
    """A fault of a round, and what is chosen in it."""

    pause: float  # seconds before it
    name: str
    chance: random.Random


def plan(seed: int) -> Iterator[Step]:
    """The faults of a round, which depend on its seed alone."""
    chance = random.Random(seed)
    losses = 0
    for number in range(chance.randint(4, 8)):
        pause = chance.uniform(0, LONGEST_PAUSE_SECONDS)
        losses_end = losses == MOST_LOSSES
        name = chance.choice([*HARMLESS] if losses_end else [*HARMLESS, *LOSSES])
        losses += name in LOSSES
        yield Step(pause, name, random.Random(f"{seed} {number}"))


def inflict(fleet: Fleet, step: Step) -> None:
    """Do what a step says."""
    time.sleep(step.pause)
    print(f"after {step.pause:.2f} s: {step.name}", flush=True)
    (HARMLESS | LOSSES)[step.name](fleet, step.chance)


# --- processes -----------------------------------------------------------------------------------


def kill(role: str, fleet: Fleet, chance: random.Random) -> None:
    """Kill a process, and not what it has started."""
    with suppress(IndexError):
        chance.choice(fleet.alive(role)).process.kill()


def end(role: str, fleet: Fleet, chance: random.Random) -> None:
    """Tell a process to end."""
    with suppress(IndexError):
        chance.choice(fleet.alive(role)).process.terminate()


def kill_machine(fleet: Fleet, chance: random.Random) -> None:
    """Kill a worker with all its processes, as a lost machine does."""
    with suppress(IndexError):
        chance.choice(fleet.alive("worker")).kill_all()


def kill_child(fleet: Fleet, chance: random.Random) -> None:
    """Kill a process that carries executions out."""
    with suppress(psutil.NoSuchProcess, IndexError):
        chance.choice(children(fleet)).kill()


def end_child(fleet: Fleet, chance: random.Random) -> None:
    """Tell such a process to end."""
    with suppress(psutil.NoSuchProcess, IndexError):
        chance.choice(children(fleet)).terminate()


def pause_child(fleet: Fleet, chance: random.Random) -> None:
    """Stop such a process past its lease, and let it go on."""
    with suppress(psutil.NoSuchProcess, IndexError):
        child = chance.choice(children(fleet))
        child.suspend()
        fleet.later(fleet.lease_seconds * 1.5, partial(resume, child))


def children(fleet: Fleet) -> list[psutil.Process]:
    """The processes that carry executions out."""
    found: list[psutil.Process] = []
    for one in fleet.alive("worker"):
        with suppress(psutil.NoSuchProcess):
            found += psutil.Process(one.process.pid).children()
    return found


def resume(process: psutil.Process) -> None:
    """Let a process go on, if it has not been killed."""
    with suppress(psutil.NoSuchProcess):
        process.resume()


def kill_process(worker_id: str) -> None:
    """Kill a worker's process, by what the ledger calls it."""
    with suppress(ProcessLookupError):
        os.kill(int(worker_id.split(":")[1]), signal.SIGKILL)


# --- the broker ----------------------------------------------------------------------------------


def empty_broker(fleet: Fleet, _chance: random.Random) -> None:
    """Remove every message."""
    fleet.broker.flush()


def stop_broker(fleet: Fleet, chance: random.Random) -> None:
    """Stop the broker, which keeps nothing, for less or more than the others' patience."""
    fleet.broker.stop()
    fleet.later(chance.uniform(0, 12), fleet.broker.start)


def hang_broker(fleet: Fleet, chance: random.Random) -> None:
    """Let the broker neither read nor close; then it goes on, or resets every connection."""
    proxy = fleet.broker.proxy
    if proxy and not proxy.hangs:
        proxy.hang()
        reset = chance.random() < 0.5
        fleet.later(chance.uniform(0, 10), lambda: proxy.go_on(reset=reset))


def repeat_messages(fleet: Fleet, _chance: random.Random) -> None:
    """Tell the workers five times of all that has not ended, whatever it is doing."""
    with suppress(StoreUnavailableError, OperationalError):  # of an earlier fault
        for execution_id, lane in fleet.live():
            for _ in range(5):
                send(execution_id, lane)


# --- the store -----------------------------------------------------------------------------------


def lose_connections(fleet: Fleet, _chance: random.Random) -> None:
    """End every session of the database."""
    with postgres.connect(fleet.server.url) as other:
        other.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s",
            [make_url(fleet.database).database],
        )


def restart_store(fleet: Fleet, chance: random.Random) -> None:
    """Stop Postgres as a deployment does, and start it again."""
    fleet.server.stop()
    time.sleep(chance.uniform(0, 5))
    fleet.server.start()


def kill_store(fleet: Fleet, chance: random.Random) -> None:
    """Kill Postgres, and let it recover."""
    fleet.server.kill()
    time.sleep(chance.uniform(0, 2))
    fleet.server.start()


# Those that an execution's attempt may be lost by, and those that none is.
LOSSES: dict[str, Fault] = {
    "kill a worker's child": kill_child,
    "end a worker's child": end_child,
    "kill a worker and its children": kill_machine,
    "kill a worker's parent": partial(kill, "worker"),
    "end a worker": partial(end, "worker"),
    "pause a worker's child past its lease": pause_child,
    "end the sessions of the database": lose_connections,
    "restart Postgres": restart_store,
    "kill Postgres": kill_store,
}
HARMLESS: dict[str, Fault] = {
    "kill a relay": partial(kill, "relay"),
    "end a relay": partial(end, "relay"),
    "kill a beat": partial(kill, "beat"),
    "end a beat": partial(end, "beat"),
    "kill the API": partial(kill, "api"),
    "end the API": partial(end, "api"),
    "empty the broker": empty_broker,
    "stop the broker": stop_broker,
    "let the broker hang": hang_broker,
    "deliver messages five times": repeat_messages,
}
