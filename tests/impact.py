"""What an edit of the template does to the repos that it renders, as `make impact` prints it.

Every tier is rendered from the last commit and from the working tree, at the same time, and both
are compared. A change that is the same in several tiers is shown once.
"""

import io
import re
import subprocess
import tarfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory

from steps import ROOT, TIERS, render, working_tree

BEFORE, AFTER = "before", "after"
ANSWERS = ".copier-answers.yml"
NUMBERS = re.compile(r"^index .*\n|(?<=^@@) -\S+ \+\S+ @@", re.MULTILINE)


def last_commit(folder: Path) -> Path:
    """The template as it was committed last, in a plain folder."""
    packed = subprocess.run(["git", "archive", "HEAD"], cwd=ROOT, capture_output=True, check=True)
    with tarfile.open(fileobj=io.BytesIO(packed.stdout)) as files:
        files.extractall(folder, filter="data")
    return folder


def rendered(tier: str, template: Path) -> Path:
    """A tier of a template, without the note of where that stood."""
    repo = render(template, template.parent / tier / template.name, tier=tier)
    noted = (repo / ANSWERS).read_text("utf-8").splitlines(keepends=True)
    (repo / ANSWERS).write_text("".join(noted[1:]), "utf-8")
    return repo


def changes(folder: Path) -> Iterator[tuple[str, str]]:
    """Every file of a tier that is not as it was, and its diff, without what tiers differ in."""
    command = ["git", "diff", "--no-index", "--no-renames", BEFORE, AFTER]
    told = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False).stdout
    for part in told.split("diff --git ")[1:]:
        heading, diff = part.split("\n", 1)
        yield heading.rpartition(" b/")[2].partition("/")[2], NUMBERS.sub("", diff)


def main() -> None:
    """Print which files of which tiers change, and how."""
    found: dict[tuple[str, str], list[str]] = {}
    with TemporaryDirectory() as scratch:
        folder = Path(scratch)
        templates = last_commit(folder / BEFORE), working_tree(folder / AFTER)
        with ProcessPoolExecutor() as pool:
            list(pool.map(rendered, *zip(*product(TIERS, templates), strict=True)))
        for tier in TIERS:
            for change in changes(folder / tier):
                found.setdefault(change, []).append(tier)
    print("\n".join(f"{path}: {', '.join(tiers)}" for (path, _), tiers in found.items()))
    for (path, diff), tiers in found.items():
        print(f"\n=== {path} ({', '.join(tiers)})\n{diff}", end="")
    if not found:
        print("No tier changes.")


if __name__ == "__main__":
    main()
