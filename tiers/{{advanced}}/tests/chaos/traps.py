"""Faults at a named point: the first process of a role to get there sends itself a signal, once."""

import signal

SIGNALS = (signal.SIGKILL, signal.SIGTERM)

# The points of each role, before or after a function. What a worker passes are those of
# `run_pipeline`.
POINTS = {
    "worker": [
        ("ledger.claim", "before"),
        ("ledger.claim", "after"),
        ("runner._work", "before"),
        ("runner._work", "after"),
        ("database.bulk_insert", "after"),
        ("ledger.record", "before"),
        ("ledger.record", "after"),
        ("ledger.finish", "before"),
        ("ledger.finish", "after"),
        ("ledger.requeue", "before"),
        ("ledger.requeue", "after"),
        ("ledger.wait_for_children", "before"),
        ("ledger.wait_for_children", "after"),
        ("dispatcher.submit_in", "after"),
        ("dispatcher.enqueue", "before"),
        ("dispatcher.enqueue", "after"),
        ("ledger.release_claims", "before"),
        ("ledger.release_claims", "after"),
    ],
    "relay": [
        ("presence.tell", "after"),
        ("relay.dispatch_due", "before"),
        ("relay.dispatch_due", "after"),
        ("backends.celery.enqueue", "before"),
        ("backends.celery.enqueue", "after"),
        ("relay._take_back", "before"),
        ("relay._take_back", "after"),
        ("ledger.requeue", "before"),
        ("ledger.requeue", "after"),
        ("relay.take_back_expired", "before"),
        ("relay.take_back_expired", "after"),
        ("guard.grant_what_is_free", "before"),
        ("guard.grant_what_is_free", "after"),
    ],
    "beat": [
        ("presence.tell", "after"),
        ("schedule.submit", "before"),
        ("dispatcher.submit_in", "before"),
        ("dispatcher.submit_in", "after"),
        ("dispatcher.enqueue", "before"),
        ("backends.celery.enqueue", "after"),
        ("schedule.submit", "after"),
    ],
    "api": [
        ("dispatcher.submit_in", "before"),
        ("dispatcher.submit_in", "after"),
        ("dispatcher.enqueue", "before"),
        ("backends.celery.enqueue", "before"),
        ("backends.celery.enqueue", "after"),
        ("dispatcher.enqueue", "after"),
        ("guard._hold", "before"),
        ("guard._hold", "after"),
    ],
}

TRAP = """
def set_trap(role, point, side, number):
    import importlib, os
    name, _, function = point.rpartition(".")
    module = importlib.import_module(f"market_spine.{{name}}")
    original = getattr(module, function)
    def fire():
        try:
            os.close(os.open(f"trapped-{{role}}", os.O_CREAT | os.O_EXCL))
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
set_trap({role!r}, {point!r}, {side!r}, {number})
"""


def trap(role: str, seed: int) -> str:
    """What a process is started with; seeds in a row go through all points with both signals."""
    points = POINTS[role]
    point, side = points[seed % len(points)]
    number = SIGNALS[seed // len(points) % 2]
    print(f"{role}: {number.name} {side} {point}")
    return TRAP.format(role=role, point=point, side=side, number=int(number))
