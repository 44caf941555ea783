"""Tests of a small book with the project's configuration in a real browser."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
import yaml
from playwright.sync_api import sync_playwright

from s2f_lib import paths

PROGRAM = "import sys; from jupyter_book.cli.main import main; sys.exit(main())"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
WIDTH_PX, HEIGHT_PX = 1280, 800
WIDE_TABLE = f"|{'a column |' * 24}\n|{'---|' * 24}\n|{'1234.5678 |' * 24}\n"
# messages of Jupyter Book's theme on every page
OF_THE_THEME = ("'THEBE_JS_URL' has already been declared", "Got invalid theme mode")
INDEX = f"""\
# A small book

A formula, $\\sqrt{{x}}$, and what does not fit the page:

{WIDE_TABLE}
```python
{"a_long_name, " * 40}
```

See [what this must not be used for](ethics.md).
"""
TOC = {"format": "jb-book", "root": "book/index", "chapters": [{"file": "book/ethics"}]}

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs the browser Chromium (chromium on the PATH)")


@pytest.fixture(scope="module")
def html(tmp_path_factory) -> Path:
    """Folder of a built book: one test page and one page of the project."""
    source, root = paths.checkout(), tmp_path_factory.mktemp("book")
    for folder in ("_extensions", "_static"):
        shutil.copytree(source / "book" / folder, root / "book" / folder)
    for name in ("_config.yml", "book/references.bib", "book/ethics.md"):
        shutil.copyfile(source / name, root / name)
    (root / "book" / "index.md").write_text(INDEX, encoding="utf-8")
    (root / "_toc.yml").write_text(yaml.safe_dump(TOC))
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, "build", "."],
        cwd=root,
        env=os.environ | {"PYTHONPATH": str(source)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return root / "_build" / "html"


@pytest.fixture(scope="module")
def browser():
    """Chromium, without a window."""
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture
def page(browser):
    """An empty page; `page.faults` are the errors that a reader's console would show."""
    context = browser.new_context(viewport={"width": WIDTH_PX, "height": HEIGHT_PX}, offline=True)
    tab = context.new_page()
    tab.faults = []

    def note(text: str) -> None:
        if not any(known in text for known in OF_THE_THEME):
            tab.faults.append(text)

    tab.on("console", lambda said: note(said.text) if said.type == "error" else None)
    tab.on("pageerror", lambda error: note(str(error)))
    tab.on("requestfailed", lambda request: note(f"not loaded: {request.url}"))
    yield tab
    context.close()


@pytest.mark.parametrize(
    ("name", "heading"), [("index.html", "A small book"), ("ethics.html", "Consent and use")]
)
def test_page_opens_complete_and_fits_the_window(html, page, name, heading):
    page.goto((html / "book" / name).as_uri(), wait_until="load")
    assert page.title().startswith(heading)
    assert page.title().endswith("Face reconstruction from speech")
    assert page.locator("h1").first.inner_text().startswith(heading)
    assert page.evaluate("document.documentElement.scrollWidth") <= WIDTH_PX
    if name == "index.html":  # the formula is a visible image
        assert page.evaluate(
            "document.querySelector('article [aria-label*=sqrt]').getBoundingClientRect().width"
        )
    assert page.faults == []


def test_contents_link_to_existing_pages(html, page):
    page.goto((html / "index.html").as_uri(), wait_until="load")  # a redirect to the first page
    page.wait_for_url("**/book/index.html")
    links = page.locator("nav.bd-links a.reference.internal, .sidebar-primary-item a.reference.internal")
    targets = {
        urlsplit(link)._replace(fragment="").geturl()
        for link in links.evaluate_all("a => a.map(x => x.href)")
    }
    files = {Path(unquote(urlsplit(target).path)) for target in targets}
    assert html / "book" / "ethics.html" in files
    assert [str(file) for file in files if not file.is_file()] == []
    page.get_by_role("link", name="Consent and use").first.click()
    page.wait_for_url("**/book/ethics.html")
    assert page.faults == []
