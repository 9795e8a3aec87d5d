"""Mappings: another vendor's file by a TOML file alone, and what such a file may not say."""

import pytest

from tests.support import Spine

# As a vendor really sends it: no header, milliseconds of a day that the file's name tells, prices
# times 10,000, and conditions as the bits of a hexadecimal number.
VENDOR = """
columns = ["ms", "price", "size", "exchange", "flags", "suspicious"]
[fields]
symbol = { value = "ACME" }
price = { column = "price", scale = 10000 }
size = "size"
venue = "exchange"
[fields.trade_ts]
column = "ms"
unit = "ms"
date = { file_name = '(\\d{8})' }
zone = "America/New_York"
[fields.conditions]
column = "flags"
base = 16
flags = { 0 = "regular", 10 = "form_t", 24 = "official_close", 31 = "odd_lot" }
"""
BARE = """
[fields]
symbol = "s"
trade_ts = {time}
price = {price}
size = "q"
"""


def take(spine: Spine, mapping: str, text: str, name: str = "x.csv") -> None:
    (spine.folder / "mappings" / "vendor.toml").write_text(mapping)
    (spine.folder / name).write_text(text)
    spine.run("otc_ingest", source="vendor", path=name)
    spine.settle()


def test_a_vendor_s_file_without_a_header(spine: Spine) -> None:
    rows = [
        "34200688,491800,300,P,1,0",
        "34201540,488700,20,Q,80000400,0",
        "57600000,1,1,Z,1000000,0",
    ]
    take(spine, VENDOR, "\n".join(rows), "acme_20251124.csv")
    assert spine.letters() == []
    first, second, third = sorted(spine.silver().values(), key=lambda row: row["source_seq"])
    assert first["trade_ts"] == "2025-11-24T14:30:00.688000+00:00"
    assert (first["price"], first["size"], first["notional"]) == (
        *("49.180000", "300.000000", "14754.000000"),
    )
    assert (first["trade_id"], first["venue"], first["symbol"]) == (
        *("acme_20251124.csv:1", "P", "ACME"),
    )
    assert [row["conditions"] for row in (first, second, third)] == [
        *("regular", "form_t odd_lot", "official_close"),
    ]
    assert (third["trade_ts"], third["price"]) == ("2025-11-24T21:00:00+00:00", "0.000100")
    day = spine.day()
    assert (day["trade_count"], day["open_price"]) == (2, "49.180000")


@pytest.mark.parametrize(
    ("row", "field", "reason"),
    [
        ("34200688,491800,300,P,2,0", "conditions", "bit 1 of '2' is not a known flag"),
        ("34200688,491800,300,P,xyz,0", "conditions", "'xyz' is not a number in base 16"),
        ("34200688,491800,300,P,,0", "conditions", "is not a number in base 16"),
        ("34200688,491800,300,P,-1,0", "conditions", "is not a number in base 16"),
        ("86400000,491800,300,P,1,0", "trade_ts", "'86400000' is not a time"),
        ("-1,491800,300,P,1,0", "trade_ts", "'-1' is not a time"),
        ("1e3,491800,300,P,1,0", "trade_ts", "'1e3' is not a time"),
        (",491800,300,P,1,0", "trade_ts", "is missing"),
        ("34200688,0,300,P,1,0", "price", "not above zero"),
        ("34200688,abc,300,P,1,0", "price", "'abc'"),
        ("34200688,,300,P,1,0", "price", "is missing"),
        ("34200688,491800.001,300,P,1,0", "price", "more than 6 decimals"),
        ("34200688,491800,300,P,1", "row", "suspicious"),
        ("34200688,491800,300,P,1,0,9", "row", "more fields"),
    ],
)
def test_what_a_mapping_cannot_decode_is_a_letter(
    row: str, field: str, reason: str, spine: Spine
) -> None:
    take(spine, VENDOR, f"{row}\n34200688,491800,300,P,1,0\n", "acme_20251124.csv")
    if field == "row" and "suspicious" in reason:
        assert spine.letters() == [], "a column that no field reads may be missing"
        return
    ((named, why),) = spine.faults()
    assert named == field
    assert reason in why
    assert spine.day()["trade_count"] == 1


def test_a_file_without_a_date_in_its_name_has_letters(spine: Spine) -> None:
    take(spine, VENDOR, "34200688,491800,300,P,1,0\n", "acme.csv")
    assert [field for field, _ in spine.faults()] == ["trade_ts"]


def test_the_clock_of_a_vendor_follows_new_york(spine: Spine) -> None:
    for day, hour in [("20250307", "14"), ("20250310", "13")]:
        take(spine, VENDOR, "34200000,491800,300,P,1,0\n", f"acme_{day}.csv")
        found = {row["trade_ts"][:13] for row in spine.silver().values()}
        assert f"{day[:4]}-{day[4:6]}-{day[6:]}T{hour}" in found


@pytest.mark.parametrize(
    ("rule", "text", "instant"),
    [
        ('"t"', "2025-11-24T15:00:00Z", "2025-11-24T15:00:00"),
        (
            '{ column = "t", zone = "America/New_York" }',
            "2025-11-24 10:00:00",
            "2025-11-24T15:00:00",
        ),
        (
            '{ column = "t", zone = "America/New_York" }',
            "2025-07-01T10:00:00",
            "2025-07-01T14:00:00",
        ),
        ('{ column = "t", zone = "Asia/Tokyo" }', "2025-11-24T15:00:00Z", "2025-11-24T15:00:00"),
        (
            '{ column = "t", zone = "Asia/Tokyo" }',
            "2025-11-25T00:00:00.5",
            "2025-11-24T15:00:00.500000",
        ),
        ('{ column = "t", unit = "s" }', "1763996400", "2025-11-24T15:00:00"),
        ('{ column = "t", unit = "ms" }', "1763996400001", "2025-11-24T15:00:00.001000"),
        ('{ column = "t", unit = "us" }', "1763996400000001", "2025-11-24T15:00:00.000001"),
        (
            '{ column = "t", format = "%d/%m/%Y %H:%M", zone = "Europe/London" }',
            "24/11/2025 15:00",
            "2025-11-24T15:00:00",
        ),
        (
            '{ column = "t", format = "%H:%M", zone = "UTC", date = { column = "d" } }',
            "15:00",
            "2025-11-24T15:00:00",
        ),
        (
            '{ column = "t", unit = "s", zone = "UTC", date = { column = "d" } }',
            "54000",
            "2025-11-24T15:00:00",
        ),
    ],
)
def test_times_are_read_as_a_mapping_says(rule: str, text: str, instant: str, spine: Spine) -> None:
    mapping = BARE.format(time=rule, price='"p"')
    take(spine, mapping, f"s,t,d,p,q\nACME,{text},20251124,10,100\n")
    assert spine.faults() == []
    (stands,) = spine.silver().values()
    assert stands["trade_ts"] == f"{instant}+00:00"


@pytest.mark.parametrize(
    ("scale", "text", "price"),
    [
        (10000, "491800", "49.180000"),
        (10000, "491800.5", "49.180050"),
        (1000000, "1", "0.000001"),
        (8, "1", "0.125000"),
    ],
)
def test_a_scaled_price_is_exact(scale: int, text: str, price: str, spine: Spine) -> None:
    mapping = BARE.format(time='"t"', price=f'{{ column = "p", scale = {scale} }}')
    take(spine, mapping, f"s,t,p,q\nACME,2025-11-24T15:00:00Z,{text},100\n")
    (stands,) = spine.silver().values()
    assert stands["price"] == price


def test_a_price_that_a_scale_cannot_divide_is_a_letter(spine: Spine) -> None:
    mapping = BARE.format(time='"t"', price='{ column = "p", scale = 3 }')
    take(spine, mapping, "s,t,p,q\nACME,2025-11-24T15:00:00Z,1,100\n")
    ((field, reason),) = spine.faults()
    assert (field, "no exact value" in reason) == ("price", True)


@pytest.mark.parametrize(
    ("mapping", "culprit"),
    [
        ("fields = [", "not a TOML file"),
        ("", "fields"),
        ("[fields]\nsymbol = 's'\n", "needs trade_ts, price, size"),
        (VENDOR.replace('"size"\n', '"qty"\n'), "lacks qty"),
        (VENDOR + 'colour = "x"', "colour"),
        (VENDOR.replace("America/New_York", "Mars/Base"), "Mars/Base"),
        (VENDOR.replace('"form_t"', '"form_x"'), "form_x"),
        (VENDOR.replace("unit", "units"), "units"),
        (VENDOR.replace('unit = "ms"', 'unit = "hours"'), "unit"),
        (VENDOR.replace("scale = 10000", "scale = 0"), "scale"),
        (
            VENDOR.replace('size = "size"', 'size = { column = "size", zone = "UTC" }'),
            "fields.size",
        ),
        (VENDOR.replace('value = "ACME"', 'value = "A", column = "ms"'), "column or value"),
        (VENDOR.replace("(\\d{8})", "\\d{8}"), "one group"),
        ('delimiter = "ab"\n' + VENDOR, "delimiter"),
    ],
)
def test_a_mapping_that_makes_no_sense_is_named(mapping: str, culprit: str, spine: Spine) -> None:
    (spine.folder / "mappings" / "vendor.toml").write_text(mapping)
    (spine.folder / "acme_20251124.csv").write_text("34200688,491800,300,P,1,0\n")
    failed = spine.submit("otc_ingest", source="vendor", path="acme_20251124.csv")
    failed.fails(1, "vendor.toml", culprit)


def test_a_date_from_the_file_s_name_decides_which_files_are_read(spine: Spine) -> None:
    (spine.folder / "mappings" / "vendor.toml").write_text(VENDOR)
    (spine.folder / "tapes").mkdir()
    for day in ("20251124", "20251125", "20251126"):
        (spine.folder / "tapes" / f"acme_{day}.csv").write_text("34200688,491800,300,P,1,0\n")
    dates = {"start_date": "2025-11-25", "end_date": "2025-11-26"}
    parent = spine.run("otc_backfill_range", source="vendor", path="tapes", **dates)
    assert {day for _, day in spine.gold()} == {"2025-11-25", "2025-11-26"}
    children = spine.json("executions", "show", parent["id"])["children"]
    assert [child["result"]["records"] for child in children] == [1, 1]
