"""Lets the book build from chapters that were not executed, and says so on each page.

Without a run there are no results: numbers become an ellipsis, tables and figures are left out. In a build
from executed copies this extension does nothing.
"""

from __future__ import annotations

import re
from pathlib import Path

MARKER = Path("book") / "executed.json"  # s2f_lib.book.build writes it with executed copies
CHAPTERS = ("book/notebooks/", "book/recipes/")

NOTE = (
    ":::{{warning}}\n"
    "This page shows no run: the chapters were not executed. `s2f book` runs them and puts numbers, "
    "tables and figures here.\n"
    ":::\n"
)
_EMPTY = "\u2026"  # replaces a number
_GLUED_TEXT = re.compile(r"\{glue:text\}`[^`]*`")
_GLUED_BLOCK = re.compile(r"^```\{glue:\w*\}.*?^```\s*$", re.MULTILINE | re.DOTALL)
_REFERENCE = re.compile(r"\{numref\}`(?:[^`<]*<)?((?:fig|tab)-[^`>]*)>?`")


def mark_empty(source: str, *, is_chapter: bool) -> str:
    """Return a page's source with marks instead of numbers, and without figures and references."""
    source = _GLUED_BLOCK.sub("", source)
    source = _GLUED_TEXT.sub(_EMPTY, source)
    source = _REFERENCE.sub(lambda found: f"({found[1]})", source)
    if not is_chapter:
        return source
    title = re.search(r"^# .*$", source, re.MULTILINE)
    end = title.end() if title else 0
    return f"{source[:end]}\n\n{NOTE.format()}\n{source[end:]}"


def _on_source_read(app, docname: str, source: list[str]) -> None:
    if not (Path(app.srcdir) / MARKER).exists():
        source[0] = mark_empty(source[0], is_chapter=docname.startswith(CHAPTERS))


def setup(app) -> dict[str, bool]:
    """Connect to the event that is sent for each page."""
    app.connect("source-read", _on_source_read)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
