"""Runs the chapters with papermill, each only if something that decides it has changed.

A run that was killed resumes with the first chapter that is not up to date. Inside that chapter, the steps of
the study that were finished are read from disk.
"""

from __future__ import annotations

import logging
import os
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat

from s2f_lib.book.executed import (
    Chapter,
    ExecutedChapter,
    Parameters,
    Record,
    chapter_digest,
    check_parameters,
    find_chapters,
    find_recipes,
    package_environment,
    prepend,
    read_notebook,
    select_chapters,
    strip_local_paths,
)
from s2f_lib.config import load_config
from s2f_lib.errors import ChapterError
from s2f_lib.paths import RunPaths
from s2f_lib.storage import locked

logger = logging.getLogger(__name__)

#: Called with (number of finished chapters, number of all chapters, name of the running chapter).
Progress = Callable[[int, int, str], None]

_KERNEL_START_S = 300  # seconds; importing IPython is slow on a busy machine
_LONGEST_SOCKET = 90  # bytes of a socket's path without its number; some systems allow 103 with it


@dataclass(frozen=True)
class ChapterResult:
    """Outcome of one chapter: whether it was up to date, its executed copy and the wall time of its run."""

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
    """Run chapters of the book, then its recipes, and store their executed copies in the run's folder.

    Parameters
    ----------
    profile
        Name in `book/profiles`, or path of a YAML file.
    only
        Chapters by number or name, and recipes by name. None: all.
    parameters
        Value of each dotted setting (``training.epochs``) or chapter's own parameter. All are checked
        before anything runs.
    run_dir
        Folder of the run. None: `runs/<profile>`.
    force
        Whether to run chapters that are up to date, too.
    progress
        Function that is called before each chapter and at the end.
    notebooks
        Folder of the sources. None: the folder of the book.

    Returns
    -------
    list of ChapterResult
        One result per chapter.

    Raises
    ------
    InputError
        The profile, a chapter or a parameter is unknown, a value has the wrong type, or another run is
        at work in the folder.
    ChapterError
        A cell failed; the message names chapter, cell and error. The chapters before it are stored.

    See Also
    --------
    build_book : Builds the pages from the executed copies.

    Examples
    --------
    >>> run_chapters("quick", only=["5"], parameters={"training.epoch": 3})
    Traceback (most recent call last):
    s2f_lib.errors.ConfigError: unknown setting 'training.epoch' - did you mean training.epochs?
    """
    chapters = select_chapters([*find_chapters(notebooks), *find_recipes(notebooks)], only)
    checked = check_parameters(profile, parameters, chapters)
    run = RunPaths(Path(run_dir)) if run_dir else RunPaths.of_profile(load_config(profile).profile)
    run.notebooks.mkdir(parents=True, exist_ok=True)
    busy = f"another run is at work in {run.root}: wait for it, or give another --run-dir"
    results = []
    with locked(run.notebooks, busy=busy):
        for index, chapter in enumerate(chapters):
            if progress:
                progress(index, len(chapters), chapter.name)
            results.append(_run_chapter(chapter, str(profile), checked, run, run_dir=run_dir, force=force))
    if progress:
        progress(len(chapters), len(chapters), "")
    return results


def _run_chapter(
    chapter: Chapter,
    profile: str,
    parameters: Parameters,
    run: RunPaths,
    *,
    run_dir: Path | None,
    force: bool,
) -> ChapterResult:
    executed = ExecutedChapter(chapter, run)
    own = parameters.for_chapter(chapter)
    digest = chapter_digest(chapter, profile, parameters.settings, own)
    seconds = None if force else _seconds_if_up_to_date(executed, digest)
    if seconds is not None:
        logger.info("%s is up to date", chapter.name)
        return ChapterResult(chapter.name, True, seconds, executed.path)
    given: dict[str, Any] = {}
    if not chapter.is_recipe:
        given = {"profile": profile, **own}
        if run_dir is not None:
            given["run_dir"] = str(run_dir)
        if parameters.settings:
            given["settings"] = parameters.settings
    started = time.perf_counter()
    logger.info("%s runs", chapter.name)
    notebook = _execute(chapter, given, executed)
    seconds = time.perf_counter() - started
    executed.write(notebook, Record(digest, profile, dict(parameters.settings), own, round(seconds, 1)))
    logger.info("%s: %.0f s", chapter.name, seconds)
    return ChapterResult(chapter.name, False, seconds, executed.path)


def _seconds_if_up_to_date(executed: ExecutedChapter, digest: str) -> float | None:
    try:
        _, record = executed.read()
    except ChapterError:
        return None
    return record.seconds if record.digest == digest else None


def _execute(chapter: Chapter, given: dict[str, Any], executed: ExecutedChapter) -> nbformat.NotebookNode:
    """Run a notebook; if a cell fails, store the notebook up to that cell and raise."""
    import papermill
    from nbclient.exceptions import DeadKernelError

    source = chapter.notebook()
    for leftover in executed.path.parent.glob(f".{chapter.name}.*.part.ipynb"):
        leftover.unlink(missing_ok=True)  # from a killed run: the lock says that no other run is at work
    started = time.time()
    try:
        with tempfile.TemporaryDirectory(prefix="s2f-kernel-") as folder:
            empty = Path(folder) / "recipe"
            empty.mkdir()
            notebook = papermill.execute_notebook(
                source,
                executed.partial,
                given,
                progress_bar=False,
                start_timeout=_KERNEL_START_S,
                cwd=empty if chapter.is_recipe else None,
                **_kernel_options(Path(folder)),
            )
    except papermill.PapermillExecutionError as error:
        _write_failed(executed)
        where = f"cell {error.exec_count}" if error.exec_count else f"the cell at index {error.cell_index}"
        line = " ".join(str(error.evalue).split())
        raise ChapterError(
            f"chapter {chapter.name} failed in {where}: {error.ename}: {line} "
            f"(see {executed.failed.name} in {executed.failed.parent})"
        ) from None
    except DeadKernelError:
        _write_failed(executed)
        raise ChapterError(
            f"chapter {chapter.name}: its kernel died after {time.time() - started:.0f} s, perhaps for "
            "lack of memory; run it again with fewer or smaller clips or a smaller batch"
        ) from None
    finally:
        executed.partial.unlink(missing_ok=True)
    return strip_local_paths(notebook)


def _write_failed(executed: ExecutedChapter) -> None:
    notebook = read_notebook(executed.partial)
    if notebook is not None:
        nbformat.write(strip_local_paths(notebook), executed.failed)


def _kernel_options(folder: Path) -> dict[str, Any]:
    """Return papermill's arguments for a kernel of this interpreter.

    Jupyter looks kernels up by name, and may find a `python3` of another environment in the user's home. It
    also puts sockets into the working directory under fixed names, where two runs that start together would
    use each other's. So the manager is given its specification, and its files lie in a folder of their own.
    """
    from jupyter_client.kernelspec import KernelSpec
    from jupyter_client.manager import AsyncKernelManager
    from traitlets.config import Config

    environment = package_environment() | {
        "IPYTHONDIR": str(folder / "ipython"),  # no start-up files of the user
        "PYTHONWARNINGS": prepend("ignore:IProgress not found", "PYTHONWARNINGS", ","),
        "PYDEVD_DISABLE_FILE_VALIDATION": "1",
    }
    command = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    specification = KernelSpec(argv=command, language="python", env=environment)
    traits = {"connection_file": str(folder / "connection.json"), "transport": "tcp"}
    socket = str(folder / "socket")
    if os.name == "posix" and len(os.fsencode(socket)) <= _LONGEST_SOCKET:
        traits |= {"transport": "ipc", "ip": socket}  # needs no port
    return {
        "kernel_manager_class": type("KernelManager", (AsyncKernelManager,), {"kernel_spec": specification}),
        "config": Config({"KernelManager": traits}),
    }
