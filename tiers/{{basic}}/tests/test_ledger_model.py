"""The ledger against a small model of it: any calls in any order, legal or not."""

from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from uuid import UUID

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    invariant,
    multiple,
    rule,
    run_state_machine_as_test,
)

from market_spine import backends, database, dispatcher, ledger
from market_spine.errors import SupersededError
from market_spine.ledger import Status
from tests.support import Spine, scaled, spine_in

LIVE = ("queued", "running", "waiting")
PIPELINE = "otc_compute_daily_metrics"


@dataclass
class Node:
    """What the model knows of an execution."""

    parent: "Node | None"
    status: str = "queued"
    version: int = 1
    cancel_requested: bool = False
    children: "list[Node]" = field(default_factory=list)
    own_failure: bool = False

    def move(self, status: str) -> None:
        self.status = status
        self.version += 1

    def end(self, status: str) -> None:
        self.move(status)
        parent = self.parent
        if parent is None or any(child.status in LIVE for child in parent.children):
            return
        if all(child.status == "succeeded" for child in parent.children):
            parent.end("succeeded")
        else:
            parent.end("cancelled" if parent.cancel_requested else "failed")

    def cancel(self) -> None:
        if self.status == "queued":
            self.end("cancelled")
        elif self.status in LIVE and not self.cancel_requested:
            self.cancel_requested = True
            self.move(self.status)
            for child in self.children:
                child.cancel()


class QuietBackend:
    """Carries nothing: only the ledger is tested here."""

    RANK = -1

    def enqueue(self, _execution_id: UUID, _lane: str) -> None:
        pass

    def resume(self) -> None:
        pass


class LedgerMachine(RuleBasedStateMachine):
    """Calls the ledger and the model alike, and compares them after each call."""

    ids = Bundle("ids")
    store = "sqlite"

    def __init__(self) -> None:
        super().__init__()
        self.nodes: dict[UUID, Node] = {}
        self.retried: dict[UUID, UUID] = {}
        self.folder = TemporaryDirectory()
        self.context = spine_in(Path(self.folder.name), self.store)
        self.spine: Spine = self.context.__enter__()
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(backends, "chosen", QuietBackend)

    def teardown(self) -> None:
        self.patch.undo()
        self.context.__exit__(None, None, None)
        self.folder.cleanup()

    def submitted(self, parent_id: UUID | None) -> UUID:
        execution = dispatcher.submit(PIPELINE, {}, parent_id=parent_id)
        parent = self.nodes[parent_id] if parent_id else None
        self.nodes[execution.id] = Node(parent)
        if parent:
            parent.children.append(self.nodes[execution.id])
        return execution.id

    @rule(target=ids)
    def submit(self) -> UUID:
        return self.submitted(None)

    @rule(chosen=ids)
    def claim(self, chosen: UUID) -> None:
        with database.transaction() as connection:
            claimed = ledger.claim(connection, chosen)
        assert (claimed is not None) == (self.nodes[chosen].status == "queued")
        if claimed:
            self.nodes[chosen].move("running")

    @rule(chosen=ids)
    def note_a_stage(self, chosen: UUID) -> None:
        if self.happens(chosen, ("running",), lambda c, e: ledger.record(c, e, "computed", {})):
            self.nodes[chosen].move("running")

    @rule(target=ids, chosen=ids, count=st.integers(1, 3))
    def wait_for_children(self, chosen: UUID, count: int) -> Any:
        if self.happens(chosen, ("running",), lambda c, e: ledger.wait_for_children(c, e, {})):
            self.nodes[chosen].move("waiting")
            return multiple(*(self.submitted(chosen) for _ in range(count)))
        return multiple()

    @rule(chosen=ids, status=st.sampled_from(["succeeded", "succeeded", "failed", "cancelled"]))
    def finish(self, chosen: UUID, status: Status) -> None:
        node = self.nodes[chosen]
        if node.status == "waiting":
            return  # a waiting execution is ended by its last child alone
        legal = ("queued", "running") if status == "cancelled" else ("running",)
        error = "it broke" if status == "failed" else None
        if self.happens(chosen, legal, lambda c, e: ledger.finish(c, e, status, error=error)):
            node.own_failure = status == "failed"
            node.end(status)

    @rule(chosen=ids)
    def cancel(self, chosen: UUID) -> None:
        assert dispatcher.cancel(chosen).id == chosen
        self.nodes[chosen].cancel()

    @rule(target=ids, chosen=ids)
    def retry_its_letter(self, chosen: UUID) -> Any:
        with database.snapshot() as connection:
            letters = ledger.list_dead_letters(connection, include_closed=True, limit=1000)
        letter_ids = [letter.id for letter in letters if letter.execution_id == chosen]
        assert len(letter_ids) == self.nodes[chosen].own_failure
        if not letter_ids:
            return multiple()
        execution = dispatcher.retry(letter_ids[0])
        assert execution.retry_of == chosen
        assert execution.parent_id is None
        if chosen in self.retried:
            assert execution.id == self.retried[chosen]
            return multiple()
        self.retried[chosen] = execution.id
        self.nodes[execution.id] = Node(None)
        return execution.id

    def happens(self, chosen: UUID, legal: tuple[str, ...], call: Any) -> bool:
        """Whether a call is accepted, which it must be exactly in a legal state."""
        try:
            with database.transaction() as connection:
                call(connection, ledger.get(connection, chosen))
        except SupersededError:
            assert self.nodes[chosen].status not in legal
            return False
        assert self.nodes[chosen].status in legal
        return True

    @invariant()
    def rows_equal_the_model(self) -> None:
        with database.snapshot() as connection:
            found = {e.id: e for e in ledger.list_executions(connection, limit=1000)}
        assert {key: (e.status, e.version, e.cancel_requested) for key, e in found.items()} == {
            key: (node.status, node.version, node.cancel_requested)
            for key, node in self.nodes.items()
        }

    @invariant()
    def events_amount_to_the_rows(self) -> None:
        self.spine.check_ledger()


def test_the_ledger_equals_the_model(store: str) -> None:
    class Machine(LedgerMachine):
        pass

    Machine.store = store
    chosen = settings(max_examples=scaled(15), stateful_step_count=25)
    run_state_machine_as_test(Machine, settings=chosen)
