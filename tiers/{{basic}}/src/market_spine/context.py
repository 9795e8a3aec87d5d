"""What a pipeline's function is given besides its params."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection

from market_spine import ledger, progress
from market_spine.errors import CancelledError
from market_spine.ledger import Execution, Rejection


@dataclass(kw_only=True)
class Context:
    """One run of an execution: its transaction, and what it has to say about itself."""

    connection: Connection  # whatever is written here is kept if, and only if, the run succeeds
    execution: Execution
    stages: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    children: list[tuple[str, dict[str, Any]]] = field(default_factory=list)

    def checkpoint(self, stage: str, done: int, total: int | None = None) -> None:
        """Say how far a stage has come; to be called between batches.

        Raises:
            CancelledError: somebody asked for the execution to end.
        """
        progress.report(f"{self.execution.pipeline}: {stage}", done, total)
        if ledger.get(self.connection, self.execution.id).cancel_requested:
            raise CancelledError

    def stage_done(self, kind: str, counts: dict[str, Any]) -> None:
        """Note that a stage is done; its event is written just before the execution ends."""
        self.stages.append((kind, counts))

    def reject(self, rejections: Iterable[Rejection]) -> int:
        """Turn records that cannot be processed into dead letters; returns how many are new."""
        return ledger.reject_records(self.connection, self.execution, rejections)

    def close_letters(self, record_hashes: Iterable[str]) -> int:
        """Close the open letters of records that are processed now; returns how many there were."""
        return ledger.close_record_letters(self.connection, record_hashes)

    def spawn(self, pipeline: str, params: dict[str, Any]) -> None:
        """Name a child, which this execution will wait for when its function has returned."""
        self.children.append((pipeline, params))
