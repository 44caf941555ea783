"""The command `s2f prepare`: from a clip list to shards, with or without a download, here or on a cluster."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from s2f_lib.cli.common import ParameterOption, console, parse_parameters, print_table, progress_bar
from s2f_lib.config import StudyConfig, load_config
from s2f_lib.errors import InputError, StudyError

if TYPE_CHECKING:
    from s2f_lib.preparation.download_feed import Download

_SHOWN_REFUSALS = 20  # of a list of any length
_DOWNLOAD = "source.avspeech.download"


def prepare(
    csv: Annotated[Path, typer.Option(help="Clip list in AVSpeech's form: id,start_s,end_s,x,y.")],
    out: Annotated[
        Path, typer.Option(help="Folder for the shards and the ledger; one that is there goes on.")
    ],
    media: Annotated[
        Path | None,
        typer.Option(
            help="Folder of <id>.<ext> files, each a clip or a whole video. (With --download: OUT/media.)",
            show_default=False,
        ),
    ] = None,
    download: Annotated[
        bool, typer.Option("--download", help="Fetch the media that are missing, while others are prepared.")
    ] = False,
    source: Annotated[
        str, typer.Option(help="Form of the clip list; only 'avspeech' is known.")
    ] = "avspeech",
    split: Annotated[
        Path | None, typer.Option(help="Stored split, CSV clip_id,split. (Default: drawn by video id.)")
    ] = None,
    profile: Annotated[
        str | None,
        typer.Option(help="Take settings from a profile or a YAML file. (Default: the library's.)"),
    ] = None,
    parameter: ParameterOption = None,
    faces: Annotated[
        str | None,
        typer.Option(
            help="'one': exactly one face in the frames looked at; 'at-xy': the one nearest the CSV's x, y."
        ),
    ] = None,
    workers: Annotated[int | None, typer.Option(min=0, help="Processes; 0: one a core.")] = None,
    url_template: Annotated[
        str | None,
        typer.Option(help="Where clips are, such as http://HOST/{id}.mp4. (Default: YouTube.)"),
    ] = None,
    cookies: Annotated[
        Path | None, typer.Option(help="cookies.txt of a signed-in browser, for age-gated videos.")
    ] = None,
    concurrency: Annotated[int | None, typer.Option(min=1, help="Downloads at once. (Default: 4.)")] = None,
    max_height: Annotated[
        int | None, typer.Option(min=144, help="Largest frame height to fetch, pixels. (Default: 360.)")
    ] = None,
    engine: Annotated[
        Literal["local", "ray"], typer.Option(help="This machine's processes, or a Ray cluster.")
    ] = "local",
    address: Annotated[
        str | None, typer.Option(help="Of the Ray cluster, such as auto. (Default: one on this machine.)")
    ] = None,
) -> None:
    """Prepare clips: audio, face crop and features into shards (Arrow files); refusals into the ledger."""
    from s2f_lib.preparation.pipeline import prepare as prepare_clips
    from s2f_lib.sources.avspeech import load_clips

    if source != "avspeech":
        raise InputError(
            f"unknown source {source!r}: expected avspeech (make synthetic clips with `s2f synth`)"
        )
    settings = parse_parameters(parameter)
    given = {
        "preparation.faces": faces,
        "preparation.workers": workers,
        f"{_DOWNLOAD}.url_template": None if url_template is None else json.dumps(url_template),
        f"{_DOWNLOAD}.cookies": None if cookies is None else json.dumps(str(cookies)),
        f"{_DOWNLOAD}.concurrency": concurrency,
        f"{_DOWNLOAD}.max_height_px": max_height,
    }
    settings |= {key: value for key, value in given.items() if value is not None}
    config = load_config(profile, settings)
    if not download:
        _refuse_without_download(url_template, cookies, concurrency, max_height)
    if address is not None and engine != "ray":
        raise InputError(f"--address {address} is of a Ray cluster: add --engine ray, or leave it out")
    fetch = _download(config, media, out) if download else None
    media = fetch.folder if fetch else media
    if media is None:
        raise InputError("no --media given: say where the files are, or add --download to fetch them")
    avspeech = config.source.avspeech
    split = split if split is not None else avspeech.split
    clips = load_clips(csv, media, test_share=avspeech.test_share, split_csv=split)
    with progress_bar("clips") as report:
        summary = prepare_clips(
            config, clips, out, progress=report, download=fetch, engine=engine, address=address
        )
    print_table(summary.table(), title=f"Clips of {csv.name}")
    _print_refusals(out, n_refused=summary.n_refused)
    console.print(f"Shards and ledger are in {out}.", soft_wrap=True)
    if summary.n_pending:
        raise StudyError(
            f"{summary.n_pending} clips are still to do: the server wants no more requests now; "
            "run the same command again later"
        )
    if not summary.n_done:
        raise StudyError("no clip was prepared: see the reasons above")


def _download(config: StudyConfig, media: Path | None, out: Path) -> Download:
    from s2f_lib.preparation.download_feed import Download

    folder = media if media is not None else out / "media"
    folder.mkdir(parents=True, exist_ok=True)
    return Download(folder, config.source.avspeech.download)


def _refuse_without_download(*options: object) -> None:
    if any(option is not None for option in options):
        raise InputError(
            "--url-template, --cookies, --concurrency and --max-height say how to download: "
            "add --download, or leave them out"
        )


def _print_refusals(out: Path, *, n_refused: int) -> None:
    from s2f_lib.preparation.ledger import Ledger
    from s2f_lib.preparation.pipeline import LEDGER_NAME

    with Ledger(out / LEDGER_NAME) as ledger:
        shown = ledger.refusals(limit=_SHOWN_REFUSALS)
    for clip_id, reason, detail in shown:
        console.print(f"  {clip_id}: {reason} - {detail}", soft_wrap=True, markup=False, highlight=False)
    if n_refused > len(shown):
        console.print(f"  and {n_refused - len(shown)} more, in {out / LEDGER_NAME}", soft_wrap=True)
