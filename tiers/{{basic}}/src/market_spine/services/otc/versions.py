"""Which record of a trade stands, and when it did: a pure function of what the source said.

A trade's records rank original, then correction, then cancel, and within those by (reported_at,
source_seq, record_hash). Of conflicting originals the lowest stands and the others are rejected.
The version at an instant is the winner among the captures up to then, so neither the order in which
captures are normalized nor how often a record is seen changes anything.
"""

from collections.abc import Iterable
from itertools import groupby
from typing import NamedTuple

from market_spine.services.otc.records import EVENTS


class Sighting(NamedTuple):
    """A record in a capture. Equal `record_hash`: the same record, seen again."""

    captured_at: int  # microseconds since 1970
    raw_id: int
    record_hash: str
    event: str
    reported_at: int  # microseconds since 1970
    source_seq: int


class Version(NamedTuple):
    """A record and when it was the best one known; equal instants: it never was."""

    record: Sighting
    known_from: int
    known_to: int | None


class History(NamedTuple):
    """All that silver and the dead letters hold of one trade."""

    versions: list[Version]
    rejected: list[Sighting]  # conflicting originals


def history(sightings: Iterable[Sighting]) -> History:
    """The versions of one trade, oldest first, and its rejected originals."""
    first: dict[str, Sighting] = {}
    for sighting in sorted(sightings, key=lambda s: (s.captured_at, s.raw_id)):
        first.setdefault(sighting.record_hash, sighting)

    won: list[tuple[Sighting, int]] = []  # each winner, and since when
    best: Sighting | None = None
    for instant, arrived in groupby(first.values(), key=lambda s: s.captured_at):
        challenger = min([*arrived, *([best] if best else [])], key=_place)
        if challenger is not best:
            best = challenger
            won.append((best, instant))
    ends = [*(instant for _, instant in won[1:]), None]
    versions = [Version(record, since, end) for (record, since), end in zip(won, ends, strict=True)]

    winners = {record.record_hash for record, _ in won}
    originals = sorted((s for s in first.values() if s.event == EVENTS[0]), key=_place)
    rejected = originals[1:]
    refused = {record.record_hash for record in rejected}
    superseded = [
        Version(record, record.captured_at, record.captured_at)
        for record in first.values()
        if record.record_hash not in winners | refused
    ]
    return History(sorted(versions + superseded, key=lambda v: v.known_from), rejected)


def _place(sighting: Sighting) -> tuple[int, int, int, int]:
    """Sorts the winner first: the highest rank, but among originals the lowest."""
    sign = 1 if sighting.event == EVENTS[0] else -1
    return (
        -EVENTS.index(sighting.event),
        sign * sighting.reported_at,
        sign * sighting.source_seq,
        sign * int.from_bytes(sighting.record_hash.encode()),  # hashes are of one length
    )
