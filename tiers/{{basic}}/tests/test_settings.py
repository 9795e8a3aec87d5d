"""Settings: from the environment or from `.env`, and `.env.example` lists them all."""

import os
import re
from pathlib import Path

import pytest

from market_spine.settings import Settings, settings
from tests.support import REPO, Spine


@pytest.fixture(scope="module")
def store() -> str:
    """Settings are the same with every store."""
    return "sqlite"


def documented() -> dict[str, str]:
    """Each setting of `.env.example` and the words above it."""
    text = (REPO / ".env.example").read_text()
    pattern = r"((?:# .*\n)+)#?([A-Z0-9_]+)=.*\n"
    return {
        name: " ".join(line.removeprefix("# ") for line in words.splitlines())
        for words, name in re.findall(pattern, text)
    }


def test_the_example_lists_every_setting_with_its_description() -> None:
    expected = {name.upper(): field.description for name, field in Settings.model_fields.items()}
    assert documented() == expected


def test_the_example_shows_the_defaults() -> None:
    text = (REPO / ".env.example").read_text()
    for name, field in Settings.model_fields.items():
        default = "" if field.default is None else field.default
        assert re.search(rf"^#?{name.upper()}={re.escape(str(default))}$", text, re.MULTILINE)


def test_the_readme_lists_every_setting() -> None:
    text = (REPO / "README.md").read_text()
    for name, field in Settings.model_fields.items():
        assert f"`{name.upper()}`" in text
        assert str(field.description) in text


def test_the_environment_goes_before_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)
    (tmp_path / ".env").write_text("DATABASE_URL=sqlite:///file.db\nSPINE_MAPPINGS=here\nOTHER=1\n")
    assert Settings().database_url == "sqlite:///file.db"
    monkeypatch.setenv("DATABASE_URL", "sqlite:///environment.db")
    assert Settings().database_url == "sqlite:///environment.db"
    assert Settings().spine_mappings == Path("here")
    monkeypatch.setenv("DATABASE_URL", " ")
    assert Settings().database_url is None


def test_a_dot_env_file_is_read_by_the_command(
    spine: Spine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DATABASE_URL")
    (spine.folder / ".env").write_text("DATABASE_URL=sqlite:///elsewhere.db\n")
    spine.restart()
    spine.ok("executions")
    assert (spine.folder / "elsewhere.db").exists()
    assert not spine.store.exists()


def test_mappings_may_be_in_another_folder(spine: Spine, monkeypatch: pytest.MonkeyPatch) -> None:
    os.rename(spine.folder / "mappings", spine.folder / "maps")
    path = spine.tape()
    spine.submit("otc_ingest", path=path).fails(1, "mappings", "otc")
    monkeypatch.setenv("SPINE_MAPPINGS", "maps")
    spine.restart()
    spine.run("otc_ingest", path=path)


@pytest.mark.usefixtures("spine")
def test_settings_are_read_once() -> None:
    assert settings() is settings()
