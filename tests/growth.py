"""How a tier grows out of the one below: what of each file is kept, changed, removed.

`make churn` prints it for each step from tier to tier, and ends with 1 if a bar is missed. Two
kinds of files are a tier's own and are not counted: its README's prose, and its locks, which are
made anew.
"""

import sys
from collections.abc import Iterable
from dataclasses import dataclass
from difflib import SequenceMatcher
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

from steps import TIERS, files_of, render, working_tree

OWN = ("README.md", "requirements.lock", "requirements-dev.lock", ".copier-answers.yml")
PACKAGE = "src/market_spine"
# What owners build on: here a higher tier may add lines, and nothing else.
CLOSED = tuple(
    f"{PACKAGE}/{name}"
    for name in ("services/", "pipelines/", "ledger.py", "dispatcher.py", "runner.py", "schema.py")
)
LEAST_KEPT = 0.98  # of all lines


@dataclass(frozen=True, kw_only=True)
class Churn:
    """What has become of some lines of the lower tier."""

    kept: int = 0
    changed: int = 0
    removed: int = 0

    def __add__(self, other: "Churn") -> "Churn":
        return Churn(
            kept=self.kept + other.kept,
            changed=self.changed + other.changed,
            removed=self.removed + other.removed,
        )

    @property
    def lost(self) -> int:
        """Lines that are not there any more."""
        return self.changed + self.removed


def first_missing(lines: Iterable[bytes], among: Iterable[bytes]) -> bytes | None:
    """The first line that does not come, in its turn, among others."""
    waiting = iter(among)
    return next((line for line in lines if line not in waiting), None)


def churn_of(below: bytes, above: bytes | None) -> Churn:
    """What has become of a file's lines."""
    old = below.splitlines()
    if above is None:
        return Churn(removed=len(old))
    new = above.splitlines()
    if first_missing(old, new) is None:
        return Churn(kept=len(old))
    found = Churn()
    for what, i, j, k, m in SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
        changed = min(j - i, m - k) if what == "replace" else 0
        kept = j - i if what == "equal" else 0
        found += Churn(kept=kept, changed=changed, removed=j - i - kept - changed)
    return found


def churn(lower: dict[str, bytes], higher: dict[str, bytes]) -> dict[str, Churn]:
    """What has become of every file that is counted."""
    return {path: churn_of(lower[path], higher.get(path)) for path in lower if path not in OWN}


def lost(lower: dict[str, bytes], higher: dict[str, bytes]) -> list[str]:
    """What of a tier is gone or changed in the next: whole files, or lines."""
    found = [f"{path}: is gone" for path in lower if path not in higher]
    for path, text in lower.items():
        if path in higher and path not in OWN:
            missing = first_missing(text.splitlines(), higher[path].splitlines())
            if missing is not None:
                found.append(f"{path}: {missing.decode()}")
    return found


def missed_bars(found: dict[str, Churn]) -> list[str]:
    """Which bars a step misses, and where."""
    missed = [
        f"{path}: {of.changed} lines changed, {of.removed} removed, where lines may only be added"
        for path, of in found.items()
        if of.lost and path.startswith(CLOSED)
    ]
    total = sum(found.values(), start=Churn())
    share = total.kept / (total.kept + total.lost)
    if share < LEAST_KEPT:
        missed.append(f"{share:.1%} of all lines are kept; at least {LEAST_KEPT:.0%} must be")
    return missed


def told(lower: dict[str, bytes], higher: dict[str, bytes]) -> str:
    """A step in two lines."""
    found = churn(lower, higher)
    total = sum(found.values(), start=Churn())
    same = sum(higher.get(path) == lower[path] for path in found)
    removed = sum(path not in higher for path in found)
    changed = sum(of.lost > 0 for of in found.values()) - removed
    lines = total.kept + total.lost
    return (
        f"  {len(found)} files: {same} are the same, {len(found) - same - changed - removed} have "
        f"lines added, {changed} have lines changed, {removed} are removed\n"
        f"  {lines} lines: {total.kept} are kept ({total.kept / lines:.1%}), "
        f"{total.changed} are changed, {total.removed} are removed"
    )


def main() -> int:
    """Print every step; returns the exit code."""
    with TemporaryDirectory() as scratch:
        template = working_tree(Path(scratch, "template"))
        rendered = [files_of(render(template, Path(scratch, tier), tier=tier)) for tier in TIERS]
    failed = 0
    for (below, lower), (above, higher) in pairwise(zip(TIERS, rendered, strict=True)):
        print(f"{below} -> {above}\n{told(lower, higher)}")
        for bar in missed_bars(churn(lower, higher)):
            print(f"  error: {bar}", file=sys.stderr)
            failed = 1
    return failed


if __name__ == "__main__":
    sys.exit(main())
