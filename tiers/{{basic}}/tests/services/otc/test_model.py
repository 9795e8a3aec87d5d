"""Whatever the captures and however they are normalized, the store equals the model."""

from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple
from uuid import UUID

from hypothesis import given, settings
from hypothesis import strategies as st

from market_spine import database, dispatcher
from market_spine.services.otc import queries
from tests import model
from tests.model import Captured, Version
from tests.support import Spine, plain, scaled, spine_in
from tests.tape import Row, trade

CAPTURED = [datetime(2025, 12, 8, hour, tzinfo=UTC) for hour in range(4)]
# Two instants of one New York day, the second one after midnight UTC, and one of the next day.
TRADED = ["2025-11-24T23:00:00Z", "2025-11-25T04:59:59.999999Z", "2025-11-25T15:00:00Z"]
REPORTED = ["", "2025-11-26T10:00:00Z", "2025-11-26T05:00:00-05:00", "2025-11-28T15:00:00Z"]

rows = st.builds(
    trade,
    trade_id=st.sampled_from(["A", "B", "C"]),
    source_seq=st.sampled_from(["1", "2", "10"]),
    event=st.sampled_from(["original", "original", "correction", "cancel"]),
    symbol=st.sampled_from(["ACME", "ACME", "ACME", "BOLT", "BOLT", ""]),
    trade_ts=st.sampled_from(TRADED),
    reported_at=st.sampled_from(REPORTED),
    price=st.sampled_from(["10", "10.01", "9.999999", "0.000001", "10000000", "0", "NaN"]),
    size=st.sampled_from(["100", "3", "0.000001", "0.333333", "99999.5"]),
    side=st.sampled_from(["", "buy", "sell"]),
    venue=st.sampled_from(["", "ALFA", "BRVO"]),
    conditions=st.sampled_from(["", "", "@", "I", "T", "9", "M", "4X", "TI", "y"]),
).filter(lambda row: model.faults(row) <= 1)
captures = st.lists(
    st.builds(Captured, st.sampled_from(CAPTURED), st.lists(rows, min_size=1, max_size=6)),
    min_size=1,
    max_size=4,
)


class Plan(NamedTuple):
    """Captures, the order of normalizing them, and after which of those gold is computed."""

    captures: list[Captured]
    order: list[int]
    computed: list[bool]


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    chosen = draw(captures)
    numbers = range(len(chosen))
    repeated = draw(st.lists(st.sampled_from(numbers), max_size=3))
    order = draw(st.permutations([*numbers, *repeated]))
    return Plan(chosen, [*order], draw(st.lists(st.booleans(), min_size=7, max_size=7)))


def run(pipeline: str, **params: object) -> UUID:
    """A pipeline through the dispatcher, because the command line takes longer."""
    execution = dispatcher.submit(pipeline, params)
    assert execution.status == "succeeded", execution
    return execution.id


def carry_out(spine: Spine, plan: Plan) -> None:
    ids = [
        run("otc_ingest", path=spine.tape(*capture.rows), captured_at=capture.at)
        for capture in plan.captures
    ]
    for number, computed in zip(plan.order, plan.computed, strict=False):
        run("otc_normalize", capture_id=ids[number])
        if computed:
            run("otc_compute_daily_metrics")
    run("otc_compute_daily_metrics")


def versions_in(spine: Spine) -> set[Version]:
    rows = spine.versions()
    found = {
        Version(
            row["trade_id"],
            row["record_hash"],
            datetime.fromisoformat(row["known_from"]),
            datetime.fromisoformat(row["known_to"]) if row["known_to"] else None,
        )
        for row in rows
    }
    assert len(found) == len(rows), "a version stands twice"
    return found


def check_as_of(symbols: set[str], captures: Sequence[Captured]) -> None:
    first, last = date(2025, 11, 24), date(2025, 11, 25)
    for instant in {CAPTURED[0] - timedelta(microseconds=1), *(c.at for c in captures)}:
        with database.snapshot() as connection:
            found = {
                (symbol, str(day.pop("date"))): {name: plain(day[name]) for name in model.METRICS}
                for symbol in symbols
                for day in queries.metrics_daily(connection, symbol, first, last, instant)
            }
        assert found == model.gold(model.winners_at(captures, instant))


@settings(max_examples=scaled(25))
@given(plan=plans())
def test_the_store_equals_the_model(store: str, plan: Plan) -> None:
    with TemporaryDirectory() as folder, spine_in(Path(folder), store) as spine:
        carry_out(spine, plan)
        expected = model.expected(plan.captures)
        assert versions_in(spine) == expected.versions
        assert spine.gold() == expected.gold
        assert {*spine.rejected()} == expected.letters
        assert len(spine.rejected()) == len(expected.letters)
        check_as_of({row["symbol"] for row in spine.versions()}, plan.captures)


def test_the_model_tells_the_records_of_a_trade_apart() -> None:
    """The model itself, on a case that can be checked by eye."""
    first: Row = trade(source_seq="1", price="10")
    other: Row = trade(source_seq="2", price="11")
    fixed: Row = trade(event="correction", price="12")
    found = model.expected([Captured(CAPTURED[0], [other]), Captured(CAPTURED[1], [first, fixed])])
    hashes = {name: model.record_hash(row) for name, row in [("other", other), ("fixed", fixed)]}
    assert found.letters == {(hashes["other"], "trade_id")}
    assert found.versions == {
        Version("T1", hashes["other"], CAPTURED[0], CAPTURED[1]),
        Version("T1", hashes["fixed"], CAPTURED[1], None),
        Version("T1", model.record_hash(first), CAPTURED[1], CAPTURED[1]),
    }
    assert found.gold["ACME", "2025-11-24"]["vwap"] == "12.00000000"
