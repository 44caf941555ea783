"""Builds the book from a run's executed chapters, with Jupyter Book.

Jupyter Book exits with 0 even if chapters failed or are missing. So the chapters are checked first. Their
executed copies are copied with the book's sources into the run's folder, and built there. The new pages
replace the old ones only if there was no warning.
"""

from __future__ import annotations

import importlib.metadata
import json
import logging
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import nbformat
from nbformat import NotebookNode

from s2f_lib import paths
from s2f_lib.book.executed import (
    Chapter,
    ExecutedChapter,
    Record,
    chapter_digest,
    describe_people,
    digest_of_files,
    find_chapters,
    find_recipes,
    have_same_settings,
    package_digest,
    package_environment,
)
from s2f_lib.config import load_config
from s2f_lib.errors import ChapterError, StudyError
from s2f_lib.paths import RunPaths
from s2f_lib.storage import atomic_folder, digest

logger = logging.getLogger(__name__)

_CONFIGURATION = ("_config.yml", "_toc.yml")
_STAMP = "built.json"  # lies next to the pages and says what they were built from
_N_LINES = 12  # lines of the log in an error message
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_NOT_STAGED = shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints", "profiles", "*.ipynb")


def build_book(
    profile: str | Path, *, run_dir: Path | None = None, out: Path | None = None, root: Path | None = None
) -> Path:
    """Build the pages of the book from a run.

    Parameters
    ----------
    profile
        Profile of the run.
    run_dir
        Folder of the run. None: `runs/<profile>`.
    out
        Folder that gets `html/`. None: `_build` in the workspace.
    root
        Folder of `_config.yml`, `_toc.yml` and `book/`. None: the study folder, see `s2f_lib.paths`.

    Returns
    -------
    pathlib.Path
        Path of `html/index.html`.

    Raises
    ------
    ChapterError
        A chapter was not run, failed, or was made from other sources or settings.
    StudyError
        Jupyter Book failed or warned; the message holds its last lines.

    See Also
    --------
    run_chapters : Makes the executed copies.

    Examples
    --------
    >>> from tempfile import mkdtemp
    >>> build_book("quick", run_dir=mkdtemp())
    Traceback (most recent call last):
    s2f_lib.errors.ChapterError: the book is not built: 01_data_preparation was not run; ...
    """
    root = paths.study_folder() if root is None else Path(root)
    out = paths.build_dir() if out is None else Path(out)
    run = RunPaths(Path(run_dir)) if run_dir else RunPaths.of_profile(load_config(profile).profile)
    folder = root / "book" / "notebooks"
    chapters = [*find_chapters(folder), *find_recipes(folder)]
    notebooks, records = _read_executed(chapters, run)
    stage = run.root / "book"
    _stage(root, stage, [(chapter, notebooks[chapter.name]) for chapter in chapters], records)
    built_from = _digest(stage)
    pages = out / "html"
    if _read_stamp(pages) == built_from and (pages / "index.html").is_file():
        logger.info("the book is up to date")
        return pages / "index.html"
    _run_jupyter_book(stage)
    with atomic_folder(pages) as temporary:
        shutil.copytree(stage / "_build" / "html", temporary, dirs_exist_ok=True)
        (temporary / _STAMP).write_text(json.dumps({"digest": built_from}) + "\n", encoding="utf-8")
    return pages / "index.html"


def _read_executed(
    chapters: Sequence[Chapter], run: RunPaths
) -> tuple[dict[str, NotebookNode], dict[str, Record]]:
    """Return the executed copies and records, or raise one error with all faults."""
    notebooks, records, faults = {}, {}, []
    for chapter in chapters:
        try:
            notebook, record = ExecutedChapter(chapter, run).read()
        except ChapterError as error:
            faults.append(str(error))
            continue
        if record.digest != chapter_digest(chapter, record.profile, record.settings, record.parameters):
            faults.append(f"{chapter.name} was made from other sources or settings")
        notebooks[chapter.name], records[chapter.name] = notebook, record
    if not have_same_settings(records.values()):
        faults.append("the chapters were run with different settings")
    if faults:
        raise ChapterError(f"the book is not built: {'; '.join(faults)}. Run `s2f run` with the same options")
    return notebooks, records


def _stage(
    root: Path, stage: Path, notebooks: Sequence[tuple[Chapter, NotebookNode]], records: dict[str, Record]
) -> None:
    """Write the input of Jupyter Book: sources, executed copies, and the note that names the run."""
    book = stage / "book"
    shutil.rmtree(book, ignore_errors=True)
    stage.mkdir(parents=True, exist_ok=True)
    for name in _CONFIGURATION:
        shutil.copyfile(root / name, stage / name)
    shutil.copytree(root / "book", book, ignore=_NOT_STAGED)
    for chapter, notebook in notebooks:
        source = book / chapter.path.parent.name / chapter.path.name
        source.unlink()
        nbformat.write(notebook, source.with_suffix(".ipynb"))
    record = next(iter(records.values()))  # profile and settings are the same in all
    run = {"profile": record.profile, "settings": record.settings}
    (book / "executed.json").write_text(json.dumps(run, default=str) + "\n", encoding="utf-8")
    minutes = sum(each.seconds for each in records.values()) / 60
    (book / "shown.md").write_text(_run_note(record, minutes=minutes), encoding="utf-8")


def _run_note(record: Record, *, minutes: float) -> str:
    """Return the admonition that says which run the pages show."""
    config = load_config(record.profile, record.settings)
    changed = ""
    if record.settings:
        changed = f" Settings that differ from the profile: `{', '.join(record.settings)}`."
    return (
        ":::{admonition} Which run is shown\n:class: note\n"
        f"Profile `{config.profile}`: {describe_people(config.source)}. "
        f"The chapters ran for {minutes:.1f} minutes.{changed}\n:::\n"
    )


def _digest(stage: Path) -> str:
    """Return the digest of what decides the pages: staged files, package, versions of the tools."""
    tools = ("jupyter-book", "sphinx", "myst-nb", "sphinx-book-theme", "matplotlib")
    versions = [sys.version, *(f"{name} {importlib.metadata.version(name)}" for name in tools)]
    staged = digest_of_files(
        [*(stage / "book").rglob("*"), *(stage / name for name in _CONFIGURATION)], root=stage
    )
    return digest(versions, staged, package_digest())  # the reference page shows the docstrings


def _read_stamp(pages: Path) -> str | None:
    try:
        return json.loads((pages / _STAMP).read_text(encoding="utf-8"))["digest"]
    except (OSError, ValueError, KeyError):
        return None


def _run_jupyter_book(stage: Path) -> None:
    """Build a folder; any warning is an error."""
    shutil.rmtree(stage / "_build", ignore_errors=True)  # an unchanged page does not repeat its warnings
    program = "import sys; from jupyter_book.cli.main import main; sys.exit(main())"
    options = ["build", ".", "-n", "-W", "--keep-going", "--all"]
    environment = os.environ | package_environment() | {"PYTHONUTF8": "1", "NO_COLOR": "1"}
    log = stage / "build.log"
    with log.open("w", encoding="utf-8") as file:
        done = subprocess.run(
            [sys.executable, "-c", program, *options],
            cwd=stage,
            env=environment,
            stdout=file,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            check=False,
        )
    if done.returncode == 0 and (stage / "_build" / "html" / "index.html").is_file():
        return
    text = _COLOUR.sub("", log.read_text(encoding="utf-8"))
    lines = [line for line in text.splitlines() if line.strip()]
    faults = [line for line in lines if "WARNING" in line or "ERROR" in line]
    shown = "\n  ".join((faults or lines)[-_N_LINES:])
    raise StudyError(f"Jupyter Book ended with status {done.returncode}; the whole log is {log}:\n  {shown}")
