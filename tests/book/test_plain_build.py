"""Test of `jupyter-book build .` in a fresh clone: there is no run, and the pages say so."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys

from s2f_lib import paths

PROGRAM = "import sys; from jupyter_book.cli.main import main; sys.exit(main())"


def test_sources_build_without_a_run_or_a_warning(tmp_path):
    root = paths.checkout()
    for name in ("_config.yml", "_toc.yml"):
        shutil.copyfile(root / name, tmp_path / name)
    shutil.copytree(root / "book", tmp_path / "book", ignore=shutil.ignore_patterns("__pycache__"))
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, "build", ".", "-n", "-W", "--keep-going"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
    )
    warnings = [line for line in (done.stdout + done.stderr).splitlines() if "WARNING" in line]
    assert done.returncode == 0, "\n".join(warnings)
    html = tmp_path / "_build" / "html"
    assert "the chapters were not executed" in (html / "book" / "index.html").read_text(encoding="utf-8")
    chapters = sorted((html / "book" / "notebooks").glob("*.html"))
    assert len(chapters) >= 6
    for page in chapters:
        assert "This page shows no run" in page.read_text(encoding="utf-8")
    reference = (html / "book" / "api.html").read_text(encoding="utf-8")
    assert 'id="s2f_lib.study.Study.open"' in reference
    for page in html.rglob("*.html"):  # nothing is loaded from a network
        text = page.read_text(encoding="utf-8")
        assert not re.findall(r'<(?:script|link|img)[^>]+(?:src|href)="(?:https?:)?//', text), page
