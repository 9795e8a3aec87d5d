"""Answers: a bad one is refused with its reason, an odd one renders valid files."""

import tomllib
from pathlib import Path

import pytest
import yaml
from pytest_copie.plugin import Copie
from steps import QUESTIONS, TIERS, files_of, render, run

BAD = [
    ("tier", "platinum", "Invalid choice for 'tier': 'platinum' is not in ['basic'"),
    *[
        (name, answer, f"question '{name}': The {called} is 1 to {longest} printable characters")
        for name, called, longest in [
            ("project_name", "project's name", 80),
            ("project_description", "description", 200),
            ("author", "author", 80),
        ]
        for answer in ["", "   ", "two\nlines", "tab\there", "a" * (longest + 1)]
    ],
]
ODD = {
    "double quotes": 'The "best" desk',
    "single quote": "O'Hara's",
    "unicode": "Börse Zürich 市場",
    "leading dash": "-rf",
    "backslash": "C:\\new\\table",
    "hash": "# 1 desk",
    "braces": "{{ project_name }} {% if %} {# no #}",
    "emoji": "🦊 spine",
    "colon": "key: value",
    "number": "007",
    "yaml word": "no",
    "html": "<b>&amp;",
    "longest": "x" * 80,
}


def test_every_question_has_help_and_says_what_is_allowed() -> None:
    for name, question in QUESTIONS.items():
        if name[0] != "_" and question.get("when") is not False:
            assert question["help"]
            assert "choices" in question or "validator" in question


def test_the_help_has_a_line_for_each_tier() -> None:
    lines = QUESTIONS["tier"]["help"].splitlines()
    assert [line.split("`")[1] for line in lines if line.startswith("`")] == TIERS


@pytest.mark.parametrize(("question", "answer", "reason"), BAD)
def test_a_bad_answer_is_refused_with_its_reason(
    copie: Copie, template: Path, question: str, answer: str, reason: str
) -> None:
    result = copie.copy({question: answer}, template_dir=template)
    assert isinstance(result.exception, ValueError)
    assert reason in str(result.exception)


@pytest.mark.parametrize(("question", "answer", "reason"), BAD[:2])
def test_a_bad_answer_on_the_command_line_leaves_nothing_behind(
    template: Path, tmp_path: Path, question: str, answer: str, reason: str
) -> None:
    data = f"{question}={answer}"
    refused = run(
        "copier", "copy", "--defaults", "--data", data, template, "repo", cwd=tmp_path, exit_code=1
    )
    assert reason in refused.stderr
    assert not (tmp_path / "repo").exists()


@pytest.mark.parametrize("name", ODD.values(), ids=ODD)
def test_an_odd_name_renders_valid_files(
    template: Path, tmp_path: Path, tier: str, name: str
) -> None:
    answers = {"tier": tier, "project_name": name, "project_description": name, "author": name}
    repo = render(template, tmp_path / "repo", **answers)
    assert (repo / "README.md").read_text("utf-8").split("\n")[0] == f"# {name}"
    project = tomllib.loads((repo / "pyproject.toml").read_text("utf-8"))["project"]
    assert project["description"] == name
    assert project["authors"] == [{"name": name}]
    recorded = yaml.safe_load((repo / ".copier-answers.yml").read_text("utf-8"))
    assert {question: recorded[question] for question in answers} == answers


def test_an_odd_name_changes_nothing_but_where_it_stands(
    template: Path, rendered: Path, tier: str, tmp_path: Path
) -> None:
    odd = ODD["double quotes"]
    repo = render(template, tmp_path / "repo", tier=tier, project_name=odd)
    before, after = files_of(rendered), files_of(repo)
    changed = {path for path in before if after[path] != before[path]}
    assert changed == {"README.md", ".copier-answers.yml"}


def test_an_odd_name_can_be_built(template: Path, settled: Path, tier: str, tmp_path: Path) -> None:
    odd = "".join(ODD[name] for name in ("leading dash", "double quotes", "backslash", "emoji"))
    repo = render(template, tmp_path / "repo", tier=tier, project_description=odd, author=odd)
    run(settled / ".venv/bin/python", "-m", "hatchling", "build", "-t", "wheel", cwd=repo)
    assert [*(repo / "dist").glob("*.whl")]
