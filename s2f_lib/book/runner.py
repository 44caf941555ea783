"""Runs the chapters with papermill, each only if something that decides it has changed.

A run that was killed resumes with the first chapter that is not up to date. Inside that chapter, the steps of
the study that were finished are read from disk.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

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
from s2f_lib.storage import locked, write_atomically

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
    book = [*find_chapters(notebooks), *find_recipes(notebooks)]
    chapters = select_chapters(book, only)
    checked = check_parameters(profile, parameters, chapters, others=book)
    config = load_config(profile, checked.settings)
    run = RunPaths(Path(run_dir)) if run_dir else RunPaths.of_profile(config.profile)
    run.notebooks.mkdir(parents=True, exist_ok=True)
    busy = f"another run is at work in {run.root}: wait for it, or give another --run-dir"
    results = []
    with locked(run.notebooks, busy=busy):
        write_atomically(run.settings, config.to_yaml())
        for index, chapter in enumerate(chapters):
            if progress:
                progress(index, len(chapters), chapter.name)
            results.append(_run_chapter(chapter, str(profile), checked, run, force=force))
    if progress:
        progress(len(chapters), len(chapters), "")
    return results


def _run_chapter(
    chapter: Chapter, profile: str, parameters: Parameters, run: RunPaths, *, force: bool
) -> ChapterResult:
    executed = ExecutedChapter(chapter, run)
    own = parameters.for_chapter(chapter)
    digest = chapter_digest(chapter, profile, parameters.settings, own)
    seconds = None if force else _seconds_if_up_to_date(executed, digest)
    if seconds is not None:
        return ChapterResult(chapter.name, True, seconds, executed.path)
    given: dict[str, Any] = {}
    if not chapter.is_recipe:
        given = {"profile": profile, "run_dir": str(run.root), **own}
        if parameters.settings:
            given["settings"] = parameters.settings
    started = time.perf_counter()
    notebook = _execute(chapter, given, executed)
    seconds = time.perf_counter() - started
    settings = dict(parameters.settings)
    executed.write(
        notebook, Record(digest, profile, settings, own, round(seconds, 1), executed.files_digest())
    )
    return ChapterResult(chapter.name, False, seconds, executed.path)


def _seconds_if_up_to_date(executed: ExecutedChapter, digest: str) -> float | None:
    try:
        _, record = executed.read_success()
    except ChapterError:
        return None
    if (record.digest, record.files) != (digest, executed.files_digest()):
        return None
    executed.failed.unlink(missing_ok=True)  # left by a later run with other settings
    return record.seconds


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
            options = _kernel_options(Path(folder))
            with _interrupt_ends_kernel(options["kernel_manager_class"].started):
                notebook = papermill.execute_notebook(
                    source,
                    executed.partial,
                    given,
                    progress_bar=False,
                    start_timeout=_KERNEL_START_S,
                    stdout_file=_StepLog(chapter.name),
                    cwd=empty if chapter.is_recipe else None,
                    **options,
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


class _StepLog:
    """File-like object that writes the lines that a chapter prints to the log."""

    def __init__(self, chapter: str) -> None:
        self._chapter = chapter

    def write(self, text: str) -> None:
        """Log each line that is not empty."""
        for line in filter(None, map(str.strip, text.splitlines())):
            logger.info("%s: %s", self._chapter, line)

    def flush(self) -> None:
        """Do nothing: the log has no buffer."""


@contextmanager
def _interrupt_ends_kernel(started: list[Any]) -> Iterator[None]:
    """Let Ctrl-C end the kernel, and raise KeyboardInterrupt after papermill has returned.

    A KeyboardInterrupt inside papermill's event loop would leave tasks behind, which print tracebacks. Signal
    handlers work only in the main thread, and a background job of a shell ignores Ctrl-C.
    """
    in_main_thread = threading.current_thread() is threading.main_thread()
    if not in_main_thread or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    interrupted = False

    def end_kernel(*_: object) -> None:
        nonlocal interrupted
        interrupted = True
        running = [manager.provisioner.process for manager in started if manager.has_kernel]
        if not running:
            raise KeyboardInterrupt
        for process in running:
            if os.name == "posix":
                os.killpg(process.pid, signal.SIGKILL)  # the kernel and the processes that it started
            else:
                process.kill()

    signal.signal(signal.SIGINT, end_kernel)
    papermill_log = logging.getLogger("papermill")
    before, papermill_log.disabled = papermill_log.disabled, True  # its errors are raised here, in one line
    try:
        yield
    except Exception:
        if not interrupted:
            raise
    finally:
        papermill_log.disabled = before
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if interrupted:
        raise KeyboardInterrupt


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

    class KernelManager(AsyncKernelManager):
        kernel_spec = specification
        started: ClassVar[list[AsyncKernelManager]] = []

        def __init__(self, **options: Any) -> None:
            super().__init__(**options)
            self.started.append(self)

    traits = {"connection_file": str(folder / "connection.json"), "transport": "tcp"}
    socket = str(folder / "socket")
    if os.name == "posix" and len(os.fsencode(socket)) <= _LONGEST_SOCKET:
        traits |= {"transport": "ipc", "ip": socket}  # needs no port
    return {
        "kernel_manager_class": KernelManager,
        "config": Config({"KernelManager": traits}),
    }
