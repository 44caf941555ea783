"""Runs the chapters with papermill, each at most once for what decides it.

A chapter that is up to date is skipped; a killed run goes on with the first
chapter that is not, and inside it with what the steps of the study have kept.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat
from filelock import FileLock, Timeout

from s2f_lib.book.chapters import (
    Chapter,
    Parameters,
    check_parameters,
    find_chapters,
    select_chapters,
)
from s2f_lib.book.executed import (
    ChapterFiles,
    Record,
    chapter_digest,
    read_executed,
    read_record,
    without_machine,
    write_executed,
)
from s2f_lib.book.kernel import chapter_kernel
from s2f_lib.config import load_config
from s2f_lib.errors import ChapterError, InputError
from s2f_lib.paths import RunPaths

logger = logging.getLogger(__name__)

#: Called with (chapters done, chapters in all, name of the one at work).
Progress = Callable[[int, int, str], None]

_KERNEL_START_S = 300  # a busy machine needs long to import IPython


@dataclass(frozen=True)
class ChapterResult:
    """What came of one chapter.

    Attributes
    ----------
    name
        `NN_topic`.
    skipped
        It was up to date.
    seconds
        Wall time of its run, now or then.
    notebook
        The executed copy.
    """

    name: str
    skipped: bool
    seconds: float
    notebook: Path


def run_chapters(
    profile: str | Path,
    *,
    only: Sequence[str] | None = None,
    parameters: Mapping[str, Any] | None = None,
    run_dir: Path | None = None,
    force: bool = False,
    progress: Progress | None = None,
    notebooks: Path | None = None,
) -> list[ChapterResult]:
    """Run the chapters of the book.

    Parameters
    ----------
    profile
        A name in `book/profiles`, or the path of a YAML file.
    only
        Chapters by number or name; all by default.
    parameters
        A dotted setting (``training.epochs``) or a chapter's own parameter, to its value.
        All are checked before anything runs.
    run_dir
        The run's folder; by default `runs/<profile>`.
    force
        Run also what is up to date.
    progress
        Called before each chapter and at the end.
    notebooks
        Folder of the sources; by default the book's.

    Raises
    ------
    InputError
        The profile, a chapter or a parameter is unknown, or a value is of the wrong
        type; or another run is at work in the folder.
    ChapterError
        A cell failed: the message names chapter, cell and error.  What ran before it is kept.
    """
    chapters = select_chapters(find_chapters(notebooks), only)
    checked = check_parameters(profile, parameters, chapters)
    run = RunPaths(Path(run_dir)) if run_dir else RunPaths.of_profile(load_config(profile).profile)
    run.notebooks.mkdir(parents=True, exist_ok=True)
    lock = FileLock(run.root / ".lock", timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise InputError(
            f"another run is at work in {run.root}: wait for it, or give another --run-dir"
        ) from None
    results = []
    try:
        for index, chapter in enumerate(chapters):
            if progress:
                progress(index, len(chapters), chapter.name)
            results.append(_run_chapter(chapter, str(profile), checked, run, run_dir=run_dir, force=force))
        if progress:
            progress(len(chapters), len(chapters), "")
    finally:
        lock.release()
    return results


def is_up_to_date(chapter: Chapter, record: Record) -> bool:
    """Say whether a chapter would come out of the same source, package, settings and parameters."""
    digest = chapter_digest(chapter, record.profile, record.settings, record.parameters)
    return record.digest == digest


def _run_chapter(
    chapter: Chapter,
    profile: str,
    parameters: Parameters,
    run: RunPaths,
    *,
    run_dir: Path | None,
    force: bool,
) -> ChapterResult:
    files = ChapterFiles(run.notebooks, chapter.name)
    own = parameters.of(chapter)
    digest = chapter_digest(chapter, profile, parameters.settings, own)
    if not force and not files.failed.exists():
        kept = read_executed(files.executed)
        record = read_record(kept) if kept is not None else None
        if record is not None and record.digest == digest:
            logger.info("%s is up to date", chapter.name)
            return ChapterResult(chapter.name, True, record.seconds, files.executed)
    given: dict[str, Any] = {"profile": profile, **own}
    if run_dir is not None:
        given["run_dir"] = str(run_dir)
    if parameters.settings:
        given["settings"] = parameters.settings
    started = time.perf_counter()
    logger.info("%s runs", chapter.name)
    notebook = _execute(chapter, given, files)
    seconds = time.perf_counter() - started
    record = Record(digest, profile, dict(parameters.settings), own, round(seconds, 1))
    write_executed(notebook, files.executed, record)
    files.failed.unlink(missing_ok=True)
    logger.info("%s: %.0f s", chapter.name, seconds)
    return ChapterResult(chapter.name, False, seconds, files.executed)


def _execute(chapter: Chapter, given: dict[str, Any], files: ChapterFiles) -> nbformat.NotebookNode:
    """Run a notebook; where a cell fails, keep it as it then was, and raise."""
    import papermill
    from nbclient.exceptions import DeadKernelError
    from traitlets.config import Config

    source = chapter.notebook()
    language = source.metadata.get("kernelspec")
    for leftover in files.folder.glob(f".{chapter.name}.*.part.ipynb"):
        leftover.unlink(missing_ok=True)  # of a run that was killed: the lock says that none is at work
    started = time.time()
    try:
        with chapter_kernel() as (kernel, manager):
            notebook = papermill.execute_notebook(
                source,
                files.partial,
                given,
                kernel_name=kernel,
                progress_bar=False,
                start_timeout=_KERNEL_START_S,
                config=Config({"KernelManager": manager}),
            )
    except papermill.PapermillExecutionError as error:
        _keep_failed(files)
        where = f"cell {error.exec_count}" if error.exec_count else f"cell at place {error.cell_index}"
        line = " ".join(str(error.evalue).split())
        raise ChapterError(
            f"chapter {chapter.name} failed in {where}: {error.ename}: {line} "
            f"(the notebook up to there: {files.failed.name} in {files.folder})"
        ) from None
    except DeadKernelError:
        _keep_failed(files)
        raise ChapterError(
            f"chapter {chapter.name}: its kernel died after {time.time() - started:.0f} s, perhaps for "
            "lack of memory; run again to go on, with fewer or smaller clips or a smaller batch"
        ) from None
    finally:
        files.partial.unlink(missing_ok=True)
    if language is not None:
        notebook.metadata["kernelspec"] = language  # not the kernel that was made for the occasion
    return without_machine(notebook)


def _keep_failed(files: ChapterFiles) -> None:
    notebook = read_executed(files.partial)
    if notebook is not None:
        nbformat.write(without_machine(notebook), files.failed)
