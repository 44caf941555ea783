"""The command `s2f prepare`: from a clip list or a folder to shards, with or without download."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from s2f_lib.cli.common import (
    ParameterOption,
    console,
    load_sections,
    parse_parameters,
    print_table,
    progress_bar,
)
from s2f_lib.errors import InputError, StudyError
from s2f_lib.storage import write_atomically

_MAX_REFUSALS = 20  # number of refusals in the terminal; the ledger has all of them
_DOWNLOAD = "source.avspeech.download"


def prepare_command(
    out: Annotated[
        Path,
        typer.Option(help="Output folder for the shards and the ledger. An existing run in it is resumed."),
    ],
    media: Annotated[
        Path | None,
        typer.Option(
            help="Folder of media files. With --csv: files called <id>.<ext>, each a clip or a whole video. "
            "Without --csv: each file is one clip. (Default with --download: OUT/media.)",
            show_default=False,
        ),
    ] = None,
    csv: Annotated[
        Path | None, typer.Option(help="Clip list in AVSpeech's format: id,start_s,end_s,x,y.")
    ] = None,
    max_clip_s: Annotated[
        float | None,
        typer.Option(help="Without --csv: cut longer files into clips of this length, in seconds."),
    ] = None,
    recordings: Annotated[
        bool,
        typer.Option("--recordings", help="Without --csv: prepare only the voices, without faces."),
    ] = False,
    download: Annotated[
        bool,
        typer.Option("--download", help="Download missing media files; clips are prepared at the same time."),
    ] = False,
    source: Annotated[str, typer.Option(help="Format of the clip list; only 'avspeech'.")] = "avspeech",
    split: Annotated[
        Path | None, typer.Option(help="Stored split, CSV clip_id,split. (Default: random, by video id.)")
    ] = None,
    profile: Annotated[
        str | None,
        typer.Option(help="Profile or YAML file with settings. (Default: the library's settings.)"),
    ] = None,
    parameter: ParameterOption = None,
    faces: Annotated[
        str | None,
        typer.Option(
            help="'one': exactly one face in the frames; 'at-xy': the face nearest to x, y of the clip list."
        ),
    ] = None,
    workers: Annotated[int | None, typer.Option(min=0, help="Number of processes; 0: one per core.")] = None,
    url_template: Annotated[
        str | None,
        typer.Option(help="Address of a clip, such as http://HOST/{id}.mp4. (Default: YouTube.)"),
    ] = None,
    cookies: Annotated[
        Path | None, typer.Option(help="cookies.txt of a signed-in browser, for age-gated videos.")
    ] = None,
    concurrency: Annotated[
        int | None, typer.Option(min=1, help="Number of parallel downloads. (Default: 4.)")
    ] = None,
    max_height: Annotated[
        int | None, typer.Option(min=144, help="Largest height of a video, in pixels. (Default: 360.)")
    ] = None,
    engine: Annotated[
        Literal["local", "ray"], typer.Option(help="Processes on this machine, or a Ray cluster.")
    ] = "local",
    address: Annotated[
        str | None,
        typer.Option(
            help="Address of the Ray cluster, such as auto. (Default: a new cluster on this machine.)"
        ),
    ] = None,
    refusals: Annotated[
        Path | None, typer.Option(help="CSV file to write, with every refused clip, its reason and a detail.")
    ] = None,
    retry: Annotated[
        str | None,
        typer.Option(help="Reasons of earlier refusals, such as crashed,truncated: try these clips again."),
    ] = None,
) -> None:
    """Prepare clips: write sound, face crops and features into Arrow files, and refusals into a ledger."""
    from s2f_lib.preparation.download_feed import Download
    from s2f_lib.preparation.pipeline import prepare, prepare_folder, prepare_recordings
    from s2f_lib.sources.avspeech import load_clips

    if source != "avspeech":
        raise InputError(
            f"unknown source {source!r}: expected avspeech (`s2f synth` generates synthetic clips)"
        )
    download_options = {
        f"{_DOWNLOAD}.url_template": None if url_template is None else json.dumps(url_template),
        f"{_DOWNLOAD}.cookies": None if cookies is None else json.dumps(str(cookies)),
        f"{_DOWNLOAD}.concurrency": concurrency,
        f"{_DOWNLOAD}.max_height_px": max_height,
    }
    if not download and any(value is not None for value in download_options.values()):
        raise InputError(
            "--url-template, --cookies, --concurrency and --max-height are for downloads: "
            "add --download, or leave them out"
        )
    if address is not None and engine != "ray":
        raise InputError(f"--address {address} needs a Ray cluster: add --engine ray, or leave it out")
    if csv is None and download:
        raise InputError("--download needs a list of the clips to download: add --csv LIST.csv")
    if csv is not None and (recordings or max_clip_s is not None):
        raise InputError("--recordings and --max-clip-s are for a folder without a list: leave --csv out")
    if recordings and (engine != "local" or faces is not None):
        raise InputError(
            "--recordings runs on this machine only and uses no faces: leave --engine and --faces out"
        )
    if media is None:
        if not download:
            raise InputError(
                "no --media given: name the folder of the files, or add --download to download them"
            )
        media = out / "media"
    options = {"preparation.faces": faces, "preparation.workers": workers} | download_options
    settings = parse_parameters(parameter) | {k: value for k, value in options.items() if value is not None}
    sections = ("source.avspeech", "preparation", *(() if recordings else ("features",)))
    config = load_sections(profile, settings, command="prepare", sections=sections, source="avspeech")
    if download:
        media.mkdir(parents=True, exist_ok=True)
    avspeech = config.source.avspeech
    splits: dict[str, Any] = {"test_share": avspeech.test_share, "split_csv": split or avspeech.split}
    with progress_bar("clips") as report:
        run: dict[str, Any] = {"preparation": config.preparation, "progress": report, "retry": retry or ()}
        if recordings:
            summary = prepare_recordings(media, out, max_clip_s=max_clip_s, **splits, **run)
        else:
            run |= {"features": config.features, "engine": engine, "address": address}
            if csv is None:
                summary = prepare_folder(media, out, max_clip_s=max_clip_s, **splits, **run)
            else:
                clips = load_clips(csv, media, **splits, youtube_ids=download)
                source_of = Download(media, avspeech.download) if download else None
                summary = prepare(clips, out, **run, download=source_of)
    print_table(summary.table(), title=f"Clips of {(csv or media).name}")
    _print_refusals(out, refusals)
    console.print(f"Shards and ledger are in {out}.", soft_wrap=True)
    if summary.n_pending:
        raise StudyError(
            f"{summary.n_pending} clips are still pending: the server is rate-limiting; "
            "run the command again later"
        )
    if not summary.n_done:
        raise StudyError("no clip was prepared: see the reasons above")


def _print_refusals(out: Path, table: Path | None) -> None:
    from s2f_lib.preparation.ledger import read_refusals

    refusals = read_refusals(out)
    if table is not None:
        write_atomically(table, refusals.to_csv(index=False))
    for row in refusals[:_MAX_REFUSALS].itertuples():
        line = f"  {row.clip_id}: {row.reason} - {row.detail}"
        console.print(line, soft_wrap=True, markup=False, highlight=False)
    if len(refusals) > _MAX_REFUSALS:
        more = f"  and {len(refusals) - _MAX_REFUSALS} more: --refusals FILE.csv writes all of them"
        console.print(more, soft_wrap=True)
