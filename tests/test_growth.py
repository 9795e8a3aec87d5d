"""From tier to tier a repo only grows: files and lines come, and none goes or changes.

Two kinds of files are a tier's own: its README's prose, and its locks, which are made anew.
"""

from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path

import pytest
from steps import TIERS, files_of, render

OWN = ("README.md", "requirements.lock", "requirements-dev.lock", ".copier-answers.yml")


def lost(lower: dict[str, bytes], higher: dict[str, bytes]) -> list[str]:
    """What of a tier is gone or changed in the next: whole files, or lines."""
    found = [f"{path}: is gone" for path in lower if path not in higher]
    for path, text in lower.items():
        if path in higher and path not in OWN:
            missing = first_missing(text.splitlines(), higher[path].splitlines())
            if missing is not None:
                found.append(f"{path}: {missing.decode()}")
    return found


def first_missing(lines: Iterable[bytes], among: Iterable[bytes]) -> bytes | None:
    """The first line that does not come, in its turn, among others."""
    waiting = iter(among)
    return next((line for line in lines if line not in waiting), None)


@pytest.mark.parametrize(("lower", "higher"), [*pairwise(TIERS)])
def test_a_tier_keeps_every_line_of_the_one_below(
    lower: str, higher: str, checkout: Path, tmp_path: Path
) -> None:
    below, above = (
        files_of(render(checkout, tmp_path / tier, tier=tier)) for tier in (lower, higher)
    )
    assert lost(below, above) == []
    assert len(above) > len(below)


def test_a_line_that_is_lost_is_noticed() -> None:
    below = {"a.py": b"one\ntwo\nthree\n", "b.py": b"x\n", "README.md": b"prose\n"}
    assert lost(below, {**below, "a.py": b"zero\none\ntwo\n2\nthree\n", "README.md": b""}) == []
    assert lost(below, {"a.py": b"one\nthree\ntwo\n", "README.md": b""}) == [
        "b.py: is gone",
        "a.py: three",
    ]
