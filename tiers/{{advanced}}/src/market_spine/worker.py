"""A worker: Celery's processes, each with leases and a connection to the store of its own."""

import warnings
from collections.abc import Sequence
from typing import Any

from celery import bootsteps
from celery.exceptions import SecurityWarning
from celery.signals import worker_process_init, worker_process_shutdown
from celery.worker import state

from market_spine import leases, pipelines
from market_spine.celery_app import PREFIX, app
from market_spine.errors import RequestError

WATCH_SECONDS = 5.0


def lanes() -> list[str]:
    """The lanes that the pipelines name."""
    found = {"default"}
    for name in pipelines.names():
        try:
            found.add(pipelines.find(name).lane)
        except RequestError:
            continue  # it cannot be loaded, and is refused alone
    return sorted(found)


def serve(processes: int, only: Sequence[str] | None) -> None:
    """Carry out executions until a signal ends it.

    Args:
        processes: how many at once.
        only: the lanes; None: every one.
    """
    # Root may run it, as everything here: its messages hold no code, which the warning is about.
    warnings.simplefilter("ignore", SecurityWarning)
    app().steps["consumer"].add(BrokerWatch)
    queues = ",".join(PREFIX + lane for lane in only or lanes())
    app().worker_main(
        [
            "--quiet",
            "worker",
            f"--concurrency={processes}",
            f"--queues={queues}",
            "--loglevel=WARNING",
            "--without-gossip",
            "--without-mingle",
            "--without-heartbeat",
        ]
    )


class BrokerWatch(bootsteps.StartStopStep):
    """Connects again to a broker that was gone, where Celery would not notice.

    It waits for no message while every process is busy, and what cannot be acknowledged then counts
    as taken for ever: in the end nothing more is taken. A broker that is there but does not answer
    is not noticed either.
    """

    requires = ("celery.worker.consumer.tasks:Tasks",)
    _looking: Any = None

    def start(self, parent: Any) -> None:
        """Look from now on, in the loop of the consumer, which an error here lets begin anew."""
        self._looking = parent.timer.call_repeatedly(WATCH_SECONDS, _look_at_broker, (parent,))

    def stop(self, _parent: Any) -> None:
        """Look no longer: the connection ends."""
        if self._looking:
            self._looking.cancel()


def _look_at_broker(consumer: Any) -> None:
    channel = consumer.task_consumer.channel
    with channel.conn_or_acquire() as client:
        client.ping()
    taken = len(channel.qos._delivered) - len(channel.qos._dirty)
    if taken > len(state.reserved_requests):
        raise ConnectionError("what was done could not be acknowledged")


@worker_process_init.connect
def _begin(**_: object) -> None:
    leases.hold()


@worker_process_shutdown.connect
def _end(**_: object) -> None:
    leases.let_go()
