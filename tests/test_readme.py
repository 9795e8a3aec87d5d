"""What the READMEs tell people to type works as written, and CI types nothing else.

Every `sh` block is run in its order, by one shell, from the folder that the README stands in. A
block that cannot be run says why, in a comment `<!-- not run: ... -->` on the line above it.
"""

import re
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from steps import ROOT, TIERS, blocks_of, free_port, lend, run


def follow(readme: Path, **more: str) -> str:
    """Do what a README says, as if it were pasted; returns what was seen."""
    folder = shlex.quote(str(readme.parent))
    pasted = [f"cd {folder}\n{block.text}" for block in blocks_of(readme) if not block.reason]
    script, jobs = readme.parent.parent / "pasted.sh", readme.parent.parent / "jobs"
    # Where a command fails, what runs beside it would hold on to the output for ever.
    trap = f"trap 'jobs -p >{jobs}; xargs kill <{jobs} 2>/dev/null || true' EXIT"
    script.write_text("\n".join(["set -ex", trap, *pasted]), "utf-8")
    port = str(free_port())
    return run("sh", script, cwd=readme.parent, exit_code=0, SPINE_API_PORT=port, **more).stdout


def test_a_rendered_readme_can_be_followed(clone: Path, tier: str) -> None:
    """The tests of a higher tier are run where a living repo goes up to it: the files are equal."""
    some = {} if tier == TIERS[0] else {"PYTEST_ADDOPTS": "tests/test_demo.py"}
    said = follow(clone / "README.md", **some)
    assert " passed" in said, "it says nowhere how to run the tests"
    run("make", "lint", cwd=clone)  # what it shows how to add is as clean as the rest


def test_this_readme_can_be_followed(
    checkout: Path, settle: Callable[[str], Path], tmp_path: Path
) -> None:
    run("git", "clone", "--quiet", checkout, "template", cwd=tmp_path)
    template = tmp_path / "template"
    lend(Path(sys.prefix), template)
    for settled in map(settle, TIERS):
        (template / "out" / settled.name).mkdir(parents=True)
        lend(settled / ".venv", template / "out" / settled.name)
    follow(template / "README.md")


def test_only_tiers_above_are_named_for_a_promotion(rendered: Path, tier: str) -> None:
    text = "".join(block.text for block in blocks_of(rendered / "README.md"))
    named, above = re.findall(r"make promote TIER=(\w+)", text), TIERS[TIERS.index(tier) + 1 :]
    assert {*named} <= {*above}
    assert bool(named) == bool(above)


def test_a_command_that_fails_is_noticed(tmp_path: Path) -> None:
    readme = tmp_path / "repo/README.md"
    readme.parent.mkdir()
    text = "# A repo\n\n```sh\nsleep 1000 &\n```\n\n{note}```sh\nfalse\ntrue\n```\n"
    readme.write_text(text.format(note="<!-- not run: it fails -->\n"), "utf-8")
    follow(readme)
    readme.write_text(text.format(note=""), "utf-8")
    with pytest.raises(AssertionError, match=r"\+ false"):
        follow(readme)


def test_ci_runs_no_more_than_the_readme_says() -> None:
    workflow: dict[str, Any] = yaml.safe_load(
        (ROOT / ".github/workflows/ci.yml").read_text("utf-8")
    )
    told = "".join(block.text for block in blocks_of(ROOT / "README.md")).splitlines()
    commands = {line.split("#")[0].strip() for line in told}
    steps = [step for job in workflow["jobs"].values() for step in job["steps"]]
    typed = [step["run"].replace("${{ matrix.tier }}", "basic") for step in steps if "run" in step]
    assert typed
    for line in "\n".join(typed).splitlines():
        kept = re.fullmatch(r'echo "\w+=\$\((.+)\)" >> "\$GITHUB_OUTPUT"', line)
        command = kept[1] if kept else line
        assert command in commands, f"CI runs `{command}`, which README.md does not name"
