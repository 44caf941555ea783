"""Helpers that the commands share: console, parameters, progress bar, tables."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from s2f_lib.errors import ConfigError

console = Console()

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


@contextmanager
def progress_bar(what: str) -> Iterator[Any]:
    """Yield a function `report(done, total, note)` that updates a progress bar, shown only in a terminal.

    The note is a text, the number of refused clips, or the metrics of an epoch.
    """
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
