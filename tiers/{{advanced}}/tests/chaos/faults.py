"""What is done to a fleet while it works: each fault is a function, chosen by a seeded generator.

A trap is a fault at a named point: the first process to get there sends itself a signal, once.
"""

import random
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress

import psutil
from sqlalchemy import make_url

from market_spine.celery_app import send
from tests import postgres
from tests.fleet import Fleet

Fault = Callable[[Fleet, random.Random], None]

# The points of `run_pipeline`, and of the relay: before or after a function.
RUNNER_POINTS = [
    ("ledger.claim", "before"),
    ("ledger.claim", "after"),
    ("runner._work", "before"),
    ("runner._work", "after"),
    ("pipelines.find", "after"),
    ("ledger.record", "before"),
    ("ledger.record", "after"),
    ("ledger.finish", "before"),
    ("ledger.finish", "after"),
    ("ledger.wait_for_children", "before"),
    ("ledger.wait_for_children", "after"),
    ("dispatcher.submit_in", "after"),
    ("dispatcher.enqueue", "before"),
    ("dispatcher.enqueue", "after"),
]
RELAY_POINTS = [
    ("presence.tell", "after"),
    ("relay.dispatch_due", "before"),
    ("relay.dispatch_due", "after"),
    ("backends.celery.enqueue", "before"),
    ("backends.celery.enqueue", "after"),
    ("relay._take_back", "before"),
    ("relay._take_back", "after"),
    ("ledger.requeue", "before"),
    ("ledger.requeue", "after"),
]

TRAP = """
def set_trap(point, side, number):
    import importlib, os
    name, _, function = point.rpartition(".")
    module = importlib.import_module(f"market_spine.{{name}}")
    original = getattr(module, function)
    def fire():
        try:
            os.close(os.open("trapped", os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            return
        os.kill(os.getpid(), number)
    def trapped(*args, **more):
        if side == "before":
            fire()
        result = original(*args, **more)
        if side == "after":
            fire()
        return result
    setattr(module, function, trapped)
set_trap({point!r}, {side!r}, {number})
"""


def trap(point: str, side: str, number: int) -> str:
    """What a process is started with that is to send itself a signal there."""
    return TRAP.format(point=point, side=side, number=number)


def kill_child(fleet: Fleet, chance: random.Random) -> None:
    """Kill a process that carries an execution out."""
    with suppress(psutil.NoSuchProcess, IndexError):
        chance.choice(children(fleet)).kill()


def kill_worker(fleet: Fleet, chance: random.Random) -> None:
    """Kill a worker with all its processes, as a lost machine does."""
    chance.choice(fleet.alive("worker")).kill_all()


def kill_worker_alone(fleet: Fleet, chance: random.Random) -> None:
    """Kill the parent of a worker's processes."""
    chance.choice(fleet.alive("worker")).process.kill()


def end_worker(fleet: Fleet, chance: random.Random) -> None:
    """Tell a worker to end."""
    chance.choice(fleet.alive("worker")).process.terminate()


def kill_relay(fleet: Fleet, chance: random.Random) -> None:
    """Kill a relay."""
    chance.choice(fleet.alive("relay")).process.kill()


def end_relay(fleet: Fleet, chance: random.Random) -> None:
    """Tell a relay to end."""
    chance.choice(fleet.alive("relay")).process.terminate()


def pause_child(fleet: Fleet, chance: random.Random) -> None:
    """Stop a process past its lease, and let it go on."""
    with suppress(psutil.NoSuchProcess, IndexError):
        child = chance.choice(children(fleet))
        child.suspend()
        threading.Timer(fleet.lease_seconds * 1.5, lambda: resume(child)).start()


def empty_broker(fleet: Fleet, _chance: random.Random) -> None:
    """Remove every message."""
    fleet.broker.flush()


def restart_broker(fleet: Fleet, chance: random.Random) -> None:
    """Stop the broker, which keeps nothing, and start it again."""
    fleet.broker.stop()
    time.sleep(chance.uniform(0, 3))
    fleet.broker.start()


def repeat_messages(fleet: Fleet, _chance: random.Random) -> None:
    """Deliver every message five times."""
    for execution_id, lane in fleet.live():
        for _ in range(5):
            with suppress(OSError):
                send(execution_id, lane)


def lose_connections(fleet: Fleet, _chance: random.Random) -> None:
    """End every session of the database, as its restart does."""
    with postgres.connect(postgres.server()) as other:
        other.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s",
            [make_url(fleet.database).database],
        )


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


FAULTS: list[Fault] = [
    kill_child,
    kill_worker,
    kill_worker_alone,
    end_worker,
    kill_relay,
    end_relay,
    pause_child,
    empty_broker,
    restart_broker,
    repeat_messages,
    lose_connections,
]
SIGNALS = (signal.SIGKILL, signal.SIGTERM)
