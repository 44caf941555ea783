"""A tiny book's worth of chapters, which run in a second each."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest

HEADER = """\
---
jupytext:
  text_representation:
    extension: .md
    format_name: myst
kernelspec:
  display_name: Python 3
  language: python
  name: python3
---
"""
PARAMETERS = 'profile = "quick"\nrun_dir = None\nsettings = {}'


def _write_chapter(folder: Path, name: str, *cells: str, own_parameters: str = "") -> Path:
    """Write a chapter of code cells."""
    folder.mkdir(parents=True, exist_ok=True)
    blocks = [f":tags: [parameters]\n\n{PARAMETERS}\n{own_parameters}", *(textwrap.dedent(c) for c in cells)]
    code = "\n\n".join("```{code-cell} ipython3\n" + block.strip("\n") + "\n```" for block in blocks)
    path = folder / f"{name}.md"
    path.write_text(f"{HEADER}\n# {name}\n\n{code}\n", encoding="utf-8")
    return path


@pytest.fixture
def workspace(tmp_path, monkeypatch) -> Path:
    """A workspace of its own, in which everything that is derived lies."""
    monkeypatch.setenv("S2F_WORKSPACE", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def chapters(workspace) -> Path:
    """A folder of two chapters: each leaves a line in a file every time that it runs."""
    folder = workspace / "sources"
    count = """
        from pathlib import Path
        with Path("ran.txt").open("a") as file:
            print("{name}", n_rows, file=file)
        """
    _write_chapter(folder, "01_first", count.format(name="first"), own_parameters="n_rows = 3")
    second = count.format(name="second").replace("n_rows", "settings")
    _write_chapter(folder, "02_second", second, own_parameters='word = "a"\nshare = 0.5')
    return folder


@pytest.fixture(scope="session")
def write_chapter():
    """A function that writes a chapter: `(folder, name, *cells, own_parameters="")`."""
    return _write_chapter


@pytest.fixture
def runs(workspace):
    """A function that returns what the chapters of `chapters` left, a line a run."""

    def read() -> list[str]:
        path = workspace / "ran.txt"
        return path.read_text().splitlines() if path.exists() else []

    return read
