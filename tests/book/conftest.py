"""Tiny chapters, which run in a second each, and a book of one of them."""

from __future__ import annotations

import shutil
import textwrap
from pathlib import Path

import pytest

from s2f_lib import paths
from s2f_lib.book.runner import run_chapters

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
CELL = """\
import numpy as np
import pandas as pd
from s2f_lib.chapters import figures
from s2f_lib.book.page import Page
page = Page.open("{name}", profile=profile, run_dir=run_dir, settings=settings)
table = pd.DataFrame({{"what": ["a", "b"], "value": [1.25, np.nan]}})
page.table(table, key="both", caption="Two rows", n=2, of="letters", dashes=True)
"""
FIGURE = """\
:tags: [remove-output]

page.figure(figures.bars(table.dropna(), label="what", value="value", x_label="m"), key="both")
page.numbers(half=0.5, word="nearly")
page.provenance()
"""
PROSE = """
Half is {glue:text}`half:.3f`, {glue:text}`word`; see {numref}`tab-both` and {numref}`fig-both`, $\\sqrt{x}$.

```{glue:figure} fig_both
:name: fig-both
:alt: A bar.

A bar (n = {glue:text}`half:.1f`, profile {glue:text}`profile`).
```
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
    """A temporary workspace for all derived files."""
    monkeypatch.setenv("S2F_WORKSPACE", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def chapters(workspace) -> Path:
    """A folder of two chapters; each run of one appends a line to a file."""
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
    """A function that returns the lines that the chapters have written, one per run."""

    def read() -> list[str]:
        path = workspace / "ran.txt"
        return path.read_text().splitlines() if path.exists() else []

    return read


@pytest.fixture(scope="session")
def ran(tmp_path_factory, write_chapter) -> Path:
    """A workspace with a book of one chapter, the repository's configuration, and one run."""
    workspace = tmp_path_factory.mktemp("workspace")
    root = workspace / "repository"
    source = paths.checkout()
    for folder in ("_extensions", "_static"):
        shutil.copytree(source / "book" / folder, root / "book" / folder)
    for name in ("_config.yml", "book/references.bib", "book/shown.md"):
        shutil.copyfile(source / name, root / name)
    toc = "format: jb-book\nroot: book/index\nchapters:\n- file: book/notebooks/01_first\n"
    (root / "_toc.yml").write_text(toc)
    (root / "book" / "index.md").write_text(
        "# A book\n\n```{include} shown.md\n```\n\n{glue:text}`notebooks/01_first.ipynb::half:.2f`\n"
    )
    path = write_chapter(root / "book" / "notebooks", "01_first", CELL.format(name="01_first"), FIGURE)
    path.write_text(path.read_text() + PROSE)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("S2F_WORKSPACE", str(workspace))
        run_chapters("quick", notebooks=path.parent, parameters={"evaluation.top_k": "4"})
    return workspace


@pytest.fixture
def book(ran, workspace) -> Path:
    """Root of a copy of that book in a temporary workspace."""
    shutil.copytree(ran, workspace, dirs_exist_ok=True)
    return workspace / "repository"
