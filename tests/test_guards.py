"""The template's rules hold, and a guard catches whoever breaks one."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from guards import doubled_paths, links, misplaced, odd_layers, odd_stubs, scars
from steps import TIERS, render, run

LAYER = "tiers/{{basic}}"

Break = Callable[[Path], None]


@pytest.fixture
def broken(template: Path, tmp_path: Path) -> Path:
    """A copy of the template, to be broken."""
    return shutil.copytree(template, tmp_path / "template", symlinks=True)


def append(path: str, text: str) -> Break:
    """Add to the end of a file."""

    def change(template: Path) -> None:
        with (template / path).open("a", encoding="utf-8") as file:
            file.write(text)

    return change


def replace(path: str, old: str, new: str) -> Break:
    """Put one text in another's place."""

    def change(template: Path) -> None:
        text = (template / path).read_text("utf-8")
        assert old in text
        (template / path).write_text(text.replace(old, new), "utf-8")

    return change


def create(path: str, text: str = "") -> Break:
    """Make a file, and the folders that it needs."""

    def change(template: Path) -> None:
        (template / path).parent.mkdir(parents=True, exist_ok=True)
        (template / path).write_text(text, "utf-8")

    return change


def link(path: str, target: str) -> Break:
    """Make a symbolic link."""
    return lambda template: (template / path).symlink_to(target)


def rename(path: str, new: str) -> Break:
    """Give a file or a folder another name."""

    def change(template: Path) -> None:
        (template / path).rename(template / new)

    return change


@pytest.mark.parametrize("guard", [odd_layers, doubled_paths, odd_stubs, links])
def test_the_folders_keep_the_rules(template: Path, guard: Callable[[Path], list[str]]) -> None:
    assert guard(template) == []


def test_a_rendered_repo_has_the_files_of_its_layers(
    template: Path, rendered: Path, tier: str
) -> None:
    assert misplaced(template, rendered, tier) == []


def test_a_rendered_repo_shows_no_sign_of_the_template(rendered: Path) -> None:
    assert scars(rendered) == []


@pytest.mark.parametrize(
    ("guard", "change", "complaint"),
    [
        (
            doubled_paths,
            create("tiers/{{more}}/src/market_spine/ledger.py"),
            "src/market_spine/ledger.py: stands in two layers",
        ),
        (
            odd_layers,
            create("tiers/{{more}}/more.py"),
            "more: has a layer, but is neither offered nor in preparation",
        ),
        (odd_layers, create("tiers/more/more.py"), "more: is not named like a question in braces"),
        (
            odd_layers,
            replace("copier.yml", "basic: basic\n", "basic: basic\n    more: more\n"),
            "more: offered, but has no layer",
        ),
        (
            odd_layers,
            replace("copier.yml", "  when: false\n", ""),
            "basic: has no hidden question",
        ),
        (
            odd_stubs,
            replace(f"{LAYER}/Makefile.jinja", "-%}", "%}"),
            "Makefile.jinja: is not one line of include, ending in -%}",
        ),
        (
            odd_stubs,
            append(f"{LAYER}/Makefile.jinja", "more:\n"),
            "Makefile.jinja: is not one line of include, ending in -%}",
        ),
        (odd_stubs, create("template/more.jinja"), "more.jinja: is included by nothing"),
        (links, link(f"{LAYER}/data/again.csv", "otc_sample.csv"), "again.csv: is a symbolic link"),
    ],
)
def test_a_broken_folder_is_caught(
    broken: Path, guard: Callable[[Path], list[str]], change: Break, complaint: str
) -> None:
    change(broken)
    assert complaint in guard(broken)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (append("template/ledger.py.jinja", "\n"), "ledger.py: does not end with one newline"),
        (append("template/ledger.py.jinja", "X = 1"), "ledger.py: does not end with one newline"),
        (append("template/env.example.jinja", "\n\n\nA=1\n"), ".env.example: has a gap"),
        (append("template/README.md.jinja", "\n\nMore.\n"), "README.md: has a gap"),
        (append("template/env.example.jinja", "A=1 \n"), "trailing spaces"),
        (append("template/env.example.jinja", "{{ '{{' }}\n"), "template syntax: {{"),
        (append("template/env.example.jinja", "x }}\n"), "template syntax: x }}"),
        (append("template/env.example.jinja", "{ x }}\n"), "template syntax: { x }}"),
        (append("template/ledger.py.jinja", "# {{ '{% if' }}\n"), "template syntax: # {% if"),
        (create(f"{LAYER}/.github/x.yaml", "x: {{ y }}\n"), "template syntax: x: {{ y }}"),
        (create(f"{LAYER}/deploy/x.yaml", "x: {{y}}\n"), "template syntax: x: {{y}}"),
        (append("template/ledger.py.jinja", "# A Jinja partial.\n"), "talk of the template"),
        (
            append(f"{LAYER}/src/market_spine/progress.py", "# Of a layer.\n"),
            "talk of the template",
        ),
    ],
)
def test_a_scar_is_caught(broken: Path, tmp_path: Path, change: Break, complaint: str) -> None:
    change(broken)
    found = scars(render(broken, tmp_path / "repo", tier=TIERS[-1]))
    assert any(complaint in line for line in found), found


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(replace("copier.yml", 'default: "."', "default: basic"), id="no dot"),
        pytest.param(rename(LAYER, "tiers/basic"), id="no braces"),
    ],
)
def test_a_layer_that_is_not_laid_over_the_repo_is_caught(
    broken: Path, tmp_path: Path, change: Break
) -> None:
    change(broken)
    assert misplaced(broken, render(broken, tmp_path / "repo", tier=TIERS[0]), TIERS[0])


def test_a_name_that_nobody_asked_for_stops_the_copy(broken: Path) -> None:
    append("template/ledger.py.jinja", "# {{ projekt_name }}\n")(broken)
    stopped = run("copier", "copy", "--defaults", ".", "repo", cwd=broken, exit_code=1)
    assert "'projekt_name' is undefined" in stopped.stderr
    assert not (broken / "repo").exists()


def test_what_an_editor_or_python_leaves_behind_is_not_copied(broken: Path, tmp_path: Path) -> None:
    create(f"{LAYER}/src/market_spine/__pycache__/ledger.cpython-311.pyc")(broken)
    create(f"{LAYER}/.mypy_cache/x.json")(broken)
    create(f"{LAYER}/.DS_Store")(broken)
    tier = TIERS[0]
    repo = render(broken, tmp_path / "repo", tier=tier)
    assert not [path for path in repo.rglob("*") if path.name in ("__pycache__", ".DS_Store")]
    assert not (repo / ".mypy_cache").exists()
