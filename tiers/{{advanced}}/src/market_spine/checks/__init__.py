"""What `spine doctor` looks at: one module a matter, found by scanning this folder.

A module has a function `check` that yields what it finds. What can be put right without a person
has a `mend`.
"""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Finding:
    """Something that is not as it should be."""

    what: str
    todo: str  # what to type, or to see to
    mend: Callable[[], None] | None = None
