"""Helpers that the commands share: console, parameters, progress bar, tables."""

from __future__ import annotations

import logging
import math
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from s2f_lib.config import StudyConfig, load_config, setting_keys
from s2f_lib.errors import ConfigError, MissingFileError

console = Console()

_SILENCE_S = 60.0  # seconds without a report after which the last state is written again

ParameterOption = Annotated[
    list[str] | None,
    typer.Option(
        "-p",
        "--parameter",
        metavar="KEY=VALUE",
        help="A setting, such as training.epochs=3, or a parameter of a chapter. Repeatable.",
    ),
]


def parse_parameters(pairs: list[str] | None) -> dict[str, Any]:
    """Return `KEY=VALUE` texts as a dict; raise ConfigError for a text without "=" or without a key."""
    parameters = {}
    for pair in pairs or []:
        key, sign, value = pair.partition("=")
        if not sign or not key.strip():
            raise ConfigError(f"parameter {pair!r}: expected KEY=VALUE, such as training.epochs=3")
        parameters[key.strip()] = value
    return parameters


def load_sections(
    profile: str | None,
    settings: Mapping[str, Any],
    *,
    command: str,
    sections: Sequence[str],
    source: str | None = None,
) -> StudyConfig:
    """Return the settings of a command that reads only some sections; refuse settings of other sections.

    `source` is the kind of source that the command reads; it replaces the profile's.
    """
    for key in settings:
        if key in setting_keys() and not any(key.startswith(f"{section}.") for section in sections):
            raise ConfigError(f"{key} has no effect on s2f {command}, which reads only {', '.join(sections)}")
    return load_config(profile, dict(settings) | ({"source.kind": source} if source else {}))


def check_file_to_write(path: Path, *, suffix: str) -> None:
    """Raise a ConfigError for a wrong suffix, and a MissingFileError if the parent folder does not exist."""
    if path.is_dir() or path.suffix.lower() != suffix:
        what = " is a folder" if path.is_dir() else f" has the suffix {path.suffix!r}"
        raise ConfigError(f"--out {path}{what}: expected a {suffix} file to write")
    if not path.parent.is_dir():
        raise MissingFileError(f"no folder {path.parent}: make it first, or give another --out")


def log_to_stderr(level: int = logging.INFO) -> None:
    """Print the log of the package, one line with the time per event."""
    logging.basicConfig(stream=sys.stderr, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    logging.getLogger("s2f_lib").setLevel(level)


@contextmanager
def progress_bar(what: str, *, every_s: float = 10.0) -> Iterator[Any]:
    """Yield a function `report(done, total, note)` that shows the progress on stderr.

    A terminal shows a bar. Elsewhere, such as in a pipe, a line is written at most every `every_s` seconds,
    see `_ProgressLines`. The note is a text, the number of refused clips, or the metrics of an epoch.
    """
    if not sys.stderr.isatty():
        with _ProgressLines(what, every_s=every_s) as lines:
            yield lines.report
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=None, note="")

        def report(done: int, total: int | None, note: object = "") -> None:
            bar.update(task, completed=done, total=total, note=_format_note(note))

        yield report


class _ProgressLines:
    """Lines such as `12:30:05 clips: 120 of 600, 2 refused, about 4 min left`.

    The first and the last report are written, and each report that comes at least `every_s` seconds after the
    last line. If nothing is reported for `_SILENCE_S` seconds, the last state is written again, with the time
    since it was reported.
    """

    def __init__(self, what: str, *, every_s: float) -> None:
        self._what, self._every_s = what, every_s
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._started = self._reported = time.monotonic()
        self._written = -math.inf
        self._first: int | None = None  # items that were done at the first report, perhaps by an earlier run
        self._state = "at work"

    def __enter__(self) -> _ProgressLines:
        threading.Thread(target=self._write_in_silence, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()

    def report(self, done: int, total: int | None, note: object = "") -> None:
        """Note the progress, and write a line if one is due."""
        with self._lock:
            now = self._reported = time.monotonic()
            if self._first is None:
                self._first, self._started = done, now
            parts = [f"{done} of {total}" if total else str(done), _format_note(note)]
            if total and self._first < done < total:
                left_s = (now - self._started) / (done - self._first) * (total - done)
                parts.append(f"about {format_duration(left_s)} left")
            self._state = ", ".join(part for part in parts if part)
            if done == total or now - self._written >= self._every_s:
                self._write(self._state)

    def _write_in_silence(self) -> None:
        while not self._ended.wait(_SILENCE_S / 4):
            with self._lock:
                now = time.monotonic()
                if now - max(self._written, self._started) >= _SILENCE_S:
                    self._write(f"{self._state} (for {format_duration(now - self._reported)})")

    def _write(self, line: str) -> None:
        self._written = time.monotonic()
        print(f"{time.strftime('%H:%M:%S')} {self._what}: {line}", file=sys.stderr, flush=True)


def format_duration(seconds: float) -> str:
    """Return a rounded duration, such as "40 s", "12 min" or "3.5 h".

    Examples
    --------
    >>> format_duration(40.2), format_duration(700), format_duration(12_600)
    ('40 s', '12 min', '3.5 h')
    """
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _format_note(note: object) -> str:
    if isinstance(note, Mapping):
        shown = ("train_loss", "validation_loss", "samples_per_s")
        return ", ".join(f"{name} {note[name]:.4g}" for name in shown if name in note)
    if isinstance(note, int):
        return f"{note} refused" if note else ""
    return str(note)


def print_table(frame: Any, *, title: str) -> None:
    """Print a data frame as a table; floating-point numbers have three significant digits."""
    table = Table(title=title)
    for column in frame.columns:
        table.add_column(str(column))
    for row in frame.itertuples(index=False):
        table.add_row(*(f"{value:.3g}" if isinstance(value, float) else str(value) for value in row))
    console.print(table)
