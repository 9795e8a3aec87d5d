"""A replay finds whatever in silver and gold is not what bronze gives, and changes nothing."""

from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Decimal
from typing import Any

import pytest
from sqlalchemy import (
    ColumnElement,
    Executable,
    Table,
    delete,
    insert,
    literal,
    select,
    text,
    update,
)

from market_spine import database, progress
from market_spine.deadline import query_seconds
from market_spine.schema import (
    metadata,
    otc_metrics_daily,
    otc_stale_days,
    otc_trades,
    otc_trades_raw,
)
from market_spine.services.otc.replay import KEYS, NAMED
from tests import model
from tests.support import REPO, Spine, spine_in
from tests.tape import trade

SUNDAY, MONDAY, TUESDAY, WEDNESDAY, THURSDAY = (
    f"2025-12-{day:02}T12:00:00Z" for day in range(7, 12)
)
SILVER, GOLD = otc_trades.name, otc_metrics_daily.name
BAD = trade("BAD", trade_ts="2025-11-24T15:00:00")  # without a zone
CORRECTION = trade(event="correction", price="11", reported_at="2025-11-24T16:00:00Z")


def fill(spine: Spine) -> Spine:
    """Trades that were corrected, cancelled, sent twice or with other content, and a letter."""
    cancel = trade("T2", event="cancel", reported_at="2025-11-24T17:00:00Z")
    spine.take(trade(), trade("T2"), trade("T3", symbol="BOLT"), BAD)
    spine.take(CORRECTION, trade("T2"), trade("T3", symbol="BOLT", price="9"), at=WEDNESDAY)
    spine.take(cancel, trade("T4", price="12"), at=TUESDAY)
    return spine


@pytest.fixture
def filled(spine: Spine) -> Spine:
    """A store of the test's own."""
    return fill(spine)


@pytest.fixture(scope="module")
def shared(store: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Spine]:
    """A store that tests leave as it was."""
    with spine_in(tmp_path_factory.mktemp("shared"), store) as spine:
        yield fill(spine)


@contextmanager
def written(*changes: Executable) -> Iterator[None]:
    """What somebody does to the tables, and undoes in the end."""
    with database.transaction() as connection:
        kept = {table: connection.execute(select(table)).all() for table in KEYS}
        for change in changes:
            connection.execute(change)
    try:
        yield
    finally:
        with database.transaction() as connection:
            for table, rows in kept.items():
                connection.execute(delete(table))
                connection.execute(insert(table), [row._asdict() for row in rows])


def replayed(spine: Spine, *args: object) -> tuple[int, dict[str, Any]]:
    """The exit code, and what was found by table."""
    ended = spine("replay", *args, "--json")
    found = ended.json
    tables = {one.pop("table"): one for one in found.pop("tables")}
    return ended.code, found | tables


def everything(spine: Spine) -> dict[str, list[dict[str, Any]]]:
    """Every row of every table."""
    return {name: sorted(spine.rows(table), key=str) for name, table in metadata.tables.items()}


def equal(rows: int) -> dict[str, Any]:
    return {"same": rows, "differ": 0, "missing": 0, "additional": 0, "differences": []}


# --- what is as it should be -------------------------------------------------------------------


def test_what_the_pipelines_made_of_the_sample_does_not_differ(spine: Spine) -> None:
    days = {"start_date": "2025-11-24", "end_date": "2025-12-03"}
    spine.run("otc_backfill_range", path=REPO / "data/otc_sample.csv", **days)
    before = everything(spine)
    code, found = replayed(spine)
    assert found[SILVER] == equal(len(before[SILVER]))
    assert found[GOLD] == equal(len(before[GOLD]))
    assert (code, found["captures"]) == (0, len(before["otc_captures"]))
    assert found["rejected"] >= len(spine.rejected()) > 0
    assert everything(spine) == before
    assert replayed(spine, "--as-of", "2100-01-01T00:00:00Z")[0] == 0


def test_corrections_cancels_and_conflicts_are_replayed(shared: Spine) -> None:
    before = everything(shared)
    code, found = replayed(shared)
    assert (code, found[SILVER], found[GOLD]) == (0, equal(6), equal(2))
    assert (found["records"], found["rejected"]) == (9, 2)
    for at in (MONDAY, TUESDAY, WEDNESDAY):
        assert replayed(shared, "--as-of", at)[0] == 0
    assert everything(shared) == before


def test_an_empty_store_is_what_an_empty_bronze_gives(spine: Spine) -> None:
    code, found = replayed(spine)
    assert (code, found[SILVER], found[GOLD]) == (0, equal(0), equal(0))


def test_a_record_that_a_corrected_mapping_cures_is_missing_until_it_is_retried(
    filled: Spine,
) -> None:
    mapping = filled.folder / "mappings" / "otc.toml"
    cured = 'trade_ts = { column = "trade_ts", zone = "UTC" }'
    mapping.write_text(mapping.read_text().replace('trade_ts = "trade_ts"', cured))
    code, found = replayed(filled)
    assert (code, found[SILVER]["missing"], found[GOLD]["differ"]) == (1, 1, 1)
    (letter,) = (row["id"] for row in filled.letters() if row["field"] == "trade_ts")
    filled.ok("dead-letters", "retry", letter)
    filled.settle()
    code, found = replayed(filled)
    assert (code, found[SILVER]) == (0, equal(7))


# --- what is not -------------------------------------------------------------------------------

SILVER_ROW, GOLD_ROW = otc_trades.c, otc_metrics_daily.c
STANDS = (SILVER_ROW.trade_id == "T1") & SILVER_ROW.known_to.is_(None)
CLOSED = (SILVER_ROW.trade_id == "T1") & SILVER_ROW.known_to.is_not(None)
BOLT = GOLD_ROW.symbol == "BOLT"


def instant(text: str) -> str:
    return text.replace("Z", "+00:00")


def copy(table: Table, rows: ColumnElement[bool], **changed: Any) -> Executable:
    """Add a row like another, but for what is named."""
    names = [column.name for column in table.c if column.name != "version_id"]
    columns = [
        literal(changed[name], table.c[name].type) if name in changed else table.c[name]
        for name in names
    ]
    return insert(table).from_select(names, select(*columns).where(rows))


# What somebody does, and what is found: where, how, and the column with both its values.
WRITTEN: dict[str, tuple[Executable, str, str, tuple[Any, ...]]] = {
    "another price": (
        update(otc_trades).where(STANDS).values(price=Decimal("11.000001")),
        *(SILVER, "differs", ("price", "11.000001", "11.000000")),
    ),
    "a venue that nobody named": (
        update(otc_trades).where(STANDS).values(venue="ALFA"),
        *(SILVER, "differs", ("venue", "ALFA", None)),
    ),
    "a history that was not": (
        update(otc_trades).where(CLOSED).values(known_to=SILVER_ROW.known_from),
        *(SILVER, "differs", ("known_to", instant(MONDAY), instant(WEDNESDAY))),
    ),
    "a trade that is gone": (
        delete(otc_trades).where(STANDS),
        *(SILVER, "missing", (None, None, None)),
    ),
    "a trade that was made up": (
        copy(otc_trades, STANDS, trade_id="T9"),
        *(SILVER, "additional", (None, None, None)),
    ),
    "a version that is there twice": (
        copy(otc_trades, CLOSED),
        *(SILVER, "additional", (None, None, None)),
    ),
    "another metric": (
        update(otc_metrics_daily).where(BOLT).values(vwap=Decimal("10.00000001")),
        *(GOLD, "differs", ("vwap", "10.00000001", "10.00000000")),
    ),
    "a day that is gone": (
        delete(otc_metrics_daily).where(BOLT),
        *(GOLD, "missing", (None, None, None)),
    ),
    "a day that was made up": (
        copy(otc_metrics_daily, BOLT, symbol="CROW"),
        *(GOLD, "additional", (None, None, None)),
    ),
}


@pytest.mark.parametrize("name", WRITTEN)
def test_what_somebody_wrote_to_the_tables_is_named(name: str, shared: Spine) -> None:
    change, table, kind, values = WRITTEN[name]
    with written(change):
        before = everything(shared)
        code, found = replayed(shared)
        shown = shared("replay").out
        assert everything(shared) == before
    (difference,) = found[table]["differences"]
    assert (code, difference["kind"]) == (1, kind)
    assert tuple(difference[part] for part in ("column", "stored", "replayed")) == values
    assert found[table][{"differs": "differ"}.get(kind, kind)] == 1
    assert found[{SILVER: GOLD, GOLD: SILVER}[table]]["differences"] == []
    assert all(part in shown for part in (table, kind) if part)


def test_the_key_names_the_row(shared: Spine) -> None:
    with written(delete(otc_trades).where(STANDS), delete(otc_metrics_daily).where(BOLT)):
        _, found = replayed(shared)
    (trade_key,), (day_key,) = (
        [difference["key"] for difference in found[table]["differences"]]
        for table in (SILVER, GOLD)
    )
    assert trade_key == {
        "source": "otc",
        "trade_id": "T1",
        "record_hash": model.record_hash(CORRECTION),
    }
    assert day_key == {"symbol": "BOLT", "date": "2025-11-24"}


def test_of_many_differences_all_are_counted_and_some_named(spine: Spine) -> None:
    spine.take(*(trade(f"T{number}") for number in range(NAMED + 5)))
    with database.transaction() as connection:
        connection.execute(update(otc_trades).values(venue="ALFA", side="buy"))
    code, found = replayed(spine)
    assert (code, found[SILVER]["differ"], found[SILVER]["same"]) == (1, NAMED + 5, 0)
    assert len(found[SILVER]["differences"]) == NAMED


def test_as_of_an_instant_only_what_was_known_then_is_compared(shared: Spine) -> None:
    def found(row: ColumnElement[bool]) -> list[str]:
        """The instants as of which a change of these rows is found; "" is the present."""
        asked = {at: ("--as-of", at) for at in (SUNDAY, MONDAY, TUESDAY, WEDNESDAY)} | {"": ()}
        with written(update(otc_trades).where(row).values(venue="ALFA")):
            return [at for at, args in asked.items() if replayed(shared, *args)[0] == 1]

    assert found(CLOSED) == [MONDAY, TUESDAY, ""]
    assert found(STANDS) == [WEDNESDAY, ""]
    code, monday = replayed(shared, "--as-of", MONDAY)
    assert (code, monday["captures"], monday[SILVER], GOLD in monday) == (0, 1, equal(3), False)


def test_as_of_what_is_no_instant_is_refused(shared: Spine) -> None:
    shared("replay", "--as-of", "2025-12-08").fails(2, "--as-of", "zone")


# --- what has not come so far yet --------------------------------------------------------------


def test_a_capture_that_was_never_normalized_is_left_out(filled: Spine) -> None:
    later = trade(event="correction", price="12", reported_at="2025-11-25T15:00:00Z")
    filled.capture(later, trade("T5"), trade("T6"), at=THURSDAY)
    code, found = replayed(filled)
    assert (code, found["captures"], found["captures_left_out"]) == (0, 3, 1)
    assert replayed(filled, "--as-of", WEDNESDAY)[1]["captures_left_out"] == 0

    raw = filled.rows(otc_trades_raw)
    (raw_id,) = (row["raw_id"] for row in raw if row["record_hash"] == model.record_hash(later))
    filled.run("otc_normalize", raw_id=raw_id)
    assert filled.silver()["T1"]["price"] == "12.000000"
    code, found = replayed(filled)
    assert (code, found["captures_left_out"], found[SILVER]) == (0, 1, equal(7))

    filled.settle()
    code, found = replayed(filled)
    assert (code, found["captures"], found["captures_left_out"]) == (0, 4, 0)


def test_a_day_that_is_not_computed_yet_or_stale_is_left_out(filled: Spine) -> None:
    filled.capture(trade("T5"), trade("T6", symbol="CROW"), at=THURSDAY)
    filled.run("otc_normalize")
    code, found = replayed(filled)
    assert (code, found["days_left_out"], found[GOLD]) == (0, 2, equal(1))
    with database.transaction() as connection:
        connection.execute(delete(otc_stale_days))  # as if they were computed
    code, found = replayed(filled)
    assert (code, found[GOLD]["differ"], found[GOLD]["missing"]) == (1, 1, 1)


def test_a_day_that_cannot_be_computed_is_left_out(spine: Spine) -> None:
    spine.capture(*(trade(f"T{n}", price="10000000", size="100000") for n in range(10)))
    spine.run("otc_normalize")
    spine.submit("otc_compute_daily_metrics").fails(1, "ACME", "9.2 * 10^12")
    code, found = replayed(spine)
    assert (code, found["days_left_out"], found[SILVER]) == (0, 1, equal(10))


# --- while others work -------------------------------------------------------------------------


def test_a_replay_waits_for_nobody(filled: Spine) -> None:
    """Somebody has merged records, and has not committed."""
    filled.capture(trade("T5"), at=THURSDAY)
    with database.transaction() as connection:
        database.store().transaction_lock(connection, SILVER)
        connection.execute(update(otc_trades).values(venue="ALFA"))
        limit = query_seconds.set(60)  # or it would wait for ever
        assert replayed(filled)[0] == 0
        query_seconds.reset(limit)
        connection.rollback()


def test_nobody_waits_for_a_replay_nor_disturbs_it(filled: Spine, store: str) -> None:
    lately = iter([trade("T5"), trade("T6", symbol="CROW")])
    waiting = ["normalized", "computed"]

    def meanwhile(stage: str, _done: int, _total: int | None) -> None:
        if stage not in waiting:
            return
        waiting.remove(stage)
        if store == "postgresql":
            with database.snapshot() as connection:
                locks = text("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'")
                assert connection.execute(locks).scalar_one() == 0
        filled.take(next(lately), at=THURSDAY)

    with progress.listening(meanwhile):
        code, found = replayed(filled)
    assert not waiting
    assert (code, found[SILVER], found[GOLD]) == (0, equal(6), equal(2))
    assert {"T5", "T6"} <= {*filled.silver()}
    assert replayed(filled)[0] == 0
