"""Builds the book out of a run's executed chapters, with Jupyter Book.

Jupyter Book itself would build a book of failed or missing chapters and exit
with 0.  So the chapters are checked first, then staged beside the book's
sources in the run's folder, and built there; the pages replace the old ones
only when no warning is left.
"""

from __future__ import annotations

import hashlib
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
from s2f_lib.book.chapters import Chapter, find_chapters
from s2f_lib.book.executed import ChapterFiles, Record, error_of, read_executed, read_record
from s2f_lib.book.runner import is_up_to_date
from s2f_lib.config import load_config
from s2f_lib.errors import ChapterError, StudyError
from s2f_lib.paths import RunPaths

logger = logging.getLogger(__name__)

_CONFIGURATION = ("_config.yml", "_toc.yml")
_STAMP = "built.json"  # beside the pages: what they were built from
_LOG = "build.log"
_LINES_SHOWN = 12
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_NOT_STAGED = shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints", "profiles", "*.ipynb")


def build_book(
    profile: str | Path, *, run_dir: Path | None = None, out: Path | None = None, root: Path | None = None
) -> Path:
    """Build the book of a run.

    Parameters
    ----------
    profile
        Whose run is shown.
    run_dir
        The run's folder; by default `runs/<profile>`.
    out
        Folder that gets `html/`; by default the workspace's `_build`.
    root
        Folder of `_config.yml`, `_toc.yml` and `book/`; by default the repository's.

    Returns
    -------
    Path
        `html/index.html`.

    Raises
    ------
    ChapterError
        A chapter was not run, failed, or is of other sources or settings than now.
    StudyError
        Jupyter Book failed or warned; its last lines are in the message.
    """
    root = paths.repository_root() if root is None else Path(root)
    out = paths.build_dir() if out is None else Path(out)
    run = RunPaths(Path(run_dir)) if run_dir else RunPaths.of_profile(load_config(profile).profile)
    chapters = find_chapters(root / "book" / "notebooks")
    notebooks, records = _executed_chapters(chapters, run)
    stage = run.root / "book"
    _stage(root, stage, notebooks, records)
    digest = _digest(stage)
    index = out / "html" / "index.html"
    if _stamp(out / "html") == digest and index.is_file():
        logger.info("the book is up to date")
        return index
    _run_jupyter_book(stage)
    (stage / "_build" / "html" / _STAMP).write_text(json.dumps({"digest": digest}) + "\n", encoding="utf-8")
    _replace_folder(stage / "_build" / "html", out / "html")
    return index


def _executed_chapters(
    chapters: Sequence[Chapter], run: RunPaths
) -> tuple[dict[str, NotebookNode], dict[str, Record]]:
    """Return the chapters' executed copies and records, or raise with all that is wrong."""
    notebooks, records, faults = {}, {}, []
    for chapter in chapters:
        files = ChapterFiles(run.notebooks, chapter.name)
        notebook = read_executed(files.executed)
        record = read_record(notebook) if notebook is not None else None
        if files.failed.exists():
            faults.append(f"{chapter.name} failed ({_error_of_failed(files)})")
        elif notebook is None:
            faults.append(f"{chapter.name} was not run")
        elif (error := error_of(notebook)) is not None:
            faults.append(f"{chapter.name} failed ({error})")
        elif record is None:
            faults.append(f"{chapter.name} holds no record of its run")
        elif not is_up_to_date(chapter, record):
            faults.append(f"{chapter.name} is of other sources or settings than now")
        else:
            notebooks[chapter.name], records[chapter.name] = notebook, record
    if len({(r.profile, json.dumps(r.settings, sort_keys=True, default=str)) for r in records.values()}) > 1:
        faults.append("the chapters were run with different settings")
    if faults:
        raise ChapterError(f"the book is not built: {'; '.join(faults)}. Run `s2f run` with the same options")
    return notebooks, records


def _error_of_failed(files: ChapterFiles) -> str:
    notebook = read_executed(files.failed)
    return (error_of(notebook) if notebook is not None else None) or f"see {files.failed.name}"


def _stage(root: Path, stage: Path, notebooks: dict[str, NotebookNode], records: dict[str, Record]) -> None:
    """Lay out what Jupyter Book builds: sources, executed copies, and which run they show."""
    book = stage / "book"
    shutil.rmtree(book, ignore_errors=True)
    stage.mkdir(parents=True, exist_ok=True)
    for name in _CONFIGURATION:
        shutil.copyfile(root / name, stage / name)
    shutil.copytree(root / "book", book, ignore=_NOT_STAGED)
    for name, notebook in notebooks.items():
        (book / "notebooks" / f"{name}.md").unlink()
        nbformat.write(notebook, book / "notebooks" / f"{name}.ipynb")
    any_record = next(iter(records.values()))
    run = {"profile": any_record.profile, "settings": any_record.settings}
    (book / "executed.json").write_text(json.dumps(run, default=str) + "\n", encoding="utf-8")
    (book / "shown.md").write_text(_which_run(any_record, records), encoding="utf-8")


def _which_run(record: Record, records: dict[str, Record]) -> str:
    """Return the admonition that says which run the pages show."""
    config = load_config(record.profile, record.settings)
    source = config.source
    if source.kind == "synthetic":
        people = f"{source.synthetic.n_train:,} training and {source.synthetic.n_test:,} test people"
        what = f"generated clips of {people}, rho {source.synthetic.rho:g}"
    else:
        what = f"clips of {source.kind}"
    minutes = sum(each.seconds for each in records.values()) / 60
    changed = f" Settings that differ from the profile: `{', '.join(record.settings)}`." * bool(
        record.settings
    )
    return (
        ":::{admonition} Which run is shown\n:class: note\n"
        f"Profile `{config.profile}`: {what}. The chapters ran for {minutes:.1f} minutes.{changed}\n:::\n"
    )


def _digest(stage: Path) -> str:
    """Return the digest of all that goes into the pages: staged files, package, the tools' versions."""
    digest = hashlib.sha256(sys.version.encode())
    for name in ("jupyter-book", "sphinx", "myst-nb", "sphinx-book-theme", "matplotlib"):
        digest.update(f"{name} {importlib.metadata.version(name)}".encode())
    package = paths.repository_root() / "s2f_lib"  # the reference page is made of its docstrings
    files = [*(stage / "book").rglob("*"), *(stage / name for name in _CONFIGURATION), *package.rglob("*.py")]
    for path in sorted(path for path in files if path.is_file() and "__pycache__" not in path.parts):
        digest.update(str(path.name).encode() + b"\0" + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def _stamp(folder: Path) -> str | None:
    try:
        return json.loads((folder / _STAMP).read_text(encoding="utf-8"))["digest"]
    except (OSError, ValueError, KeyError):
        return None


def _run_jupyter_book(stage: Path) -> None:
    """Build a folder; any warning is a failure."""
    shutil.rmtree(stage / "_build", ignore_errors=True)  # warnings of unchanged pages would not come again
    program = "import sys; from jupyter_book.cli.main import main; sys.exit(main())"
    options = ["build", ".", "-n", "-W", "--keep-going", "--all"]
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(paths.repository_root()), os.environ.get("PYTHONPATH", "")]),
        "PYTHONUTF8": "1",
        "NO_COLOR": "1",
    }
    log = stage / _LOG
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
    marked = [line for line in lines if "WARNING" in line or "ERROR" in line]
    shown = "\n  ".join((marked or lines)[-_LINES_SHOWN:])
    raise StudyError(f"Jupyter Book ended with status {done.returncode}; all of it is in {log}:\n  {shown}")


def _replace_folder(new: Path, old: Path) -> None:
    """Put a folder in the place of another; a reader sees one or the other, but for a moment."""
    old.parent.mkdir(parents=True, exist_ok=True)
    incoming, outgoing = (old.with_name(f".{old.name}.{kind}.{os.getpid()}") for kind in ("new", "old"))
    shutil.copytree(new, incoming)
    if old.exists():
        old.rename(outgoing)
    incoming.rename(old)
    shutil.rmtree(outgoing, ignore_errors=True)
