"""Bronze: everything that the source sent, as it was sent, with a hash that names the record."""

import json

from market_spine.schema import otc_captures, otc_trades_raw
from tests import model
from tests.support import Spine
from tests.tape import trade


def test_a_capture_holds_every_row_as_it_was_sent(spine: Spine) -> None:
    odd = trade("T2", price="abc", venue='a "quoted", one')
    capture_id = spine.capture(trade(), trade(), odd, "short,row", "", trade("T3"))
    rows = spine.rows(otc_trades_raw)
    assert [row["source_row"] for row in rows] == [1, 2, 3, 4, 5], "a blank line is no record"
    assert {row["capture_id"] for row in rows} == {capture_id}
    assert {(row["source"], row["source_file"]) for row in rows} == {("otc", "tape.csv")}
    assert {row["captured_at"] for row in rows} == {"2025-12-08T12:00:00+00:00"}
    payloads = [json.loads(row["payload"]) for row in rows]
    assert payloads[:2] == [trade(), trade()]
    assert payloads[2]["venue"] == 'a "quoted", one'
    assert payloads[3] == {"trade_id": "short", "source_seq": "row"}
    (capture,) = spine.rows(otc_captures)
    assert (capture["row_count"], capture["source"]) == (5, "otc")


def test_the_payload_is_json_with_sorted_keys_and_the_hash_covers_it(spine: Spine) -> None:
    row = trade("\u00fc", venue="ALFA")
    spine.capture(row)
    (raw,) = spine.rows(otc_trades_raw)
    text = json.dumps(row, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    assert raw["payload"] == text
    assert raw["record_hash"] == model.record_hash(row)


def test_the_hash_is_the_one_that_it_always_was(spine: Spine) -> None:
    """A store of last year's holds such hashes: they must not change."""
    spine.capture(trade())
    (raw,) = spine.rows(otc_trades_raw)
    assert raw["record_hash"] == "c3ae01f8e86818720e686c5ddcbbbe091753a9c3a7db60b762ab6711ba407ce0"


def test_the_same_row_has_the_same_hash_whichever_file_and_capture_it_is_in(spine: Spine) -> None:
    spine.capture(trade("T0"), trade(), name="monday.csv")
    spine.capture(trade(), name="tuesday.csv", at="2025-12-09T12:00:00Z")
    hashes = [row["record_hash"] for row in spine.rows(otc_trades_raw)]
    assert hashes[1] == hashes[2] != hashes[0]


def test_the_same_row_from_another_source_is_another_record(spine: Spine) -> None:
    mappings = spine.folder / "mappings"
    (mappings / "twin.toml").write_text((mappings / "otc.toml").read_text())
    spine.capture(trade())
    spine.capture(trade(), source="twin")
    one, other = spine.rows(otc_trades_raw)
    assert one["payload"] == other["payload"]
    assert one["record_hash"] != other["record_hash"]
    spine.settle()
    assert {row["source"] for row in spine.versions()} == {"otc", "twin"}
    assert spine.day()["trade_count"] == 2


def test_a_second_ingest_is_a_second_capture(spine: Spine) -> None:
    spine.take(trade(), trade("T2"))
    before = spine.state()
    spine.take(trade(), trade("T2"), at="2025-12-09T12:00:00Z")
    assert spine.count(otc_captures) == 2
    assert spine.count(otc_trades_raw) == 4
    assert spine.state() == before


def test_a_capture_of_no_rows_is_a_capture(spine: Spine) -> None:
    spine.capture()
    assert spine.run("otc_normalize")["result"]["captures"] == 1
    (capture,) = spine.rows(otc_captures)
    assert (capture["row_count"], capture["first_raw_id"]) == (0, None)
