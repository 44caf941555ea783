"""The command line `s2f COMMAND`: new, synth, prepare, train, run, book, publish, reconstruct, pairs, faces,
weights, train-vgg-face and info.

Exit status: 0 (success), 1 (failure), 2 (bad input) or 130 (interrupted). The commands import heavy libraries
in their bodies, so that `--help` is quick.
"""

from __future__ import annotations

import logging
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from s2f_lib import __version__, paths
from s2f_lib.cli.common import ParameterOption, console, log_to_stderr, parse_parameters, progress_bar
from s2f_lib.cli.faces import faces_command
from s2f_lib.cli.new import new_command
from s2f_lib.cli.pairs import pairs_command
from s2f_lib.cli.prepare import prepare_command
from s2f_lib.cli.publish import publish_command
from s2f_lib.cli.reconstruct import reconstruct_command
from s2f_lib.cli.train import train_command
from s2f_lib.cli.weights import train_vgg_face_command, weights_app
from s2f_lib.errors import InputError, MissingFileError, StudyError

app = typer.Typer(
    name="s2f",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"max_content_width": 120},
    rich_markup_mode=None,  # markup would hide texts in brackets
)
app.add_typer(weights_app, name="weights")
app.command("new")(new_command)
app.command("prepare")(prepare_command)
app.command("pairs")(pairs_command)
app.command("faces")(faces_command)
app.command("reconstruct")(reconstruct_command)
app.command("publish")(publish_command)
app.command("train")(train_command)
app.command("train-vgg-face")(train_vgg_face_command)

ProfileOption = Annotated[
    str, typer.Option("--profile", help="A name in book/profiles, or a YAML file of settings.")
]
RunDirOption = Annotated[
    Path | None,
    typer.Option("--run-dir", help="Folder of the run. (Default: runs/PROFILE.)", show_default=False),
]
UTKFaceOption = Annotated[
    Path | None,
    typer.Option(
        "--utkface",
        metavar="DIR",
        help="Folder of UTKFace images. The face decoder is trained on them first.",
        show_default=False,
    ),
]


def _print_version(wanted: bool) -> None:
    if wanted:
        console.print(f"s2f_lib {__version__}", highlight=False)
        raise typer.Exit


@app.callback()
def options(
    _version: Annotated[
        bool,
        typer.Option("--version", help="Print the version and exit.", callback=_print_version, is_eager=True),
    ] = False,
) -> None:
    """Face reconstruction from speech: generate clips, prepare them, run the chapters, build the book."""


@app.command()
def synth(
    out: Annotated[
        Path, typer.Option(help="Folder for media/, clips.csv, splits.csv and the latent factors.")
    ],
    n_train: Annotated[
        int, typer.Option(min=1, help="Number of people in the training split, one clip per person.")
    ] = 480,
    n_test: Annotated[
        int, typer.Option(min=1, help="Number of people in the test split; no person is in both splits.")
    ] = 120,
    rho: Annotated[
        float,
        typer.Option(min=0.0, max=1.0, help="Strength of the link between voice and face; 0: no link."),
    ] = 0.9,
    duration_s: Annotated[
        float,
        typer.Option(min=0.5, max=10.0, help="Length of the longest clip, in seconds."),
    ] = 6.0,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the population.")] = 0,
    workers: Annotated[int, typer.Option(min=0, max=4096, help="Number of processes; 0: one per core.")] = 0,
) -> None:
    """Generate synthetic clips: MP4 files of talking portraits, and a clip list in AVSpeech's format."""
    from s2f_lib.config import SyntheticConfig
    from s2f_lib.sources.synthetic.clips import make_synthetic_clips

    config = SyntheticConfig().with_(
        n_train=n_train, n_test=n_test, rho=rho, duration_s=duration_s, seed=seed
    )
    started = time.perf_counter()
    with progress_bar("clips") as report:
        make_synthetic_clips(config, out, workers=workers, progress=report)
    seconds = time.perf_counter() - started
    console.print(f"{n_train + n_test} clips in {out} ({seconds:.0f} s). Next:")
    command = f"s2f prepare --csv {out}/clips.csv --media {out}/media --split {out}/splits.csv --out DIR"
    console.print(f"  {command}", soft_wrap=True)


@app.command()
def run(
    profile: ProfileOption = "quick",
    only: Annotated[
        list[str] | None,
        typer.Option(
            "--only", metavar="NN", help="Number of a chapter, such as 05, or name of a recipe. Repeatable."
        ),
    ] = None,
    parameter: ParameterOption = None,
    utkface: UTKFaceOption = None,
    run_dir: RunDirOption = None,
    force: Annotated[bool, typer.Option("--force", help="Also run chapters that are up to date.")] = False,
) -> None:
    """Run the chapters with papermill. Up-to-date chapters are skipped; an interrupted run is resumed."""
    settings = chapter_parameters(parameter, utkface=utkface)
    _run_chapters(profile, only=only, parameters=settings, run_dir=run_dir, force=force)


@app.command()
def book(
    profile: ProfileOption = "quick",
    parameter: ParameterOption = None,
    utkface: UTKFaceOption = None,
    run_dir: RunDirOption = None,
) -> None:
    """Run the chapters that are not up to date, then build the book in _build/html."""
    from s2f_lib.book.build import build_book

    started = time.perf_counter()
    settings = chapter_parameters(parameter, utkface=utkface)
    _run_chapters(profile, only=None, parameters=settings, run_dir=run_dir, force=False)
    index = build_book(profile, run_dir=run_dir)
    minutes, seconds = divmod(round(time.perf_counter() - started), 60)
    shown = index.relative_to(Path.cwd()) if index.is_relative_to(Path.cwd()) else index
    console.print(f"The book is at {shown} (profile {profile}, {minutes} min {seconds} s).", soft_wrap=True)


@app.command()
def info() -> None:
    """Print versions, devices, folders and profiles of this installation."""
    from s2f_lib.config import profile_names
    from s2f_lib.provenance import environment

    table = Table(show_header=False, box=None)
    table.add_row("s2f_lib", __version__)
    for name, value in environment().items():
        table.add_row(name, str(value))
    table.add_row("profiles", ", ".join(profile_names()))
    table.add_row("study folder", str(paths.study_folder()))
    table.add_row("workspace", str(paths.workspace()))
    console.print(table)


def main() -> None:
    """Run the command line; print an error of the study as one line, and exit with its status."""
    logging.captureWarnings(True)
    interrupted = "interrupted; run the same command again to resume"
    try:
        # typer catches Ctrl-C itself and returns the status 130
        if status := app(prog_name="s2f", standalone_mode=False):
            _fail(interrupted, status=status) if status == 130 else sys.exit(status)
    except typer.Exit as stop:
        sys.exit(stop.exit_code)
    except InputError as error:
        _fail(error, status=2)
    except StudyError as error:
        _fail(error, status=1)
    except (FileExistsError, NotADirectoryError, IsADirectoryError, PermissionError) as error:
        _fail(f"{error.filename}: {error.strerror}", status=2)
    except OSError as error:  # for example a full disk
        logging.getLogger(__name__).debug("", exc_info=True)
        _fail(f"{error.filename or 'reading or writing'}: {error.strerror or error}", status=1)
    except (KeyboardInterrupt, typer.Abort):
        _fail(interrupted, status=130)
    except Exception as error:
        if hasattr(error, "format_message"):  # a usage error from click: option, type, range
            message = error.format_message()  # empty if there is no command: click has printed the help
            _fail(f"{message} (see s2f --help)", status=2) if message else sys.exit(2)
        raise


def chapter_parameters(parameter: list[str] | None, *, utkface: Path | None) -> dict[str, Any]:
    """Return the parameters that `-p` and `--utkface` set."""
    parameters = parse_parameters(parameter)
    if utkface is not None:
        if not utkface.is_dir():
            raise MissingFileError(f"no folder {utkface}: --utkface takes the folder of UTKFace images")
        parameters["decoder_training.utkface"] = str(utkface)
    return parameters


def _run_chapters(
    profile: str, *, only: list[str] | None, parameters: dict[str, Any], run_dir: Path | None, force: bool
) -> None:
    from s2f_lib.book.runner import run_chapters

    if not sys.stderr.isatty():
        log_to_stderr()
    with progress_bar("chapters", every_s=0) as report:
        results = run_chapters(
            profile, only=only, parameters=parameters, run_dir=run_dir, force=force, progress=report
        )
    for result in results:
        how = "up to date" if result.skipped else f"{result.seconds:.0f} s"
        console.print(f"  {result.name}: {how}", highlight=False)


def _fail(message: object, *, status: int) -> None:
    Console(stderr=True).print(f"s2f: {message}", soft_wrap=True, markup=False, highlight=False)
    sys.exit(status)
