"""The doctor: looks at everything that can be wrong, and says what to type."""

from collections.abc import Iterator
from contextlib import suppress
from importlib import import_module
from pkgutil import iter_modules
from typing import NamedTuple

from market_spine import checks, presence
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

    Raises:
        RequestError: the store is not one with many users.
    """
    presence.require_postgres("the doctor")
    for module in sorted(iter_modules(checks.__path__), key=lambda module: module.name):
        found = _look(module.name)
        if fix and any(finding.mend for finding in found):
            before, found = found, _mended(module.name, found)
            left = {finding.what for finding in found}
            yield from (Diagnosis(module.name, one, True) for one in before if one.what not in left)
        yield from (Diagnosis(module.name, finding, False) for finding in found)


def _look(check: str) -> list[Finding]:
    try:
        return list(import_module(f"{checks.__name__}.{check}").check())
    except SpineError as error:
        return [Finding(what=str(error), todo="see to that first")]


def _mended(check: str, found: list[Finding]) -> list[Finding]:
    """What is still found after all has been mended that can be."""
    for finding in found:
        if finding.mend:
            with suppress(SpineError):  # which the next look will find
                finding.mend()
    return _look(check)
