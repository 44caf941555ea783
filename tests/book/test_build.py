"""Tests of the build, on a book of one or two tiny chapters: every warning of Jupyter Book is an error."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import nbformat
import pytest

from s2f_lib.book.build import build_book
from s2f_lib.book.runner import run_chapters
from s2f_lib.errors import ChapterError, StudyError


class Page(HTMLParser):
    """Collects what a reader sees: text, captions and alternative texts of images."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.text, self.alts = "", []
        self.feed(path.read_text(encoding="utf-8"))
        self.text = " ".join(self.text.split())

    def handle_starttag(self, tag, attributes):
        if tag == "img":
            self.alts.append(dict(attributes).get("alt"))

    def handle_data(self, data):
        self.text += data


def test_build_book_shows_results_and_builds_once(book, workspace):
    index = build_book("quick", root=book)
    assert index == workspace / "_build" / "html" / "index.html"
    html = index.parent / "book"
    start = Page(html / "index.html")
    assert "Profile quick: 480 training and 120 test people, generated with rho 0.9." in start.text
    assert "Settings that differ from the profile: evaluation.top_k." in start.text
    assert "0.50" in start.text  # glued from the chapter
    page = Page(html / "notebooks" / "01_first.html")
    assert "Half is 0.500, nearly; see Table 1 and Fig. 1," in page.text
    assert "Table 1 Two rows (this run: n = 2 letters, profile quick)." in page.text
    assert "a 1.25 b -" in page.text
    assert "A bar (n = 0.5, profile quick)." in page.text
    assert page.alts == ["A bar."]
    raw = (html / "notebooks" / "01_first.html").read_text()
    assert 'aria-label="\\sqrt{x}"' in raw  # the formula is an image, not a script
    for path in index.parent.rglob("*.html"):
        text = path.read_text(encoding="utf-8")
        assert not re.findall(r'<(?:script|link|img)[^>]+(?:src|href)="(?:https?:)?//', text), path
        assert str(workspace) not in text
    assert not list(index.parent.rglob("*.ipynb")) or all(
        str(workspace) not in path.read_text() for path in index.parent.rglob("*.ipynb")
    )

    # nothing has changed, so nothing is built
    before = index.stat().st_mtime_ns
    assert build_book("quick", root=book) == index
    assert index.stat().st_mtime_ns == before

    # after a warning the build fails, and the old pages stay
    text = (book / "book" / "index.md").read_text()
    (book / "book" / "index.md").write_text(text + "\n{numref}`tab-nowhere`\n")
    with pytest.raises(StudyError, match=r"(?s)Jupyter Book ended with status.*tab-nowhere"):
        build_book("quick", root=book)
    assert index.stat().st_mtime_ns == before


def test_build_book_without_all_chapters_is_refused(book, workspace, write_chapter):
    notebooks = workspace / "runs" / "quick" / "notebooks"
    chapter = book / "book" / "notebooks" / "01_first.md"
    good = chapter.read_text()

    chapter.write_text(good + "\nMore.\n")
    with pytest.raises(ChapterError, match="01_first was made from other sources or settings"):
        build_book("quick", root=book)
    chapter.write_text(good)

    second = write_chapter(chapter.parent, "02_second", "1 / 0")
    with pytest.raises(ChapterError, match="02_second was not run"):
        build_book("quick", root=book)
    with pytest.raises(ChapterError, match="ZeroDivisionError"):
        run_chapters("quick", only=["02"], notebooks=chapter.parent)
    with pytest.raises(ChapterError, match=r"02_second failed .cell 3: ZeroDivisionError: division by zero"):
        build_book("quick", root=book)
    second.unlink()

    # a copy that was executed by other means and holds an error
    executed = notebooks / "01_first.ipynb"
    notebook = nbformat.read(executed, as_version=4)
    cell = next(cell for cell in notebook.cells if cell.cell_type == "code")
    cell.outputs.append(nbformat.v4.new_output("error", ename="KeyError", evalue="'x'", traceback=[]))
    nbformat.write(notebook, executed)
    with pytest.raises(ChapterError, match=r"01_first failed .*KeyError"):
        build_book("quick", root=book)
    executed.write_text("{ half a notebook")
    with pytest.raises(ChapterError, match="01_first was not run"):
        build_book("quick", root=book)
    assert not (workspace / "_build").exists()
