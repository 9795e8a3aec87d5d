"""The ledger with two workers whose leases come and go, against a small model of it.

To what `test_ledger_model` does this adds attempts, leases, claims and the relay's marks; and
whoever moves an execution does so as it saw it last, as a worker that was paused for long would.
"""

from collections import defaultdict
from dataclasses import dataclass
from datetime import date
from typing import Any
from uuid import UUID

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import invariant, rule, run_state_machine_as_test
from sqlalchemy import text

from market_spine import database, dispatcher, leases, ledger, relay
from market_spine.errors import ResourceInUseError, SupersededError
from market_spine.guard import OnConflict
from market_spine.ledger import Execution, Status
from market_spine.schema import dead_letters, resource_claims
from tests import test_ledger_model
from tests.support import scaled
from tests.test_ledger_model import LIVE, LedgerMachine, Node

FEW = 4  # live executions, beside children and retries: so that much happens to each
ATTEMPTS = 2
FULL, NEARLY_OVER, OVER = 3600.0, 600.0, -1.0  # seconds that a lease has left

# A pipeline that claims days, if it is given some.
PIPELINE = f"""
from market_spine.guard import over_days
from market_spine.pipelines import DateRange, Pipeline

def claims(params):
    days = params.start_date, params.end_date
    return over_days("days", None, *days) if params.start_date else []

PIPELINE = Pipeline(
    name="tried", description="A test's.", params=DateRange, run=None, claims=claims,
    max_attempts={ATTEMPTS},
)
"""
AGE = text(
    "UPDATE executions SET lease_expires_at = clock_timestamp() + make_interval(secs => :left) "
    "WHERE id = :id"
)

LATER = text(
    "UPDATE executions SET not_before = clock_timestamp() + make_interval(hours => :hours) "
    "WHERE id = :id AND not_before IS NOT NULL"
)

# What may be done, the likely more than once: at any time; to an execution in such states; and to
# one that the worker has seen in such a state, which it may be in no more.
QUEUED, RUNNING, AT_WORK, FAILED = ("queued",), ("running",), ("running", "waiting"), ("failed",)
AT_ANY_TIME: list[tuple[Any, ...]] = [
    *2 * [("let_the_other_act",)],
    *3 * [("renew",)],
    ("hand_on",),
    ("submit",),
    ("submit_with_claims", (1, 2), "reject"),
    ("submit_with_claims", (2, 4), "queue"),
    ("submit_with_claims", (3, 3), "queue"),
]
TO_ONE: list[tuple[tuple[str, ...], Any]] = [
    *4 * [(QUEUED, ("claim",))],
    (RUNNING, ("let_time_pass", NEARLY_OVER)),
    *2 * [(RUNNING, ("let_time_pass", OVER))],
    *3 * [(RUNNING, ("take_back",))],
    (AT_WORK, ("cancel",)),
    *2 * [(FAILED, ("retry_its_letter",))],
]
BY_A_WORKER: list[tuple[tuple[str, ...], Any]] = [
    (RUNNING, ("give_back", 0.0)),
    (RUNNING, ("give_back", 300.0)),
    (RUNNING, ("note_a_stage",)),
    (RUNNING, ("wait_for_children", 2)),
    *2 * [(AT_WORK, ("finish", "succeeded"))],
    (AT_WORK, ("finish", "failed")),
    *2 * [(QUEUED, ("finish", "cancelled"))],
    (AT_WORK, ("finish", "cancelled")),
]


class Worker(leases.Holder):
    """One that extends its leases when it is told to, and knows executions as it saw them last."""

    def __init__(self, name: str) -> None:
        super().__init__(FULL)
        self.id = name
        self.seen: dict[UUID, Execution] = {}

    def _go_on(self) -> None:
        pass


@dataclass
class Turn:
    """What the model knows of an execution beyond its node."""

    attempt: int = 1
    token: UUID | None = None  # of the last lease
    left: float = FULL  # of it, in seconds
    is_told: bool = True  # the broker has been, as far as the row says
    is_delayed: bool = False
    days: tuple[int, int] | None = None  # that it claims while it is live


class WorkersMachine(LedgerMachine):
    """One of two workers acts at a time; neither knows what the other has done."""

    store = "postgresql"

    def __init__(self) -> None:
        super().__init__()
        self.turns: dict[UUID, Turn] = defaultdict(Turn)
        self.acting, self.other = Worker("one"), Worker("other")
        (self.spine.folder / "pipelines" / "tried.py").write_text(PIPELINE)
        self.patch.setattr(test_ledger_model, "PIPELINE", "tried")
        self.patch.setattr(relay, "DUE", relay.DUE.bindparams(patience=FULL))
        self.patch.setattr(leases, "_holder", self.acting)
        self.submit()

    # One rule, which the inherited ones give way to, since their bundle stays empty: of several,
    # Hypothesis leaves some out in most runs, and a story needs them all.
    @rule(call=st.runner().flatmap(lambda machine: st.sampled_from(machine.calls())))
    def do(self, call: tuple[Any, ...]) -> None:
        name, *given = call
        getattr(self, name)(*given)

    def calls(self) -> list[tuple[Any, ...]]:
        """What may be done now: each is the name of a method, and what it is given."""
        are = {key: node.status for key, node in self.nodes.items()}
        were = {key: seen.status for key, seen in self.acting.seen.items()}
        return AT_ANY_TIME + [
            (name, chosen, *given)
            for acts, states in ((TO_ONE, are), (BY_A_WORKER, were))
            for to, (name, *given) in acts
            for chosen, status in states.items()
            if status in to
        ]

    # --- the model -------------------------------------------------------------------------------

    def in_the_way(self, days: tuple[int, int] | None, *, before: UUID | None = None) -> bool:
        """Whether a live execution, or one before that one, claims some of the days."""
        for key, node in self.nodes.items():
            if key == before:
                break
            theirs = self.turns[key].days
            overlap = days and theirs and theirs[0] <= days[1] and theirs[1] >= days[0]
            if overlap and node.status in LIVE:
                return True
        return False

    def is_quiet(self) -> bool:
        return sum(node.status in LIVE for node in self.nodes.values()) < FEW

    def waits_for_days(self, chosen: UUID) -> bool:
        return self.in_the_way(self.turns[chosen].days, before=chosen)

    def token_of(self, chosen: UUID) -> UUID | None:
        return self.turns[chosen].token if self.nodes[chosen].status == "running" else None

    def is_as_seen(self, chosen: UUID) -> bool:
        seen = self.acting.seen[chosen]
        held = self.turns[chosen].attempt, self.token_of(chosen)
        return (seen.attempt, seen.lease_token) == held

    def begins_again(self, chosen: UUID, delay: float) -> None:
        node, turn = self.nodes[chosen], self.turns[chosen]
        if node.cancel_requested:
            node.end("cancelled")
        elif turn.attempt == ATTEMPTS:
            node.own_failure = True
            node.end("failed")
        else:
            node.move("queued")
            turn.attempt += 1
            turn.is_told, turn.is_delayed = False, delay > 0

    # --- the calls -------------------------------------------------------------------------------

    def let_the_other_act(self) -> None:
        self.acting, self.other = self.other, self.acting
        leases._holder = self.acting

    def submit(self) -> Any:
        if self.is_quiet():
            self.submitted(None)

    def submit_with_claims(self, days: tuple[int, int], on_conflict: OnConflict) -> None:
        params = {"start_date": date(2025, 12, days[0]), "end_date": date(2025, 12, days[1])}
        is_taken = self.in_the_way(days)
        if is_taken and on_conflict == "reject":
            with pytest.raises(ResourceInUseError):
                dispatcher.submit("tried", params)
        elif self.is_quiet():
            execution = dispatcher.submit("tried", params, on_conflict=on_conflict)
            self.nodes[execution.id] = Node(None)
            self.turns[execution.id] = Turn(days=days, is_told=not is_taken)

    def claim(self, chosen: UUID) -> None:
        with database.transaction() as connection:
            if self.waits_for_days(chosen):
                assert ledger.claim(connection, chosen) is None
                return
            if connection.execute(LATER, {"id": chosen, "hours": 1}).rowcount:
                assert ledger.claim(connection, chosen) is None  # whoever was told, and how often
                connection.execute(LATER, {"id": chosen, "hours": 0})
            # The other one was told of it, too, and has looked.
            self.other.seen.setdefault(chosen, ledger.get(connection, chosen))
            claimed = ledger.claim(connection, chosen)
        assert (claimed is not None) == (self.nodes[chosen].status == "queued")
        if claimed:
            self.acting.take(claimed)
            self.acting.seen[chosen] = claimed
            self.nodes[chosen].move("running")
            self.turns[chosen].token, self.turns[chosen].left = claimed.lease_token, FULL

    def renew(self) -> None:
        self.acting._renew()
        for chosen, (token, _) in self.acting._held.items():
            if token == self.token_of(chosen) and self.turns[chosen].left > 0:
                self.turns[chosen].left = FULL

    def let_time_pass(self, chosen: UUID, left: float) -> None:
        if self.token_of(chosen) and left < self.turns[chosen].left:
            with database.transaction() as connection:
                connection.execute(AGE, {"id": chosen, "left": left})
            self.turns[chosen].left = left

    def take_back(self, chosen: UUID) -> None:
        """As a relay that has found it expired, maybe long ago."""
        with database.transaction() as connection:
            relay._take_back(connection, chosen)
        if self.token_of(chosen) and self.turns[chosen].left < 0:
            self.begins_again(chosen, leases.FIRST_DELAY_SECONDS)

    def hand_on(self) -> None:
        relay.dispatch_due()
        for chosen, node in self.nodes.items():
            turn = self.turns[chosen]
            if node.status == "queued" and not turn.is_delayed and not self.waits_for_days(chosen):
                turn.is_told = True

    def give_back(self, chosen: UUID, delay: float) -> None:
        if self.acting.seen[chosen].status == "running" and self.happens(
            chosen, ("running",), lambda c, e: ledger.requeue(c, e, "it broke", delay)
        ):
            self.begins_again(chosen, delay)

    def finish(self, chosen: UUID, status: Status) -> None:
        if self.nodes[chosen].status == "waiting" and not self.is_as_seen(chosen):
            self.happens(chosen, (), lambda c, e: ledger.finish(c, e, status, error="late"))
        else:
            super().finish(chosen, status)

    def retry_its_letter(self, chosen: UUID) -> Any:
        days = self.turns[chosen].days
        if chosen in self.retried or not self.in_the_way(days):
            made = super().retry_its_letter(chosen)
            if isinstance(made, UUID):
                self.turns[made].days = days
            return made
        with database.snapshot() as connection:
            letters = ledger.list_dead_letters(connection, limit=1000)
        for letter in letters:
            if letter.execution_id == chosen:
                with pytest.raises(ResourceInUseError):
                    dispatcher.retry(letter.id)
        return None

    def happens(self, chosen: UUID, legal: tuple[str, ...], call: Any) -> bool:
        """Whether a call is accepted: exactly if it is legal, and things are as the caller saw."""
        seen = self.acting.seen[chosen]
        is_due = self.nodes[chosen].status in legal and self.is_as_seen(chosen)
        try:
            with database.transaction() as connection:
                call(connection, seen)
        except SupersededError:
            assert not is_due
            del self.acting.seen[chosen]
        else:
            assert is_due
        return is_due

    # --- what is compared ------------------------------------------------------------------------

    @invariant()
    def attempts_and_leases_equal_the_model(self) -> None:
        with database.snapshot() as connection:
            found = ledger.list_executions(connection, limit=1000)
        for execution in found:
            turn = self.turns[execution.id]
            held = turn.attempt, self.token_of(execution.id)
            assert (execution.attempt, execution.lease_token) == held
            if execution.status == "queued":
                assert (execution.dispatched_at is not None) == turn.is_told
            if execution.lease_expires_at:
                left = (execution.lease_expires_at - ledger.now()).total_seconds()
                assert left == pytest.approx(turn.left, abs=NEARLY_OVER / 2)

    @invariant()
    def each_that_failed_by_itself_has_one_letter(self) -> None:
        letters = sorted(row["execution_id"] for row in self.spine.rows(dead_letters))
        assert letters == sorted(str(key) for key, node in self.nodes.items() if node.own_failure)

    @invariant()
    def the_live_have_their_claims(self) -> None:
        found = {
            (row["root_id"], row["first"], row["last"], row["is_held"])
            for row in self.spine.rows(resource_claims)
        }
        assert found == {
            (str(key), *(f"2025-12-{day:02}" for day in days), not self.waits_for_days(key))
            for key, node in self.nodes.items()
            if (days := self.turns[key].days) and node.status in LIVE
        }


def test_the_ledger_of_two_workers_equals_the_model() -> None:
    chosen = settings(max_examples=scaled(25), stateful_step_count=60)
    run_state_machine_as_test(WorkersMachine, settings=chosen)
