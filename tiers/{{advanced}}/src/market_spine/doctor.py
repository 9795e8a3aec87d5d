"""The doctor: looks at everything that can be wrong, and says what to type."""

from collections.abc import Iterator
from importlib import import_module
from pkgutil import iter_modules
from typing import NamedTuple

from market_spine import checks
from market_spine.checks import Finding
from market_spine.errors import SpineError


class Diagnosis(NamedTuple):
    """What one check has found, and what was done about it."""

    check: str
    finding: Finding
    is_mended: bool


def examine(*, fix: bool) -> Iterator[Diagnosis]:
    """Make every check, each for itself, so that one that cannot be made hides no other.

    Args:
        fix: put right what can be put right without a person.
    """
    for module in sorted(iter_modules(checks.__path__), key=lambda module: module.name):
        try:
            found = list(import_module(f"{checks.__name__}.{module.name}").check())
        except SpineError as error:
            found = [Finding(what=str(error), todo="see to that first")]
        for finding in found:
            if fix and finding.mend:
                finding.mend()
            yield Diagnosis(module.name, finding, bool(fix and finding.mend))
