"""Reading raw rows into records of trades, some batches ahead of whoever loads them.

Reading is Python's work and loading the database's. Where there are many rows a second process does
the reading, so that two cores are busy instead of one. It is told by its standard input what to
read and ends when that closes, so it outlives nobody, however its parent ends.
"""

import marshal
import os
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import cycle
from tempfile import TemporaryFile
from typing import IO, Any, NamedTuple, cast

import orjson

from market_spine.errors import ProcessLostError
from market_spine.services.otc.mapping import SourceMapping
from market_spine.services.otc.readers import RejectedError
from market_spine.services.otc.records import RecordFields, read_record

MANY = 50_000  # rows; fewer are read before a second process has started
ENDED = "the process that reads records was ended by somebody; nothing of this run was kept"
AHEAD = 3  # batches that are read, or wait for it, while one is used

RawRow = tuple[int, str, int, str, str]  # raw_id, source_file, source_row, payload, record_hash


class Fault(NamedTuple):
    """A row that cannot be read."""

    place: int  # in its batch
    field: str
    reason: str


class Batch(NamedTuple):
    """Raw rows, and what was read from them."""

    rows: Sequence[RawRow]
    records: Sequence[RecordFields]  # of the rows that keep the rules
    faults: Sequence[Fault]  # of the others


def read_ahead(
    batches: Iterable[Sequence[RawRow]], mapping: SourceMapping, total: int
) -> Iterator[Batch]:
    """Read batches of raw rows; where there are many, the next ones while a batch is used.

    Args:
        batches: the raw rows; they are taken in this process, between two uses of a batch.
        mapping: how they are read.
        total: how many rows there will be, about.

    Raises:
        ProcessLostError: the second process was ended by somebody.
    """
    if total < MANY:
        for rows in batches:
            yield Batch(rows, *read_rows(rows, mapping))
        return
    with _second_process(mapping) as second:
        asked: deque[Sequence[RawRow]] = deque()
        for rows in batches:
            second.ask(rows)
            asked.append(rows)
            if len(asked) == AHEAD:
                yield second.answer(asked.popleft())
        while asked:
            yield second.answer(asked.popleft())


def read_rows(
    rows: Iterable[RawRow], mapping: SourceMapping
) -> tuple[list[RecordFields], list[Fault]]:
    """The records of the rows that keep the rules, and the faults of the others."""
    records: list[RecordFields] = []
    faults: list[Fault] = []
    for place, (raw_id, source_file, source_row, payload, record_hash) in enumerate(rows):
        try:
            standard = mapping.translate(orjson.loads(payload), source_file)
            record = read_record(standard, raw_id, record_hash, source_file, source_row)
        except RejectedError as fault:
            faults.append(Fault(place, fault.field, fault.reason))
        else:
            records.append(record)
    return records, faults


# --- two processes -----------------------------------------------------------------------------


class _SecondProcess:
    """Answers in the order in which it is asked.

    Rows and records lie in files without a name, so that nobody waits until a pipe has room and
    nothing is left behind; the pipes only say how long they are.
    """

    def __init__(self, requests: IO[bytes], answers: IO[bytes], slots: Sequence[int]) -> None:
        self._requests, self._answers = requests, answers
        self._to_ask, self._to_answer = cycle(slots), cycle(slots)

    def ask(self, rows: Sequence[RawRow]) -> None:
        try:
            _put(rows, next(self._to_ask), self._requests)
        except BrokenPipeError:
            raise ProcessLostError(ENDED) from None

    def answer(self, rows: Sequence[RawRow]) -> Batch:
        answer = _take(next(self._to_answer), self._answers)
        if answer is None:
            raise ProcessLostError(ENDED)
        records, faults = answer
        return Batch(rows, records, [*map(Fault._make, faults)])


@contextmanager
def _second_process(mapping: SourceMapping) -> Iterator[_SecondProcess]:
    with ExitStack() as opened:
        slots = [opened.enter_context(TemporaryFile()).fileno() for _ in range(AHEAD)]
        rules = mapping.model_dump_json(exclude_unset=True)
        process = subprocess.Popen(  # noqa: S603  (this very module)
            [sys.executable, "-P", "-m", __name__, rules, *map(str, slots)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,  # what is written is sent, and nothing is left to be sent at the end
            pass_fds=slots,
            process_group=0,  # Ctrl-C in the terminal is its parent's business
        )
        opened.enter_context(process)
        opened.callback(process.kill)  # it holds nothing that could be lost
        requests, answers = cast(IO[bytes], process.stdin), cast(IO[bytes], process.stdout)
        yield _SecondProcess(requests, answers, slots)


def _serve(rules: str, *slots: str) -> None:
    """What the second process does, until its parent is gone."""
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # that is no fault to be told
    mapping = SourceMapping.model_validate_json(rules)
    for slot in cycle(map(int, slots)):
        rows = _take(slot, sys.stdin.buffer)
        if rows is None:
            return
        records, faults = read_rows(rows, mapping)
        _put(([*map(tuple, records)], [*map(tuple, faults)]), slot, sys.stdout.buffer)
        sys.stdout.flush()


def _put(value: Any, slot: int, told: IO[bytes]) -> None:
    size = os.pwrite(slot, marshal.dumps(value, 2), 0)
    told.write(b"%d\n" % size)


def _take(slot: int, told: IO[bytes]) -> Any:
    """What lies in a file, as soon as it is told of; None at the end."""
    size = told.readline()
    if not size.endswith(b"\n"):
        return None
    return marshal.loads(os.pread(slot, int(size), 0))  # noqa: S302  (our own)


if __name__ == "__main__":
    _serve(*sys.argv[1:])
