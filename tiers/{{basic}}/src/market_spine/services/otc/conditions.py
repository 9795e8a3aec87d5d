"""Sale conditions, and what a trade under them counts for.

The consolidated tape's guidelines say for each condition whether a trade updates the high and low,
the last price and the volume (Consolidated Tape System, Participant Input Specification, table of
sale conditions; for the last group, the UTP Data Feed Services Specification). Here the two price
columns are one, because open and close go by the time of the trade and not by its arrival: a trade
that was sold out of sequence is in its right place. Average-price, cash, next-day, Form T,
extended-hours, price-variation and odd-lot trades are outside high, low, open and close but inside
volume; official open and close messages repeat a trade and are outside both.
"""

from functools import lru_cache
from typing import NamedTuple


class Condition(NamedTuple):
    """One sale condition: its code on the tape, if it has one, and what it counts for."""

    code: str
    price_eligible: bool
    volume_eligible: bool


CONDITIONS = {
    "regular": Condition("@", True, True),
    "average_price": Condition("B", False, True),
    "cash": Condition("C", False, True),
    "automatic_execution": Condition("E", True, True),
    "intermarket_sweep": Condition("F", True, True),
    "price_variation": Condition("H", False, True),
    "odd_lot": Condition("I", False, True),
    "rule_127_155": Condition("K", True, True),
    "sold_last": Condition("L", True, True),
    "official_close": Condition("M", False, False),
    "next_day": Condition("N", False, True),
    "opening": Condition("O", True, True),
    "prior_reference_price": Condition("P", True, True),
    "official_open": Condition("Q", False, False),
    "seller": Condition("R", False, True),
    "form_t": Condition("T", False, True),
    "extended_hours": Condition("U", False, True),
    "contingent": Condition("V", False, True),
    "cross": Condition("X", True, True),
    "sold_out_of_sequence": Condition("Z", True, True),
    "derivatively_priced": Condition("4", True, True),
    "reopening": Condition("5", True, True),
    "closing": Condition("6", True, True),
    "qualified_contingent": Condition("7", False, True),
    "corrected_close": Condition("9", True, False),
    # Without a code on that tape; vendors report them all the same.
    "acquisition": Condition("", True, True),
    "bunched": Condition("", True, True),
    "bunched_sold": Condition("", True, True),
    "cap_election": Condition("", True, True),
    "distribution": Condition("", True, True),
    "split": Condition("", True, True),
    "stock_option": Condition("", True, True),
    "stopped": Condition("", True, True),
    "trade_through_exempt": Condition("", True, True),
    "yellow_flag": Condition("", True, True),
}

TAPE_CODES = {condition.code: name for name, condition in CONDITIONS.items() if condition.code}


@lru_cache(maxsize=4096)
def eligibility(names: str) -> tuple[bool, bool]:
    """Whether a trade counts for prices and for volume: only if every one of its conditions does.

    Args:
        names: condition names with a space between them; none is a regular trade.

    Raises:
        KeyError: a name is not in the table.
    """
    found = [CONDITIONS[name] for name in names.split()]
    return all(c.price_eligible for c in found), all(c.volume_eligible for c in found)
