"""Check that the built book has its pages and that they hold numbers of a run.

Run as `python .ci/check_book.py _build/html`; exits 1 with a line for each fault.
"""

from __future__ import annotations

import re
import sys
from html.parser import HTMLParser
from pathlib import Path

CHAPTERS = (
    "01_data_preparation",
    "02_voice_encoder",
    "03_loss_comparison",
    "04_face_decoder",
    "05_retrieval",
    "06_qualitative_analysis",
    "07_controls_and_ceilings",
    "08_real_pairs",
)
LEAST_NUMBERS = 10  # in the tables and glued text of a chapter
NO_NUMBER = re.compile(r"\b(?:nan|inf)\b", re.IGNORECASE)  # also within "nan [nan, nan]"


class PageText(HTMLParser):
    """Collects the text of table cells, glued spans, and the count of pictures with a text."""

    def __init__(self) -> None:
        super().__init__()
        self.cells: list[str] = []
        self.text: list[str] = []
        self.pictures = 0
        self._depth = 0
        self._hidden = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in {"td", "th"}:
            self._depth += 1
            self.cells.append("")
        if tag == "img" and dict(attrs).get("alt"):
            self.pictures += 1
        if tag in {"script", "style"}:
            self._hidden = True

    def handle_endtag(self, tag: str) -> None:
        if tag in {"td", "th"} and self._depth:
            self._depth -= 1
        if tag in {"script", "style"}:
            self._hidden = False

    def handle_data(self, data: str) -> None:
        if self._hidden:
            return
        if self._depth:
            self.cells[-1] += data
        self.text.append(data)


def faults_of(page: Path) -> list[str]:
    """Return what is wrong with a chapter's page, a line each."""
    if not page.is_file():
        return [f"{page} is missing"]
    parser = PageText()
    parser.feed(page.read_text(encoding="utf-8"))
    numbers = [cell for cell in parser.cells if re.search(r"\d", cell)]
    faults = []
    if len(numbers) < LEAST_NUMBERS:
        faults.append(f"{page}: {len(numbers)} table cells with a number, expected at least {LEAST_NUMBERS}")
    empty = [cell for cell in parser.cells if cell.strip() == "None" or NO_NUMBER.search(cell)]
    if empty:
        faults.append(f"{page}: {len(empty)} table cells hold {sorted(set(empty))}")
    elif NO_NUMBER.search(" ".join(parser.text)):
        faults.append(f"{page}: the text holds nan or inf")
    if not parser.pictures:
        faults.append(f"{page}: no picture with an alternative text")
    if "Traceback (most recent call last)" in "".join(parser.text):
        faults.append(f"{page}: a traceback is shown")
    return faults


def main(root: Path) -> int:
    """Check the pages under `root`; return the exit status."""
    index = root / "index.html"
    faults = [] if index.is_file() else [f"{index} is missing"]
    for chapter in CHAPTERS:
        found = list(root.rglob(f"{chapter}.html"))
        faults += faults_of(found[0] if found else root / f"{chapter}.html")
    for fault in faults:
        print(fault, file=sys.stderr)
    if not faults:
        print(f"the index and {len(CHAPTERS)} chapters are there and hold numbers")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
