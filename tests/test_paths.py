"""Tests of the folders: where sources are read from and derived files are written to."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from s2f_lib import __version__, paths
from s2f_lib.cli.main import app
from s2f_lib.config import load_config, profile_names


@pytest.fixture(autouse=True)
def _no_named_workspace(monkeypatch):
    monkeypatch.delenv("S2F_WORKSPACE", raising=False)


@pytest.fixture
def study(tmp_path) -> Path:
    """A study folder that `s2f new` wrote."""
    result = CliRunner().invoke(app, ["new", str(tmp_path / "study")])
    assert result.exit_code == 0, result.output
    assert "s2f book" in result.output
    return tmp_path / "study"


def test_folders_outside_of_a_study_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert paths.study_folder() == paths.template_dir()
    assert paths.workspace() == tmp_path
    assert "quick" in profile_names()


def test_folders_inside_of_a_study_folder(study, monkeypatch):
    monkeypatch.chdir(study / "book" / "images")
    assert paths.study_folder() == paths.workspace() == study
    (study / "book" / "profiles" / "own.yaml").write_text("training:\n  epochs: 3\n")
    assert load_config("own").training.epochs == 3


def test_workspace_follows_a_foreign_config_and_the_variable(tmp_path, monkeypatch):
    inner = tmp_path / "site" / "pages"
    inner.mkdir(parents=True)
    (tmp_path / "site" / "_config.yml").touch()  # without book/notebooks: no study folder
    monkeypatch.chdir(inner)
    assert paths.study_folder() == paths.template_dir()
    assert paths.workspace() == tmp_path / "site"
    monkeypatch.setenv("S2F_WORKSPACE", str(tmp_path / "else"))
    assert paths.data_dir() == tmp_path / "else" / "data"


def test_new_study_folder_holds_sources_only(study):
    assert {path.name for path in study.iterdir()} == {*paths.STUDY_FILES, ".gitignore"}
    assert not [path for path in study.rglob("*") if path.suffix in {".ipynb", ".pyc"}]
    assert (study / ".gitignore").read_text().split() == [f"{name}/" for name in paths.DERIVED]


def test_new_refuses_a_folder_that_is_not_empty(study):
    result = CliRunner().invoke(app, ["new", str(study)])
    assert "is not empty" in str(result.exception)


def test_version_option_prints_the_version():
    assert CliRunner().invoke(app, ["--version"]).output == f"s2f_lib {__version__}\n"
