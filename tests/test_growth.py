"""From tier to tier a repo only grows: files and lines come, and none goes or changes."""

from itertools import pairwise
from pathlib import Path

import pytest
from growth import CLOSED, churn, churn_of, lost, missed_bars, told
from steps import TIERS, files_of, render

Files = dict[str, bytes]


@pytest.fixture(scope="module", params=[*pairwise(TIERS)], ids="-".join)
def step(
    request: pytest.FixtureRequest, checkout: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Files, Files]:
    """The files of a tier, and those of the next."""
    folder = tmp_path_factory.mktemp("step")
    below, above = (files_of(render(checkout, folder / tier, tier=tier)) for tier in request.param)
    return below, above


def test_a_tier_keeps_every_line_of_the_one_below(step: tuple[Files, Files]) -> None:
    below, above = step
    assert lost(below, above) == []
    assert len(above) > len(below)


def test_no_step_misses_a_bar(step: tuple[Files, Files]) -> None:
    found = churn(*step)
    assert missed_bars(found) == []
    for place in CLOSED:
        assert any(path.startswith(place) for path in found), f"there is no {place} any more"


def test_a_line_that_is_lost_is_noticed() -> None:
    below = {"a.py": b"one\ntwo\nthree\n", "b.py": b"x\n", "README.md": b"prose\n"}
    assert lost(below, {**below, "a.py": b"zero\none\ntwo\n2\nthree\n", "README.md": b""}) == []
    assert lost(below, {"a.py": b"one\nthree\ntwo\n", "README.md": b""}) == [
        "b.py: is gone",
        "a.py: three",
    ]


@pytest.mark.parametrize(
    ("above", "kept_changed_removed"),
    [
        (b"0\na\nb\n1\nc\nd\n2\n", (4, 0, 0)),
        (b"a\nB\nc\nd\n", (3, 1, 0)),
        (b"a\nd\n", (2, 0, 2)),
        (b"a\nX\nd\n", (2, 1, 1)),
        (None, (0, 0, 4)),
    ],
)
def test_lines_are_kept_changed_or_removed(
    above: bytes | None, kept_changed_removed: tuple[int, int, int]
) -> None:
    found = churn_of(b"a\nb\nc\nd\n", above)
    assert (found.kept, found.changed, found.removed) == kept_changed_removed


def test_a_step_that_misses_a_bar_is_noticed() -> None:
    text = b"".join(b"%d\n" % number for number in range(100))
    below = {f"{CLOSED[0]}a.py": text, "src/other.py": text, "README.md": text}
    assert missed_bars(churn(below, {**below, "README.md": b"", "new.py": b""})) == []
    open_to_change = {**below, "src/other.py": text[9:]}
    assert missed_bars(churn(below, open_to_change)) == [
        "97.5% of all lines are kept; at least 98% must be"
    ]
    closed = {**below, f"{CLOSED[0]}a.py": text.replace(b"50\n", b"fifty\n")}
    (missed,) = missed_bars(churn(below, closed))
    assert missed.startswith(f"{CLOSED[0]}a.py: 1 lines changed, 0 removed")
    assert told(below, closed) == (
        "  2 files: 1 are the same, 0 have lines added, 1 have lines changed, 0 are removed\n"
        "  200 lines: 199 are kept (99.5%), 1 are changed, 0 are removed"
    )
