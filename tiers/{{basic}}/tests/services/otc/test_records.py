"""One record: every way in which it can break a rule, the limits, and what a good one says."""

from typing import NamedTuple

import pytest

from tests.support import Spine, spine_in
from tests.tape import Row, trade

HUGE = "9" * 500
# Each kind of malformed row: what it sends, the field that must be named, and words of the reason.
MALFORMED: dict[str, tuple[dict[str, str], str, str]] = {
    "trade_id missing": ({"trade_id": ""}, "trade_id", "is missing"),
    "trade_id long": ({"trade_id": "L" * 65}, "trade_id", "longer than 64"),
    "source_seq missing": ({"source_seq": ""}, "source_seq", "is missing"),
    "source_seq word": ({"source_seq": "12a"}, "source_seq", "'12a'"),
    "source_seq negative": ({"source_seq": "-1"}, "source_seq", "'-1'"),
    "source_seq fraction": ({"source_seq": "1.0"}, "source_seq", "'1.0'"),
    "source_seq beyond": ({"source_seq": str(2**63)}, "source_seq", str(2**63)),
    "event missing": ({"event": ""}, "event", "original, correction, cancel"),
    "event unknown": ({"event": "amend"}, "event", "'amend'"),
    "event in capitals": ({"event": "CANCEL"}, "event", "'CANCEL'"),
    "symbol missing": ({"symbol": ""}, "symbol", "is missing"),
    "symbol small letters": ({"symbol": "acme"}, "symbol", "'acme'"),
    "symbol space": ({"symbol": "ACME F"}, "symbol", "'ACME F'"),
    "symbol long": ({"symbol": "A" * 17}, "symbol", "A" * 17),
    "symbol first sign": ({"symbol": ".ACME"}, "symbol", "'.ACME'"),
    "trade_ts missing": ({"trade_ts": ""}, "trade_ts", "is missing"),
    "trade_ts words": ({"trade_ts": "yesterday noon"}, "trade_ts", "not an ISO 8601 time"),
    "trade_ts no such day": ({"trade_ts": "2025-02-29T15:00:00Z"}, "trade_ts", "not an ISO 8601"),
    "trade_ts no such hour": ({"trade_ts": "2025-11-24T24:00:01Z"}, "trade_ts", "not an ISO 8601"),
    "trade_ts zoneless": ({"trade_ts": "2025-11-24T15:00:00"}, "trade_ts", "no time zone"),
    "trade_ts date alone": ({"trade_ts": "2025-11-24"}, "trade_ts", "no time zone"),
    "trade_ts decimals": (
        {"trade_ts": "2025-11-24T15:00:00.0000001Z"},
        "trade_ts",
        "more than 6 decimals",
    ),
    "trade_ts decimals, basic": (
        {"trade_ts": "20251124T150000.1234567Z"},
        "trade_ts",
        "more than 6 decimals",
    ),
    "trade_ts early": ({"trade_ts": "1969-12-31T23:59:59Z"}, "trade_ts", "1970 and 2199"),
    "trade_ts early in UTC": ({"trade_ts": "1970-01-01T00:00:00+05:00"}, "trade_ts", "1970"),
    "trade_ts late": ({"trade_ts": "2200-01-01T00:00:00Z"}, "trade_ts", "1970 and 2199"),
    "trade_ts last": ({"trade_ts": "9999-12-31T23:59:59-05:00"}, "trade_ts", "1970 and 2199"),
    "trade_ts first": ({"trade_ts": "0001-01-01T00:00:00+05:00"}, "trade_ts", "1970 and 2199"),
    "reported_at words": ({"reported_at": "later"}, "reported_at", "'later'"),
    "reported_at zoneless": ({"reported_at": "2025-11-24T15:00:00"}, "reported_at", "no time zone"),
    "reported_at range": ({"reported_at": "2200-01-01T00:00:00Z"}, "reported_at", "1970 and 2199"),
    **{
        f"{field} {kind}": ({field: text}, field, reason)
        for field in ("price", "size")
        for kind, text, reason in [
            ("missing", "", "is missing"),
            ("word", "abc", "'abc' is not a plain decimal number"),
            ("nan", "NaN", "'NaN' is not a plain decimal number"),
            ("infinity", "inf", "'inf' is not a plain decimal number"),
            ("exponent", "1e400", "'1e400' is not a plain decimal number"),
            ("small exponent", "1e1", "'1e1' is not a plain decimal number"),
            ("plus sign", "+1", "'+1' is not a plain decimal number"),
            ("thousands", "1_000", "'1_000' is not a plain decimal number"),
            ("space", " 1", "' 1' is not a plain decimal number"),
            ("other digits", "\uff11\uff12", "is not a plain decimal number"),
            ("bare point", "1.", "'1.' is not a plain decimal number"),
            ("no whole part", ".5", "'.5' is not a plain decimal number"),
            ("negative", "-12.5", "'-12.5' is not above zero"),
            ("zero", "0", "'0' is not above zero"),
            ("zero with decimals", "0.000000", "is not above zero"),
            ("9 decimals", "12.123456789", "has more than 6 decimals"),
            ("trailing zeros", "1.0000000", "has more than 6 decimals"),
            ("500 digits", HUGE, "9" * 40),
        ]
    },
    "price beyond": ({"price": "10000000.000001"}, "price", "above 10000000"),
    "size beyond": ({"size": "10000000000.000001"}, "size", "above 10000000000"),
    "notional beyond": ({"price": "10000000", "size": "100001"}, "notional", "above 1000000000000"),
    "notional rounds beyond": (
        {"price": "100.000080", "size": "9999992000.006400"},
        "notional",
        "above 1000000000000",
    ),
    "side unknown": ({"side": "short"}, "side", "'short'"),
    "side in capitals": ({"side": "BUY"}, "side", "'BUY'"),
    "venue sign": ({"venue": "QU-AY"}, "venue", "'QU-AY'"),
    "venue small letters": ({"venue": "quay"}, "venue", "'quay'"),
    "venue long": ({"venue": "V" * 9}, "venue", "V" * 9),
    "conditions unknown": ({"conditions": "@y"}, "conditions", "'y'"),
    "conditions space": ({"conditions": "T I"}, "conditions", "' '"),
    # Of several faults the first one in the order of the layout is named.
    "all at once": ({"event": "x", "symbol": "", "price": "x", "side": "y"}, "event", "'x'"),
    "price and side": ({"price": "abc", "side": "y"}, "price", "'abc'"),
    "size and notional": ({"price": "10000000", "size": "0"}, "size", "above zero"),
}
SHAPES = {
    "short": ("SHORT,1,original,ACME,2025-11-24T15:00:00Z,,10,100,", "'venue'"),
    "one field": ("lonely", "lacks the field"),
    "long": ("LONG,1,original,ACME,2025-11-24T15:00:00Z,,10,100,,,,surplus", "more fields"),
    "short and bad": ("BAD,x,original,ACME,2025-11-24T15:00:00Z,,10,x", "lacks the field"),
}


def malformed(kind: str) -> Row:
    number = [*MALFORMED].index(kind)
    return trade(**{"trade_id": f"M{number}", **MALFORMED[kind][0]})


class Outcome(NamedTuple):
    """What became of one tape that has a row of every malformed kind between two good ones."""

    letters: dict[int, dict[str, str]]  # by the row's number
    silver: set[str]
    trade_count: int


@pytest.fixture(scope="module")
def outcome(store: str, tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    with spine_in(tmp_path_factory.mktemp("malformed"), store) as spine:
        rows = [malformed(kind) for kind in MALFORMED]
        lines = [line for line, _ in SHAPES.values()]
        spine.take(*rows, *lines, trade("GOOD-1"), trade("GOOD-2"))
        letters = {letter["raw_id"]: letter for letter in spine.letters()}
        return Outcome(letters, {*spine.silver()}, spine.day()["trade_count"])


@pytest.mark.parametrize("kind", MALFORMED)
def test_a_malformed_record_is_a_letter_that_names_the_field(kind: str, outcome: Outcome) -> None:
    _, field, reason = MALFORMED[kind]
    letter = outcome.letters[[*MALFORMED].index(kind) + 1]
    assert letter["kind"] == "record"
    assert letter["field"] == field
    assert reason in letter["reason"]
    assert len(letter["reason"]) < 200, "a reason is a line, however long the field"


@pytest.mark.parametrize("shape", SHAPES)
def test_a_row_of_another_shape_is_a_letter_for_the_row(shape: str, outcome: Outcome) -> None:
    letter = outcome.letters[len(MALFORMED) + [*SHAPES].index(shape) + 1]
    assert letter["field"] == "row"
    assert SHAPES[shape][1] in letter["reason"]
    assert SHAPES[shape][0].split(",")[0] in letter["payload"]


def test_the_good_records_of_a_batch_go_through(outcome: Outcome) -> None:
    assert outcome.silver == {"GOOD-1", "GOOD-2"}
    assert outcome.trade_count == 2
    assert len(outcome.letters) == len(MALFORMED) + len(SHAPES)


def test_silver_says_what_the_record_said(spine: Spine) -> None:
    row = trade(
        "T-1",
        source_seq="9223372036854775807",
        event="correction",
        symbol="BRK/A.WS-1",
        trade_ts="2025-11-24T19:30:00.123456-05:00",
        reported_at="2025-11-25T09:30:00-05:00",
        price="12.345678",
        size="0.333333",
        side="sell",
        venue="ATS12345",
        conditions="TI",
    )
    spine.take(row)
    stands = spine.silver()["T-1"]
    assert len(stands.pop("record_hash")) == 64
    assert stands == {
        "trade_id": "T-1",
        "event": "correction",
        "symbol": "BRK/A.WS-1",
        "trade_date": "2025-11-24",
        "trade_ts": "2025-11-25T00:30:00.123456+00:00",
        "reported_at": "2025-11-25T14:30:00+00:00",
        "source_seq": 2**63 - 1,
        "price": "12.345678",
        "size": "0.333333",
        "notional": "4.115222",
        "side": "sell",
        "venue": "ATS12345",
        "conditions": "form_t odd_lot",
        "price_eligible": False,
        "volume_eligible": True,
        "source": "otc",
        "known_from": "2025-12-08T12:00:00+00:00",
        "known_to": None,
    }


def test_empty_fields_have_their_defaults(spine: Spine) -> None:
    spine.take(trade())
    stands = spine.silver()["T1"]
    assert stands["reported_at"] == stands["trade_ts"]
    assert (stands["side"], stands["venue"], stands["conditions"]) == (None, None, "")
    assert (stands["price_eligible"], stands["volume_eligible"]) == (True, True)


WITHIN: list[dict[str, str]] = [
    {"trade_id": "L" * 64},
    {"trade_id": "\u00fc \u2713"},
    {"source_seq": "0"},
    {"source_seq": str(2**63 - 1)},
    {"symbol": "A"},
    {"symbol": "0123456789./-ABC"},
    {"trade_ts": "1970-01-01T00:00:00Z"},
    {"trade_ts": "2199-12-31T23:59:59.999999Z"},
    {"trade_ts": "2200-01-01T00:30:00+01:00"},
    {"trade_ts": "2025-11-24T15:00:00.5Z"},
    {"reported_at": "1970-01-01T00:00:00Z"},
    {"price": "10000000"},
    {"price": "10000000.000000"},
    {"price": "0.000001"},
    {"price": "000000000010"},
    {"size": "10000000000", "price": "100"},
    {"size": "0.000001"},
    {"price": "100.000001", "size": "9999999900.000001"},  # rounds to the maximum itself
    {"venue": "V"},
    {"venue": "12345678"},
]


def test_what_is_just_within_a_limit_is_read(spine: Spine) -> None:
    rows = [trade(**{"trade_id": f"W{n}", **fields}) for n, fields in enumerate(WITHIN)]
    spine.capture(*rows)
    spine.run("otc_normalize")
    assert spine.faults() == []
    assert spine.silver().keys() == {row["trade_id"] for row in rows}


NOTIONALS = [
    ("12.34", "100", "1234.000000"),
    ("0.333333", "3", "0.999999"),
    ("10000000", "100000", "1000000000000.000000"),
    ("100.000001", "9999999900.000001", "1000000000000.000000"),
    ("12.50", "0.000001", "0.000012"),  # a half goes down to the even one
    ("14.50", "0.000001", "0.000014"),
    ("13.50", "0.000001", "0.000014"),  # and up to the even one
    ("0.000001", "0.5", "0.000000"),
    ("0.000001", "0.500001", "0.000001"),
    ("0.000003", "0.5", "0.000002"),
    ("9999999.999999", "0.999999", "9999989.999999"),
]


def test_notional_is_rounded_half_even_to_6_decimals(spine: Spine) -> None:
    rows = [trade(f"N{n}", price=price, size=size) for n, (price, size, _) in enumerate(NOTIONALS)]
    spine.capture(*rows)
    spine.run("otc_normalize")
    found = [spine.silver()[row["trade_id"]]["notional"] for row in rows]
    assert found == [notional for _, _, notional in NOTIONALS]


def test_the_letter_of_a_row_keeps_its_payload_and_place(spine: Spine) -> None:
    capture_id = spine.capture(trade("GOOD"), trade("BAD", price="abc"))
    normalized = spine.run("otc_normalize")
    (letter,) = spine.letters()
    assert letter["capture_id"] == capture_id
    assert letter["execution_id"] == normalized["id"]
    assert letter["payload"] == (
        '{"conditions":"","event":"original","price":"abc","reported_at":"","side":"","size":"100",'
        '"source_seq":"1","symbol":"ACME","trade_id":"BAD","trade_ts":"2025-11-24T15:00:00Z",'
        '"venue":""}'
    )
    counts = {"captures": 1, "read": 2, "rejected": 1, "new_versions": 1, "unchanged": 0}
    assert normalized["result"] == counts
