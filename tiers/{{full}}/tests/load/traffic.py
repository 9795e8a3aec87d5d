"""Mixed traffic over HTTP at a steady rate, whatever the answers take, and what came of it."""

import json
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException, HTTPResponse
from itertools import count
from statistics import quantiles
from threading import Lock, Thread, local
from typing import Any, NamedTuple
from urllib.parse import urlsplit

SENDERS = 64  # threads; a stream of events keeps one for as long as it lasts
KEPT = 500  # of the executions that were submitted last, those that are asked for again
METRICS = "/otc/metrics/daily?symbol=ALDRF&start=2025-11-24&end=2025-12-05"
READS = ("poll", "query", "letters")
# Of a hundred requests, how many are of each kind.
MIX = {"submit": 20, "poll": 42, "query": 25, "stream": 5, "retry": 8}
FAILS_EVERY, WORKS_EVERY = 8, 100  # of what is submitted


class Answer(NamedTuple):
    """What one request came to."""

    kind: str
    seconds: float  # since it was due, so that whoever lets others wait is not spared
    status: int  # 0: none
    told_when: bool  # whether it says when to try again


@dataclass
class Traffic:
    """Requests to one API, `rate` of them a second."""

    address: str
    key: str
    rate: float
    seconds: float
    path: str  # of what a backfill reads
    answers: list[Answer] = field(default_factory=list)
    accepted: dict[str, str] = field(default_factory=dict)  # id: pipeline
    wrong: list[str] = field(default_factory=list)

    def run(self) -> None:
        """Send all of them; returns when the last is answered."""
        self._turns = self._due(random.Random(7))
        self._lock, self._own = Lock(), local()
        senders = [Thread(target=self._send, daemon=True) for _ in range(SENDERS)]
        for sender in senders:
            sender.start()
        for sender in senders:
            sender.join()

    def p99(self, *kinds: str) -> float:
        """In milliseconds, from when each was due."""
        found = [answer.seconds * 1e3 for answer in self.answers if answer.kind in kinds]
        return quantiles(found, n=100)[-1] if len(found) > 1 else 0.0

    def _due(self, chance: random.Random) -> Iterator[tuple[float, str, random.Random]]:
        begun = time.monotonic()
        for number in count():
            due = begun + number / self.rate
            if due > begun + self.seconds:
                return
            (kind,) = chance.choices([*MIX], [*MIX.values()])
            yield due, kind, random.Random(number)

    def _send(self) -> None:
        while True:
            with self._lock:
                turn = next(self._turns, None)
            if turn is None:
                if kept := getattr(self._own, "connection", None):
                    kept.close()
                return
            due, kind, chance = turn
            time.sleep(max(0.0, due - time.monotonic()))
            try:
                getattr(self, f"_{kind}")(due, chance)
            except (OSError, HTTPException, ValueError) as error:
                self.answers.append(Answer(kind, time.monotonic() - due, 0, False))
                self.wrong.append(f"{kind}: {error!r}")

    def _submit(self, due: float, chance: random.Random) -> None:
        number = chance.randrange(10**12)
        pipeline, params = "ends", {}
        if number % FAILS_EVERY == 0:
            pipeline = "fails"
        elif number % WORKS_EVERY == 1:
            day = f"2025-11-{24 + number // WORKS_EVERY % 3}"
            pipeline, params = "otc_backfill_day", {"path": self.path, "day": day}
        body = {"pipeline": pipeline, "params": params, "on_conflict": "queue"}
        answer = self._ask("submit", due, "POST", "/executions", body, f"load-{number}")
        if answer is not None and "id" in answer:
            self.accepted[answer["id"]] = pipeline

    def _poll(self, due: float, chance: random.Random) -> None:
        if chosen := self._recent(chance):
            self._ask("poll", due, "GET", f"/executions/{chosen}")

    def _query(self, due: float, _chance: random.Random) -> None:
        self._ask("query", due, "GET", METRICS)

    def _stream(self, due: float, chance: random.Random) -> None:
        if chosen := self._recent(chance):
            self._ask("stream", due, "GET", f"/executions/{chosen}/events", stream=True)

    def _retry(self, due: float, chance: random.Random) -> None:
        listed = self._ask("letters", due, "GET", "/dead-letters?kind=execution")
        if listed and (letters := listed["items"]):
            chosen = chance.choice(letters)["id"]
            again = self._ask(
                "retry", time.monotonic(), "POST", f"/dead-letters/{chosen}/retry", {}
            )
            if again is not None and "id" in again:
                self.accepted[again["id"]] = "fails"

    def _recent(self, chance: random.Random) -> str | None:
        with self._lock:
            known = [*self.accepted][-KEPT:]
        return chance.choice(known) if known else None

    def _ask(
        self,
        kind: str,
        due: float,
        method: str,
        path: str,
        body: object = None,
        idempotency_key: str | None = None,
        *,
        stream: bool = False,
    ) -> Any:
        """What was answered, if it was done."""
        headers = {"Authorization": f"Bearer {self.key}"}
        if body is not None:
            headers["Content-Type"] = "application/json"
        if idempotency_key:
            headers["Idempotency-Key"] = idempotency_key
        if stream:
            headers["Accept"] = "text/event-stream"
        data = None if body is None else json.dumps(body).encode()
        answer, said = self._exchange(method, path, data, headers)
        told_when = answer.getheader("Retry-After") is not None
        self.answers.append(Answer(kind, time.monotonic() - due, answer.status, told_when))
        if answer.status in (200, 202):
            return None if stream else json.loads(said)
        if answer.status not in (429, 503) or not told_when:
            self.wrong.append(f"{kind} {answer.status}: {said[:300]!r}")
        return None

    def _exchange(
        self, method: str, path: str, data: bytes | None, headers: dict[str, str]
    ) -> tuple[HTTPResponse, bytes]:
        """Over the sender's own connection, or a new one where that has been idle for too long."""
        for is_last in (False, True):
            kept = getattr(self._own, "connection", None)
            connection = kept or HTTPConnection(urlsplit(self.address).netloc, timeout=60)
            self._own.connection = connection
            try:
                connection.request(method, path, data, headers)
                answer = connection.getresponse()
                return answer, answer.read()
            except (ConnectionError, HTTPException):
                connection.close()
                self._own.connection = None
                if is_last or kept is None:
                    raise
        raise AssertionError("the second time has returned or raised")
