"""Tests of published runs: files, captions, pages that show them, and refusals."""

from __future__ import annotations

import json

import pandas as pd
import pytest
from typer.testing import CliRunner

from s2f_lib import paths
from s2f_lib.book import published as module
from s2f_lib.book.build import build_book
from s2f_lib.book.executed import find_chapters
from s2f_lib.book.page import Page
from s2f_lib.book.published import publish_run, published_runs
from s2f_lib.cli.main import app
from s2f_lib.config import load_config
from s2f_lib.errors import ChapterError, DataError, InputError
from s2f_lib.paths import RunPaths
from s2f_lib.study import Study

REPOSITORYS = paths.published_dir


@pytest.fixture
def published(book, monkeypatch):
    """The folder of published results of the tiny book, still empty."""
    folder = book / "book" / "published"
    monkeypatch.setattr(paths, "published_dir", lambda: folder)
    return folder


@pytest.fixture
def run(workspace) -> RunPaths:
    """The run of the tiny book."""
    return RunPaths(workspace / "runs" / "quick")


@pytest.fixture
def chapters(book):
    """Its chapter."""
    return find_chapters(book / "book" / "notebooks")


def test_publish_run_copies_files_and_describes_the_run(published, run, chapters):
    published_run = publish_run(run, chapters, published / "large")
    files = {
        str(path.relative_to(published_run.folder))
        for path in published_run.folder.rglob("*")
        if path.is_file()
    }
    assert files == {"run.json", "01_first.md", "tables/01_both.csv", "figures/01_both.png"}
    for file in ("tables/01_both.csv", "figures/01_both.png"):
        assert (published_run.folder / file).read_bytes() == (run.root / file).read_bytes()
    assert (published_run.profile, published_run.settings) == ("quick", {"evaluation.top_k": "4"})
    assert published_run.people == "480 training and 120 test people, generated with rho 0.9"
    provenance = pd.read_csv(run.tables / "01_provenance_01.csv").set_index("what")["value"]
    about = published_run.chapters["01_first"]
    assert about == {key: provenance[key] for key in ("commit", "device", "wall time of this chapter")}
    assert published_runs("01_first") == [published_run]
    assert published_runs("02_second") == []
    assert publish_run(run, chapters, published / "large") == published_run  # replaces the first
    assert [path.name for path in published.iterdir()] == ["large"]


def test_publish_run_fills_captions_and_renames_targets(published, run, chapters):
    text = publish_run(run, chapters, published / "large").markdown("01_first")
    assert '```{table} Kept run "large": Two rows (the kept run: n = 2 letters, profile quick).\n' in text
    assert "\n:name: tab-both-in-large\n" in text
    assert (
        "```{figure} ../published/large/figures/01_both.png\n:alt: A bar.\n:name: fig-both-in-large\n" in text
    )
    assert 'Kept run "large": A bar (n = 0.5, profile quick).' in text


def test_published_run_is_shown_and_the_book_builds(published, run, chapters, book, monkeypatch):
    shown = []
    monkeypatch.setattr("IPython.display.display", lambda data, raw: shown.append(data["text/markdown"]))
    page = Page(Study(load_config("quick"), run), "01_first")
    page.published_runs()
    assert shown == ["None is kept for this chapter yet."]
    publish_run(run, chapters, published / "large")
    page.published_runs()
    assert shown[1].startswith(
        "**Kept run `large`**: profile `quick`, `evaluation.top_k` = 4; 480 training and"
    )
    index = book / "book" / "index.md"
    index.write_text(index.read_text() + "\n" + shown[1].replace("../published/", "published/") + "\n")
    monkeypatch.setattr(paths, "published_dir", REPOSITORYS)  # the digest that the chapter was run with
    html = build_book("quick", root=book).parent / "book" / "index.html"
    text = html.read_text(encoding="utf-8")
    assert text.count("Kept run") == 3
    assert 'alt="A bar."' in text


def test_publish_run_takes_keys(published, run, chapters):
    published_run = publish_run(run, chapters, published / "large", keys=["both"])
    text = published_run.markdown("01_first")
    assert text.index("{table}") < text.index("{figure}")  # the order of the page
    with pytest.raises(InputError, match="unknown key 'neither'"):
        publish_run(run, chapters, published / "large", keys=["both", "neither"])
    with pytest.raises(InputError, match="no table and no figure to publish"):
        publish_run(run, chapters, published / "large", keys=["provenance_01"])
    assert published_runs("01_first") == [published_run]  # the earlier one stays


def test_publish_run_refusal_leaves_no_files(published, run, chapters, monkeypatch):
    with pytest.raises(InputError, match="lower-case letters, digits and hyphens"):
        publish_run(run, chapters, published / "A run")
    (published / "pairs").mkdir(parents=True)
    with pytest.raises(InputError, match="is not a published run"):
        publish_run(run, chapters, published / "pairs")
    monkeypatch.setattr(module, "MOST_BYTES", 1000)
    with pytest.raises(InputError, match=r"expected at most 0 MB: choose chapters with --only"):
        publish_run(run, chapters, published / "large")
    (run.notebooks / "01_first.ipynb").unlink()
    with pytest.raises(ChapterError, match="01_first was not run"):
        publish_run(run, chapters, published / "large")
    assert [path.name for path in published.iterdir()] == ["pairs"]


def test_published_run_damaged_file_is_named(published, run, chapters):
    published_run = publish_run(run, chapters, published / "large")
    (published_run.folder / "01_first.md").unlink()
    with pytest.raises(DataError, match=r"no 01_first\.md in .*large, though run\.json lists it"):
        published_run.markdown("01_first")
    (published_run.folder / "run.json").write_text(json.dumps({"name": "large"}))
    with pytest.raises(DataError, match=r"run\.json cannot be read \(TypeError\)"):
        published_runs("01_first")


def test_publish_command_names_a_chapter_that_was_not_run(workspace):
    result = CliRunner().invoke(app, ["publish", "--profile", "quick", "--only", "03"])
    assert isinstance(result.exception, ChapterError)
    assert "03_loss_comparison was not run" in str(result.exception)


def test_published_runs_of_the_repository_are_complete():
    for path in paths.published_dir().glob("*/run.json"):
        folder = path.parent
        assert sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) <= module.MOST_BYTES
        for chapter in json.loads(path.read_text())["chapters"]:
            (run,) = (run for run in published_runs(chapter) if run.name == folder.name)
            assert run.markdown(chapter)
