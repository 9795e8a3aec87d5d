"""Sale conditions: what a trade under each of them counts for, alone and together."""

from itertools import product
from typing import Any

import pytest

from market_spine.services.otc.conditions import CONDITIONS, TAPE_CODES, eligibility
from tests.support import Spine, spine_in
from tests.tape import trade

# By code: for prices and volume, for prices alone, for volume alone, for nothing.
BOTH, PRICE, VOLUME, NEITHER = "@456EFKLOPXZ", "9", "7BCHINRTUV", "MQ"


def test_every_code_of_the_tape_is_in_one_of_the_groups() -> None:
    assert sorted(BOTH + PRICE + VOLUME + NEITHER) == sorted(TAPE_CODES)


@pytest.fixture(scope="module")
def days(store: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """Gold of a trade, and of a cancel, under each code; the code and the event are its symbol."""
    rows = [
        trade(symbol(code, event), symbol=symbol(code, event), event=event, conditions=code)
        for code in BOTH + PRICE + VOLUME + NEITHER
        for event in ("original", "cancel")
    ]
    with spine_in(tmp_path_factory.mktemp("conditions"), store) as spine:
        spine.take(*rows)
        assert spine.letters() == []
        return {symbol: day for (symbol, _), day in spine.gold().items()}


def symbol(code: str, event: str) -> str:
    return f"{ord(code)}/{event[0].upper()}"


@pytest.mark.parametrize("code", BOTH + PRICE + VOLUME + NEITHER)
def test_a_code_decides_what_the_trade_counts_for(
    code: str, days: dict[str, dict[str, Any]]
) -> None:
    day = days[symbol(code, "original")]
    priced, counted = code in BOTH + PRICE, code in BOTH + VOLUME
    for name in ("high_price", "low_price", "open_price", "close_price"):
        assert day[name] == ("10.000000" if priced else None)
    assert day["trade_count"] == counted
    assert day["total_volume"] == ("100.000000" if counted else "0.000000")
    assert day["total_notional"] == ("1000.000000" if counted else "0.000000")
    assert day["vwap"] == ("10.00000000" if counted else None)


@pytest.mark.parametrize("code", BOTH + PRICE + VOLUME + NEITHER)
def test_a_cancel_is_eligible_for_nothing(code: str, days: dict[str, dict[str, Any]]) -> None:
    day = days[symbol(code, "cancel")]
    assert (day["trade_count"], day["vwap"], day["high_price"]) == (0, None, None)


def test_a_trade_counts_only_if_each_of_its_conditions_does() -> None:
    for one, other in product(TAPE_CODES, repeat=2):
        expected = tuple(one in BOTH + group and other in BOTH + group for group in (PRICE, VOLUME))
        assert eligibility(f"{TAPE_CODES[one]} {TAPE_CODES[other]}") == expected
    assert eligibility("") == (True, True)


def test_conditions_without_a_code_are_known_by_name() -> None:
    names = {name for name, condition in CONDITIONS.items() if not condition.code}
    assert {"bunched", "stopped", "yellow_flag", "trade_through_exempt"} <= names
    assert all(eligibility(name) == (True, True) for name in names)


def test_a_code_that_is_repeated_counts_once(spine: Spine) -> None:
    spine.take(trade(conditions="TIT"))
    assert spine.silver()["T1"]["conditions"] == "form_t odd_lot"
