"""Sale conditions: what a trade under each of them counts for, alone and together."""

from itertools import product

import pytest

from market_spine.services.otc.conditions import CONDITIONS, TAPE_CODES, eligibility
from tests.support import Spine
from tests.tape import trade

# By code: for prices and volume, for prices alone, for volume alone, for nothing.
BOTH, PRICE, VOLUME, NEITHER = "@456EFKLOPXZ", "9", "7BCHINRTUV", "MQ"


def test_every_code_of_the_tape_is_in_one_of_the_groups() -> None:
    assert sorted(BOTH + PRICE + VOLUME + NEITHER) == sorted(TAPE_CODES)


@pytest.mark.parametrize("code", BOTH + PRICE + VOLUME + NEITHER)
def test_a_code_decides_what_the_trade_counts_for(code: str, spine: Spine) -> None:
    spine.take(trade(conditions=code, price="12", size="5"))
    day = spine.day()
    priced, counted = code in BOTH + PRICE, code in BOTH + VOLUME
    for name in ("high_price", "low_price", "open_price", "close_price"):
        assert day[name] == ("12.000000" if priced else None)
    assert day["trade_count"] == counted
    assert day["total_volume"] == ("5.000000" if counted else "0.000000")
    assert day["total_notional"] == ("60.000000" if counted else "0.000000")
    assert day["vwap"] == ("12.00000000" if counted else None)


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


@pytest.mark.parametrize("code", BOTH + PRICE + VOLUME + NEITHER)
def test_a_cancel_is_eligible_for_nothing(code: str, spine: Spine) -> None:
    spine.take(trade(event="cancel", conditions=code))
    stands = spine.silver()["T1"]
    assert (stands["price_eligible"], stands["volume_eligible"]) == (False, False)
    day = spine.day()
    assert (day["trade_count"], day["vwap"], day["high_price"]) == (0, None, None)
