"""Which record of a trade stands, and when it did, against the definition at every instant."""

from hypothesis import given
from hypothesis import strategies as st

from market_spine.services.otc.versions import History, Sighting, history

RANKS = ["original", "correction", "cancel"]
HOUR = 3_600_000_000  # microseconds


def at(hour: int) -> int:
    return 490_000 * HOUR + hour * HOUR


def seen(
    hour: int, name: str, event: str = "original", reported: int = 0, seq: int = 1, raw_id: int = 1
) -> Sighting:
    return Sighting(at(hour), raw_id, name, event, at(reported), seq)


@st.composite
def several_sightings(draw: st.DrawFn) -> list[Sighting]:
    """Some records of one trade, each seen in one or more captures, in any order."""
    records = draw(
        st.lists(
            st.tuples(st.sampled_from(RANKS), st.integers(0, 2), st.integers(1, 2)),
            min_size=1,
            max_size=6,
        )
    )
    sightings: list[Sighting] = []
    for number, (event, reported, seq) in enumerate(records):
        for hour in draw(st.lists(st.integers(0, 4), min_size=1, max_size=3)):
            raw_id = draw(st.integers(1, 99)) * 100 + len(sightings)
            sightings.append(seen(hour, f"{number:x}", event, reported, seq, raw_id))
    return [*draw(st.permutations(sightings))]


def winner_at(sightings: list[Sighting], instant: int) -> str | None:
    """The winner among the captures up to an instant."""
    known = [sighting for sighting in sightings if sighting.captured_at <= instant]
    if not known:
        return None
    rank = max(RANKS.index(sighting.event) for sighting in known)
    equals = {
        (sighting.reported_at, sighting.source_seq, sighting.record_hash)
        for sighting in known
        if RANKS.index(sighting.event) == rank
    }
    return (max(equals) if rank else min(equals))[2]


def open_at(told: History, instant: int) -> str | None:
    names = [
        version.record.record_hash
        for version in told.versions
        if version.known_from <= instant
        and (version.known_to is None or instant < version.known_to)
    ]
    assert len(names) <= 1
    return names[0] if names else None


@given(several_sightings())
def test_the_version_at_an_instant_is_the_winner_up_to_then(sightings: list[Sighting]) -> None:
    told = history(sightings)
    for half_hours in range(-1, 12):
        instant = at(0) + half_hours * HOUR // 2
        assert open_at(told, instant) == winner_at(sightings, instant)


@given(several_sightings())
def test_every_record_is_a_version_or_rejected(sightings: list[Sighting]) -> None:
    told = history(sightings)
    originals = {
        (sighting.reported_at, sighting.source_seq, sighting.record_hash)
        for sighting in sightings
        if sighting.event == "original"
    }
    losers = {name for *_, name in sorted(originals)[1:]}
    assert {sighting.record_hash for sighting in told.rejected} == losers
    assert len(told.rejected) == len(losers)
    names = [version.record.record_hash for version in told.versions]
    assert len(names) == len(set(names))
    assert {*names} | losers == {sighting.record_hash for sighting in sightings}
    for version in told.versions:
        mine = [s for s in sightings if s.record_hash == version.record.record_hash]
        assert version.known_from >= min(sighting.captured_at for sighting in mine)


@given(several_sightings(), st.randoms(use_true_random=False))
def test_the_order_of_sightings_changes_nothing(sightings: list[Sighting], random: object) -> None:
    shuffled = sorted(sightings, key=lambda _: random.random())  # type: ignore[attr-defined]
    assert history(shuffled) == history(sightings)


def test_a_record_that_is_superseded_as_it_arrives_never_stood() -> None:
    told = history([seen(0, "b", "correction"), seen(1, "a", "original")])
    assert [(v.record.record_hash, v.known_from, v.known_to) for v in told.versions] == [
        ("b", at(0), None),
        ("a", at(1), at(1)),
    ]
    assert told.rejected == []


def test_an_original_that_stood_until_a_lower_one_came_is_rejected_too() -> None:
    told = history([seen(0, "a", seq=2), seen(1, "b", seq=1)])
    assert [(v.record.record_hash, v.known_from, v.known_to) for v in told.versions] == [
        ("a", at(0), at(1)),
        ("b", at(1), None),
    ]
    assert [sighting.record_hash for sighting in told.rejected] == ["a"]


def test_an_original_that_never_stood_is_no_version() -> None:
    told = history([seen(0, "a", seq=1), seen(1, "b", seq=2)])
    assert [version.record.record_hash for version in told.versions] == ["a"]
    assert [sighting.record_hash for sighting in told.rejected] == ["b"]
