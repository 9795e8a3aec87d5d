"""Retention: what is old leaves the store whole, what is live or unresolved stays."""

from collections.abc import Iterator
from uuid import UUID

import pytest
from pyarrow import parquet  # type: ignore[import-untyped]
from sqlalchemy import Table, text

from market_spine import database, dispatcher
from market_spine.ledger import Execution
from market_spine.schema import dead_letters, execution_events, executions, otc_captures
from tests.retained import BRONZE, DAYS, LEDGER, Keeper, keeper_in
from tests.support import REPO, spine_in
from tests.tape import trade


@pytest.fixture
def keeper(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Keeper]:
    """A store that keeps everything for 30 days, with an archive."""
    with keeper_in(tmp_path_factory.mktemp("kept")) as found:
        yield found


def ended(keeper: Keeper, pipeline: str = "otc_normalize") -> UUID:
    """An execution that has ended, and was not aged yet."""
    keeper.spine.submit(pipeline)
    return UUID(keeper.spine.executions()[-1]["id"])


def queued(retry_of: UUID) -> Execution:
    """An execution that nobody carries out."""
    with database.transaction() as connection:
        return dispatcher.submit_in(connection, "otc_normalize", {}, retry_of=retry_of)


def left(keeper: Keeper, table: Table = executions) -> int:
    """How many rows are left when what is old has gone."""
    keeper.spine.ok("retention", "--apply")
    return keeper.spine.count(table)


# --- what goes ---------------------------------------------------------------------------------


def test_what_is_old_is_counted_then_removed_and_comes_back_as_it_was(keeper: Keeper) -> None:
    keeper.fill()
    before, expected = keeper.everything(), keeper.numbers()
    assert all(expected.values()), expected
    assert keeper.removed() == expected
    assert keeper.everything() == before
    assert not keeper.batches()

    assert keeper.removed("--apply") == expected
    assert {*keeper.numbers().values()} == {0}
    assert keeper.removed("--apply") == dict.fromkeys(expected, 0)
    restored = keeper.spine.json("retention", "restore")
    assert sum(row["new"] for row in restored) == sum(expected.values())
    assert keeper.everything() == before
    again = keeper.spine.json("retention", "restore")
    assert {row["new"] for row in again} == {0}
    assert keeper.everything() == before
    keeper.spine.check_ledger()


def test_what_is_young_stays(keeper: Keeper) -> None:
    keeper.fill()
    keeper.age(-80)  # of 100
    before = keeper.everything()
    assert {*keeper.removed("--apply").values()} == {0}
    assert keeper.everything() == before


# What stays of a filled store where a table has no policy.
WITHOUT = {
    "BRONZE": BRONZE,
    "EVENTS": (executions, execution_events),
    "EXECUTIONS": (executions, execution_events),
    "DEAD_LETTERS": (dead_letters,),
}


def test_old_data_that_was_loaded_lately_stays(keeper: Keeper) -> None:
    keeper.spine.take(trade(), at="2020-01-01T00:00:00Z")
    assert (keeper.removed()["otc_captures"], keeper.held(otc_captures)) == (0, 1)
    keeper.age()
    assert (keeper.removed()["otc_captures"], keeper.held(otc_captures)) == (1, 0)


@pytest.mark.parametrize("policy", WITHOUT)
def test_a_table_without_a_policy_loses_no_row(
    policy: str, keeper: Keeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    keeper.fill()
    before = keeper.numbers()
    monkeypatch.delenv(f"SPINE_RETAIN_{policy}_DAYS")
    keeper.spine.restart()
    keeper.spine.ok("retention", "--apply")
    after = keeper.numbers()
    for table in WITHOUT[policy]:
        assert after[table.name] == before[table.name]
    assert sum(after.values()) < sum(before.values())
    if policy == "DEAD_LETTERS":
        assert 0 < after["executions"] < before["executions"], "those with a letter stay"
    keeper.spine.check_ledger()


def test_the_longer_of_two_policies_holds(keeper: Keeper, monkeypatch: pytest.MonkeyPatch) -> None:
    ended(keeper)
    keeper.age()
    monkeypatch.setenv("SPINE_RETAIN_EVENTS_DAYS", "200")
    keeper.spine.restart()
    assert left(keeper) == 1
    monkeypatch.setenv("SPINE_RETAIN_EVENTS_DAYS", "99")
    keeper.spine.restart()
    assert left(keeper) == 0


def test_the_store_is_well_afterwards_and_what_went_is_not_found(keeper: Keeper) -> None:
    keeper.fill()
    gone = keeper.spine.executions()[0]["id"]
    keeper.spine.ok("retention", "--apply")
    assert keeper.spine.ok("doctor").out == "all is well\n"
    keeper.spine("executions", "show", gone).fails(2, gone)
    keeper.spine.take(trade("NEW"))
    assert keeper.spine.ok("doctor").out == "all is well\n"


@pytest.mark.parametrize("name", ["SPINE_ARCHIVE", "SPINE_RETAIN_EVENTS_DAYS"])
def test_policies_that_let_nothing_go_are_named_by_the_doctor(
    name: str, keeper: Keeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(name)
    keeper.spine.restart()
    (told,) = keeper.spine("doctor", "--json").json
    assert told["check"] == "retention"
    assert name in told["what"]


def test_batches_are_bounded_and_none_is_forgotten(
    keeper: Keeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(7):
        ended(keeper)
    keeper.age()
    monkeypatch.setattr("market_spine.retention.TREES", 3)
    assert keeper.removed("--apply")["executions"] == 7
    assert len(keeper.batches()) == 3


def test_a_batch_has_so_many_events_or_all_that_came_of_a_single_execution(
    keeper: Keeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An execution by itself has three events, and the backfill that of three executions."""
    ended(keeper)
    ended(keeper)
    keeper.spine.run("otc_backfill_range", path=REPO / "data/otc_sample.csv", **DAYS)
    ended(keeper)
    keeper.age()
    keeper.close_letters()
    before = keeper.everything()
    monkeypatch.setattr("market_spine.retention.EVENTS", 4)
    keeper.spine.ok("retention", "--apply")
    found = [one / "executions.parquet" for one in keeper.batches()]
    assert [parquet.read_metadata(file).num_rows for file in found if file.exists()] == [2, 3, 1]
    keeper.spine.ok("retention", "restore")
    assert keeper.everything() == before


# --- what stays --------------------------------------------------------------------------------


def test_a_tree_stays_until_all_of_it_is_old(keeper: Keeper) -> None:
    keeper.fill()
    whole = keeper.numbers(*LEDGER)
    with database.transaction() as connection:
        connection.execute(
            text(
                "UPDATE executions SET finished_at = now() WHERE id = "
                "(SELECT max(id::text)::uuid FROM executions WHERE parent_id IS NOT NULL)"
            )
        )
        tree = text("SELECT count(*) FROM executions WHERE pipeline LIKE 'otc_backfill%'")
        size = connection.execute(tree).scalar_one()
    assert size == 3
    assert left(keeper) == size
    assert keeper.held() == size
    keeper.age()
    assert left(keeper) == 0
    keeper.spine.ok("retention", "restore")
    assert keeper.numbers(*LEDGER) == whole


def test_what_failed_stays_until_its_letter_was_closed_long_ago(keeper: Keeper) -> None:
    keeper.spine.pipeline("fails", "raise ZeroDivisionError('by zero')")
    ended(keeper, "fails")
    keeper.age()
    assert left(keeper) == 1
    assert keeper.held() == 1
    keeper.close_letters()
    with database.transaction() as connection:
        connection.execute(text("UPDATE dead_letters SET closed_at = now()"))
    assert left(keeper) == 1, "the letter is young"
    keeper.close_letters()
    assert left(keeper) == 0
    assert keeper.spine.count(dead_letters) == 0


def test_what_is_being_done_again_stays_with_what_does_it(keeper: Keeper) -> None:
    first = ended(keeper)
    keeper.age()
    again = queued(retry_of=first)
    assert left(keeper) == 2
    dispatcher.cancel(again.id)
    assert left(keeper) == 2, "the end of it is young"
    keeper.age()
    assert left(keeper) == 0


def test_a_chain_of_retries_leaves_as_one(keeper: Keeper) -> None:
    keeper.spine.pipeline("fails", "raise ZeroDivisionError('by zero')")
    ended(keeper, "fails")
    for _ in range(2):
        (letter,) = keeper.spine.letters()
        keeper.spine("dead-letters", "retry", letter["id"])
    keeper.age()
    assert left(keeper) == 3, "the letter of the last is open"
    keeper.close_letters()
    before = keeper.everything()
    assert left(keeper) == 0
    keeper.spine.ok("retention", "restore")
    assert keeper.everything() == before


def test_what_claims_something_stays(keeper: Keeper) -> None:
    one = ended(keeper)
    keeper.age()
    with database.transaction() as connection:
        claim = "INSERT INTO resource_claims VALUES (:id, 'r', '*', now(), now(), true)"
        connection.execute(text(claim), {"id": one})
    assert left(keeper) == 1
    keeper.spine.ok("doctor", "--fix")
    assert left(keeper) == 0


def test_the_latest_tick_of_each_schedule_stays_and_is_not_submitted_again(keeper: Keeper) -> None:
    ticks = [("a", "2025-01-01"), ("a", "2025-01-02"), ("a.b", "2025-01-01"), ("b", "2024-01-01")]
    for name, day in ticks:
        key = f"schedule {name} {day}T00:00:00+00:00"
        one = dispatcher.submit("otc_normalize", {}, None, "schedule", idempotency_key=key)
        assert one.finished_at is not None
    keeper.age()
    assert left(keeper) == 3
    kept = {row["idempotency_key"][9:21].strip() for row in keeper.spine.rows(executions)}
    assert kept == {"a 2025-01-02", "a.b 2025-01-", "b 2024-01-01"}


def test_closed_letters_of_records_leave_before_what_wrote_them(
    keeper: Keeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SPINE_RETAIN_EXECUTIONS_DAYS")
    keeper.spine.restart()
    keeper.spine.take(trade("BAD", price="x"), trade("WORSE", price="y"))
    keeper.age()
    with database.transaction() as connection:
        closed = "UPDATE dead_letters SET closed_at = created_at WHERE payload LIKE '%BAD%'"
        assert connection.execute(text(closed)).rowcount == 1
    before = keeper.numbers()
    keeper.spine.ok("retention", "--apply")
    (stays,) = keeper.spine.rows(dead_letters)
    assert "WORSE" in stays["payload"]
    after = keeper.numbers()
    assert after["executions"] == before["executions"]
    assert after["otc_trades_raw"] == 2, "the record of the open letter is still to be had"


# --- among others ------------------------------------------------------------------------------


def test_what_others_hold_is_passed_over_without_waiting(keeper: Keeper) -> None:
    held, _ = ended(keeper), ended(keeper)
    keeper.spine.take(trade())
    capture = keeper.spine.rows(BRONZE[0])[0]["capture_id"]
    keeper.age()
    with database.transaction() as connection:
        for table, key, value in (
            ("executions", "id", held),
            ("otc_captures", "capture_id", capture),
        ):
            lock = f"SELECT 1 FROM {table} WHERE {key} = :value FOR NO KEY UPDATE"
            connection.execute(text(lock), {"value": value})
        keeper.spine.ok("retention", "--apply")
        assert [row["id"] for row in keeper.spine.rows(executions)] == [str(held)]
        assert keeper.spine.count(BRONZE[1]) == 1
    assert left(keeper) == 0
    assert keeper.spine.count(BRONZE[1]) == 0


def test_one_writes_to_the_archive_at_a_time(
    keeper: Keeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("market_spine.retention.PATIENCE", "100ms")
    ended(keeper)
    keeper.age()
    with database.transaction() as connection:
        database.store().transaction_lock(connection, "retention")
        (keeper.archive / ".unfinished").mkdir()
        keeper.spine("retention", "--apply").fails(3, "busy")
    assert (keeper.archive / ".unfinished").exists()
    assert left(keeper) == 0


def test_sqlite_keeps_everything(tmp_path_factory: pytest.TempPathFactory) -> None:
    with spine_in(tmp_path_factory.mktemp("small")) as spine:
        spine("retention").fails(2, "needs Postgres")
        spine("retention", "restore").fails(2, "needs Postgres")
