"""Check that the built book has its pages and that they hold numbers of a run.

Run as `python .ci/check_book.py _build/html`; prints one line per fault and then exits with 1.
"""

from __future__ import annotations

import re
import sys
from html.parser import HTMLParser
from pathlib import Path

BOOK = Path(__file__).resolve().parents[1] / "book"
#: Folders of the executed pages, and the number of table cells with a number that each page has at least.
LEAST_NUMBERS = {"notebooks": 10, "recipes": 0}
NOT_FINITE = re.compile(r"\b(?:nan|inf)\b", re.IGNORECASE)  # also within "nan [nan, nan]"


class PageText(HTMLParser):
    """Collects all text, the text of table cells, and the number of images with an alternative text."""

    def __init__(self) -> None:
        super().__init__()
        self.cells: list[str] = []
        self.text: list[str] = []
        self.n_images = 0
        self._depth = 0
        self._hidden = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in {"td", "th"}:
            self._depth += 1
            self.cells.append("")
        if tag == "img" and dict(attrs).get("alt"):
            self.n_images += 1
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


def faults_of(page: Path, *, least_numbers: int = 10) -> list[str]:
    """Return the faults of the page of a chapter or recipe, one line each."""
    if not page.is_file():
        return [f"{page} is missing"]
    parser = PageText()
    parser.feed(page.read_text(encoding="utf-8"))
    numbers = [cell for cell in parser.cells if re.search(r"\d", cell)]
    faults = []
    if len(numbers) < least_numbers:
        faults.append(f"{page}: {len(numbers)} table cells with a number, expected at least {least_numbers}")
    empty = [cell for cell in parser.cells if cell.strip() == "None" or NOT_FINITE.search(cell)]
    if empty:
        faults.append(f"{page}: {len(empty)} table cells hold {sorted(set(empty))}")
    elif NOT_FINITE.search(" ".join(parser.text)):
        faults.append(f"{page}: the text holds nan or inf")
    if not parser.n_images:
        faults.append(f"{page}: no image with an alternative text")
    if "Traceback (most recent call last)" in "".join(parser.text):
        faults.append(f"{page}: a traceback is shown")
    return faults


def main(root: Path) -> int:
    """Check the pages under `root`; return the exit status."""
    index = root / "index.html"
    faults = [] if index.is_file() else [f"{index} is missing"]
    n_pages = 0
    for folder, least in LEAST_NUMBERS.items():
        for source in sorted((BOOK / folder).glob("*.md")):
            faults += faults_of(root / "book" / folder / f"{source.stem}.html", least_numbers=least)
            n_pages += 1
    for fault in faults:
        print(fault, file=sys.stderr)
    if not faults:
        print(f"the index and {n_pages} chapters and recipes exist and hold numbers")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
