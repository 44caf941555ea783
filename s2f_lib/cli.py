"""The command line: `s2f synth | prepare | run | book | info | weights | train-vgg-face`.

Exit status: 0, 1 (something failed), 2 (bad input), 130 (interrupted).  The
heavy libraries are imported inside the commands, so that `--help` is quick.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from s2f_lib import __version__, paths
from s2f_lib.cli_weights import train_vgg_face, weights_app
from s2f_lib.config import load_config
from s2f_lib.errors import ConfigError, InputError, StudyError

app = typer.Typer(
    name="s2f",
    help="Face reconstruction from speech: make clips, prepare them, run the chapters, build the book.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(weights_app, name="weights")
app.command("train-vgg-face")(train_vgg_face)
console = Console()

ProfileOption = Annotated[
    str, typer.Option("--profile", help="A name in book/profiles, or a YAML file of settings.")
]
ParameterOption = Annotated[
    list[str] | None,
    typer.Option(
        "-p",
        "--parameter",
        metavar="KEY=VALUE",
        help="A setting by its dotted name, such as training.epochs=3, or a chapter's parameter. Repeatable.",
    ),
]
RunDirOption = Annotated[
    Path | None,
    typer.Option("--run-dir", help="The run's folder. [default: runs/PROFILE]", show_default=False),
]
WorkersOption = Annotated[int, typer.Option(min=0, help="Processes; 0: one a core.")]


@app.command()
def synth(
    out: Annotated[Path, typer.Option(help="Folder for media/, clips.csv, splits.csv and the latents.")],
    n_train: Annotated[int, typer.Option(min=1, help="People in train, one clip each.")] = 480,
    n_test: Annotated[int, typer.Option(min=1, help="People in test; none of them is in train.")] = 120,
    rho: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="How much of the face a voice can tell; 0: nothing.")
    ] = 0.9,
    duration_s: Annotated[float, typer.Option(min=0.5, max=10.0, help="Longest clip, in seconds.")] = 6.0,
    seed: Annotated[int, typer.Option(min=0, help="Another seed, another population.")] = 0,
    workers: WorkersOption = 0,
) -> None:
    """Make synthetic clips: MP4 files of talking portraits, and their AVSpeech CSV."""
    from s2f_lib.config import SyntheticConfig
    from s2f_lib.sources.synthetic.clips import make_synthetic_clips

    config = SyntheticConfig(n_train=n_train, n_test=n_test, rho=rho, duration_s=duration_s, seed=seed)
    started = time.perf_counter()
    with _progress_bar("clips") as report:
        make_synthetic_clips(config, out, workers=workers, progress=report)
    seconds = time.perf_counter() - started
    console.print(f"{n_train + n_test} clips in {out} ({seconds:.0f} s). Next:")
    command = f"s2f prepare --csv {out}/clips.csv --media {out}/media --splits {out}/splits.csv --out DIR"
    console.print(f"  {command}", soft_wrap=True)


@app.command()
def prepare(
    csv: Annotated[Path, typer.Option(help="Clip list in AVSpeech's form: id,start_s,end_s,x,y.")],
    media: Annotated[Path, typer.Option(help="Folder of <id>.<ext> files, each a clip or a whole video.")],
    out: Annotated[
        Path, typer.Option(help="Folder for the shards and the ledger; one that is there goes on.")
    ],
    source: Annotated[
        str, typer.Option(help="Form of the clip list; only 'avspeech' is known.")
    ] = "avspeech",
    splits: Annotated[
        Path | None, typer.Option(help="Stored split, CSV clip_id,split; else drawn by video id.")
    ] = None,
    profile: Annotated[
        str | None, typer.Option(help="Take settings from a profile or a YAML file. [default: the library's]")
    ] = None,
    parameter: ParameterOption = None,
    faces: Annotated[
        str | None,
        typer.Option(
            help="'one': exactly one face in the frames looked at; 'at-xy': the one nearest the CSV's x, y."
        ),
    ] = None,
    workers: Annotated[int | None, typer.Option(min=0, help="Processes; 0: one a core.")] = None,
) -> None:
    """Prepare clips: audio, face crop and features into Parquet shards; refusals into the ledger."""
    from s2f_lib.preparation.ledger import Ledger
    from s2f_lib.preparation.pipeline import LEDGER_NAME
    from s2f_lib.preparation.pipeline import prepare as prepare_clips
    from s2f_lib.sources.avspeech import load_clips

    if source != "avspeech":
        raise InputError(
            f"unknown source {source!r}: expected avspeech (make synthetic clips with `s2f synth`)"
        )
    settings = _parse_parameters(parameter)
    if faces is not None:
        settings["preparation.faces"] = faces
    if workers is not None:
        settings["preparation.workers"] = workers
    config = load_config(profile, settings)
    clips = load_clips(csv, media, test_share=config.source.avspeech.test_share, splits_csv=splits)
    with _progress_bar("clips") as report:
        summary = prepare_clips(config, clips, out, progress=report)
    _print_table(summary.table(), title=f"Clips of {csv.name}")
    with Ledger(out / LEDGER_NAME) as ledger:
        for row in ledger.rows():
            if row["reason"]:
                line = f"  {row['clip_id']}: {row['reason']} - {row['detail']}"
                console.print(line, soft_wrap=True, markup=False, highlight=False)
    console.print(f"Shards and ledger are in {out}.", soft_wrap=True)
    if not summary.n_done:
        raise StudyError("no clip was prepared: see the reasons above")


@app.command()
def run(
    profile: ProfileOption = "quick",
    only: Annotated[
        list[str] | None, typer.Option("--only", metavar="NN", help="Chapter number, such as 05. Repeatable.")
    ] = None,
    parameter: ParameterOption = None,
    run_dir: RunDirOption = None,
    force: Annotated[bool, typer.Option("--force", help="Run chapters again that are up to date.")] = False,
) -> None:
    """Run the chapters with papermill; what is up to date is skipped, a killed run goes on."""
    _run_chapters(profile, only=only, parameter=parameter, run_dir=run_dir, force=force)


@app.command()
def book(
    profile: ProfileOption = "quick",
    parameter: ParameterOption = None,
    run_dir: RunDirOption = None,
) -> None:
    """Run the chapters that are not up to date, then build the book into _build/html."""
    from s2f_lib.report.build import build_book

    started = time.perf_counter()
    _run_chapters(profile, only=None, parameter=parameter, run_dir=run_dir, force=False)
    index = build_book(profile, run_dir=run_dir)
    minutes, seconds = divmod(round(time.perf_counter() - started), 60)
    shown = index.relative_to(Path.cwd()) if index.is_relative_to(Path.cwd()) else index
    console.print(f"The book is at {shown} (profile {profile}, {minutes} min {seconds} s).", soft_wrap=True)


@app.command()
def info() -> None:
    """Say what this machine and this installation are: versions, devices, folders, profiles."""
    from s2f_lib.config import profile_names
    from s2f_lib.report.provenance import environment

    table = Table(show_header=False, box=None)
    table.add_row("s2f_lib", __version__)
    for name, value in environment().items():
        table.add_row(name, str(value))
    table.add_row("profiles", ", ".join(profile_names()))
    table.add_row("workspace", str(paths.workspace()))
    console.print(table)


def main() -> None:
    """Run the command line; errors of the study become one line and an exit status."""
    logging.captureWarnings(True)
    try:
        app(prog_name="s2f", standalone_mode=False)
    except typer.Exit as stop:
        sys.exit(stop.exit_code)
    except InputError as error:
        _fail(error, status=2)
    except StudyError as error:
        _fail(error, status=1)
    except (KeyboardInterrupt, typer.Abort):
        _fail("interrupted; the same command goes on where it was", status=130)
    except Exception as error:
        if hasattr(error, "format_message"):  # a usage error of click's: option, type, range
            message = error.format_message()  # empty where no command was given: the help was shown
            _fail(f"{message} (see s2f --help)", status=2) if message else sys.exit(2)
        raise


def _run_chapters(
    profile: str, *, only: list[str] | None, parameter: list[str] | None, run_dir: Path | None, force: bool
) -> None:
    from s2f_lib.report.runner import run_chapters

    with _progress_bar("chapters") as report:
        results = run_chapters(
            profile,
            only=only,
            parameters=_parse_parameters(parameter),
            run_dir=run_dir,
            force=force,
            progress=report,
        )
    for result in results:
        how = "up to date" if result.skipped else f"{result.seconds:.0f} s"
        console.print(f"  {result.name}: {how}", highlight=False)


def _parse_parameters(pairs: list[str] | None) -> dict[str, Any]:
    parameters = {}
    for pair in pairs or []:
        key, sign, value = pair.partition("=")
        if not sign or not key.strip():
            raise ConfigError(f"parameter {pair!r}: expected KEY=VALUE, such as training.epochs=3")
        parameters[key.strip()] = value
    return parameters


@contextmanager
def _progress_bar(what: str) -> Iterator[Any]:
    """Show a bar in a terminal, nothing in a pipe; yields `report(done, total, note)`."""
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
            if isinstance(note, int):  # the count of refused clips
                note = f"{note} refused" if note else ""
            bar.update(task, completed=done, total=total, note=str(note))

        yield report


def _print_table(frame: Any, *, title: str) -> None:
    table = Table(title=title)
    for column in frame.columns:
        table.add_column(str(column))
    for row in frame.itertuples(index=False):
        table.add_row(*(f"{value:.3g}" if isinstance(value, float) else str(value) for value in row))
    console.print(table)


def _fail(message: object, *, status: int) -> None:
    Console(stderr=True).print(f"s2f: {message}", soft_wrap=True, markup=False, highlight=False)
    sys.exit(status)
