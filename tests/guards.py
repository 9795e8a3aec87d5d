"""What must hold of the template's folders and of what they render: each guard lists complaints.

The rules are those of CONTRIBUTING.md. `test_guards.py` breaks each of them on purpose.
"""

import re
from itertools import chain
from pathlib import Path
from typing import Any

import yaml
from steps import files_of

# One line; only a lock is chosen by the tier's name, because it is regenerated and never grows.
STUB = re.compile(r'\{% include "[\w./-]+(?:/" ~ tier ~ "/[\w-]+\.lock)?" -%\}\n')
# Braces of others: of a GitHub workflow, of an alert of Prometheus, of a legend of Grafana.
FOREIGN = {
    ".github/": re.compile(r"\$\{\{.*?\}\}"),
    "deploy/": re.compile(r"\{\{ \$.+?\}\}"),
    "deploy/observability/grafana/": re.compile(r"\{\{\w+\}\}"),
}
LEFT_OVER = re.compile(r"\{\{|\{%|%\}|\{#|#\}")
FENCED = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
FORMATTED = re.compile(r"""\bf["']""")  # a Python f-string may hold doubled braces
TALK = re.compile(r"\b(?:jinja|copier|layers?|partials?)\b", re.IGNORECASE)
# Where the talk is about something else: functools, an index over a part of the rows.
NO_TALK = re.compile(
    r"import (?:\w+, )*partial|\bpartial\(|partial (?:unique )?index", re.IGNORECASE
)
# What promotes the repo, or tells how, knows what it was made with.
KNOWS_COPIER = (".copier-answers.yml", "README.md", "pyproject.toml", "scripts/promote.py")
DATA = (".csv", ".lock")  # kept as they came


def layers(template: Path) -> dict[str, Path]:
    """The layer folders of a template, by tier."""
    folders = [path for path in (template / "tiers").iterdir() if path.is_dir()]
    return {path.name.strip("{}"): path for path in sorted(folders)}


def destinations(layer: Path) -> set[str]:
    """Where the files of a layer are laid in a rendered repo."""
    return {path.removesuffix(".jinja") for path in files_of(layer) if "__pycache__" not in path}


def odd_layers(template: Path) -> list[str]:
    """A layer is a folder named like a hidden question, and a tier that can be chosen.

    One that is in preparation cannot: its question is never anything but empty.
    """
    questions: dict[str, Any] = yaml.safe_load((template / "copier.yml").read_text("utf-8"))
    offered = set(questions["tier"]["choices"])
    found = layers(template)
    complaints = [f"{name}: offered, but has no layer" for name in offered - set(found)]
    for name, folder in found.items():
        if folder.name != "{{" + name + "}}":
            complaints.append(f"{folder.name}: is not named like a question in braces")
        question = questions.get(name, {})
        if name not in offered and question.get("default") != "":
            complaints.append(f"{name}: has a layer, but is neither offered nor in preparation")
        if question.get("when") is not False:
            complaints.append(f"{name}: has no hidden question")
    return complaints


def doubled_paths(template: Path) -> list[str]:
    """A path that two layers would write."""
    every = list(chain.from_iterable(destinations(layer) for layer in layers(template).values()))
    return [f"{path}: stands in two layers" for path in sorted(set(every)) if every.count(path) > 1]


def odd_stubs(template: Path) -> list[str]:
    """Only stubs are rendered from a layer, one line each; and every partial is included."""
    complaints, included = [], ""
    for path in sorted((template / "tiers").rglob("*.jinja")):
        text = path.read_text("utf-8")
        included += text
        if path.parent.name != "tiers" and not STUB.fullmatch(text):
            complaints.append(f"{path.name}: is not one line of include, ending in -%}}")
    partials = sorted((template / "template").rglob("*.jinja"))
    included += "".join(path.read_text("utf-8") for path in partials)
    return complaints + [
        f"{path.name}: is included by nothing"
        for path in partials
        if f'include "{path.relative_to(template).as_posix()}"' not in included
    ]


def links(template: Path) -> list[str]:
    """Symbolic links, which break on Windows checkouts."""
    parts = (template / part for part in ("tiers", "template", "data"))
    found = chain.from_iterable(part.rglob("*") for part in parts)
    return [f"{path.name}: is a symbolic link" for path in found if path.is_symlink()]


def misplaced(template: Path, repo: Path, tier: str) -> list[str]:
    """Whatever a repo has that no layer up to its tier brought, or lacks, or has elsewhere."""
    offered = yaml.safe_load((template / "copier.yml").read_text("utf-8"))["tier"]["choices"]
    switched_on = list(offered)[: list(offered).index(tier) + 1]
    folders = layers(template)
    brought = set().union(*(destinations(folders[name]) for name in switched_on))
    found = set(files_of(repo)) - {".copier-answers.yml"}
    return [f"{path}: not where its layer puts it" for path in sorted(brought ^ found)]


def scars(repo: Path) -> list[str]:
    """Marks that rendering has left in a repo's text."""
    complaints = []
    for path, content in files_of(repo).items():
        text = content.decode("utf-8")
        if not text:
            continue  # an empty __init__.py is fine
        if not text.endswith("\n") or text.endswith("\n\n"):
            complaints.append(f"{path}: does not end with one newline")
        if "\r" in text:
            complaints.append(f"{path}: has Windows line ends")
        if path.endswith(DATA):
            continue
        prose = FENCED.sub("code", text) if path.endswith(".md") else text
        if re.search(r"\n\n\n\n" if path.endswith((".py", ".py.mako")) else r"\n\n\n", prose):
            complaints.append(f"{path}: has a gap of blank lines")
        if text.startswith("\n"):
            complaints.append(f"{path}: begins with a blank line")
        for number, line in enumerate(text.splitlines(), start=1):
            if line != line.rstrip():
                complaints.append(f"{path}:{number}: trailing spaces")
            for place, braces in FOREIGN.items():
                line = braces.sub("", line) if path.startswith(place) else line
            # Where braces are opened one by one, two may close together, as in YAML and JSON.
            closes = "}}" in line and line.count("}") > line.count("{")
            is_left_over = closes or LEFT_OVER.search(line)
            if is_left_over and not (path.endswith(".py") and FORMATTED.search(line)):
                complaints.append(f"{path}:{number}: template syntax: {line.strip()}")
            if path not in KNOWS_COPIER and TALK.search(NO_TALK.sub("", line)):
                complaints.append(f"{path}:{number}: talk of the template: {line.strip()}")
    return complaints
