"""What the owner of a rendered repo makes of it: something in every layer, with tests of their own.

`owner/` has the files that they add, in a folder for each tier that the repo has. The changes below
are made where people make them: at the end of every file, at the end of lists, in the middle of a
line; also right beside what a higher tier inserts, where that is likely.
"""

import shutil
from collections.abc import Iterable
from pathlib import Path

from steps import ROOT, TIERS

FILES = ROOT / "tests/owner"
DEPENDENCY = "humanize"

Change = tuple[str, str]  # what stands there once, and what then stands there


def after(line: str, *more: str) -> Change:
    """Lines that are added below another."""
    return f"{line}\n", "".join(f"{text}\n" for text in (line, *more))


def before(line: str, *more: str) -> Change:
    """Lines that are added above another."""
    return f"{line}\n", "".join(f"{text}\n" for text in (*more, line))


CHANGES: dict[str, list[Change]] = {
    "README.md": [
        ("A pipeline system for market computations", "The desk's system for market computations"),
        after(
            "| `SPINE_MAPPINGS` | The folder of the mapping files, one for each source. |",
            "| `OWN_DESK` | The desk that asks. |",
        ),
        before("## Two commands", "Ask the desk before you change a mapping.", ""),
        before("## Add a pipeline", "Vendors send their codes to the desk.", ""),
    ],
    "Makefile": [
        after(
            "\t@$(BIN)/python -m pytest --numprocesses=auto --dist=loadfile",
            '\t@echo "Tested for the desk."',
        ),
        (" lock clean\n", " lock clean own\n"),
        ("this repo does, from a fresh checkout on.", "the desk does, from a fresh checkout on."),
    ],
    "pyproject.toml": [
        ('version = "0.1.0"', 'version = "0.2.0"'),
        before(
            '  "filelock",           # the run lock of a store, let go of when its process dies',
            f'  "{DEPENDENCY}",           # numbers as the desk writes them',
        ),
        after(
            '  "uuid-utils",         # UUIDv7, which Python itself makes from 3.14 on',
            '  "tabulate",           # tables for notebooks',
        ),
        after('  "uv",             # makes the lock files', '  "inflection",     # for notebooks'),
        after('  "market_spine.ledger",', '  "market_spine.errors",'),
        after('"tests/**" = ["D", "S"]', '"notebooks/**" = ["D", "S"]'),
    ],
    ".gitignore": [after(".env", ".env.desk"), after(".ruff_cache/", "notebooks/")],
    ".env.example": [
        ("what should differ.", "what should differ at the desk."),
        after("#SPINE_MAPPINGS=mappings", "", "# The desk that asks.", "#OWN_DESK=Rates"),
    ],
    "scripts/demo.sh": [after("say spine executions list --limit 3", "say spine own 1234567")],
    "src/market_spine/settings.py": [
        ("What may differ between two places", "What may differ between two desks"),
        after(
            '        description="The folder of the mapping files, one for each source.",\n    )',
            '    own_desk: str = Field(default="Rates", description="The desk that asks.")',
        ),
    ],
    "src/market_spine/errors.py": [
        after(
            "    exit_code = 3",
            *("", "", "class HouseError(SpineError):"),
            *('    """A rule of the house."""', "", "    exit_code = 4"),
        )
    ],
    "src/market_spine/schema.py": [
        after("    Boolean,", "    # The desk's types are the template's."),
        after(
            '    Column("trade_date", Date, primary_key=True),\n)',
            *("", "own_notes = Table(", '    "own_notes",', "    metadata,"),
            '    Column("symbol", Word, primary_key=True),',
            '    Column("note", Text, nullable=False),',
            *('    Column("user", Word),', '    Column("end", DateTime),'),
            *('    Column("worth", Numeric(12, 2)),', ")"),
        ),
    ],
    "src/market_spine/services/otc/metrics.py": [
        after(
            "    counted, priced = trade.volume_eligible.is_(True), trade.price_eligible.is_(True)",
            '    outside = and_(counted, trade.venue != "HOUSE")',
        ),
        ('filter(counted).label("venue_count")', 'filter(outside).label("venue_count")'),
    ],
}

ENDS = {
    "README.md": "\n## The desk\n\nIt opens at seven.\n",
    "Makefile": '\nown: setup  ## say whose this is\n\t@echo "The desk\'s own."\n',
}

# What the steps after a promotion ask for.
WELCOME = {
    "full": {
        "migrations/excused.toml": (
            '\n[[excused]]\nrevision = "own_0002"\nrule = "prefer-timestamp-tz"\n'
            'reason = "The desk writes its own hours."\n'
        )
    }
}


def work(repo: Path, tier: str) -> None:
    """Do all that the owner of a repo of this tier might have done."""
    for name in TIERS[: TIERS.index(tier) + 1]:
        if (FILES / name).is_dir():
            shutil.copytree(FILES / name, repo, dirs_exist_ok=True)
    for path, changes in CHANGES.items():
        text = (repo / path).read_text("utf-8")
        for old, new in changes:
            assert text.count(old) == 1, f"{path} has {text.count(old)} times: {old}"
            text = text.replace(old, new)
        (repo / path).write_text(text, "utf-8")
    for path, more in ENDS.items():
        with (repo / path).open("a", encoding="utf-8") as file:
            file.write(more)


def greet(repo: Path, tier: str) -> None:
    """Add what an owner does to a repo that has just gone up to this tier."""
    shutil.copytree(FILES / tier, repo, dirs_exist_ok=True)
    for path, more in WELCOME.get(tier, {}).items():
        with (repo / path).open("a", encoding="utf-8") as file:
            file.write(more)


def add_at_ends(repo: Path, paths: Iterable[str]) -> list[str]:
    """Add a line at the end of every file of code; returns those files."""
    code = [path for path in paths if path.endswith((".py", ".toml", ".sh"))]
    ends = [path for path in code if (repo / path).stat().st_size]
    for path in ends:
        with (repo / path).open("a", encoding="utf-8") as file:
            file.write("\n\n# The desk adds here.\n")
    return ends
