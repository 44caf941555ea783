"""The command `s2f pairs`: compare systems on the public face-voice pairs."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from s2f_lib.cli.common import (
    ParameterOption,
    check_file_to_write,
    console,
    load_sections,
    parse_parameters,
    progress_bar,
)
from s2f_lib.errors import InputError


def pairs_command(
    root: Annotated[
        Path,
        typer.Option(help="Folder with avspeech_res/ and perhaps voxceleb/, or a clone with figures/."),
    ],
    out: Annotated[Path, typer.Option(help="JSON file to write; the splits go into a folder next to it.")],
    split: Annotated[
        Path | None,
        typer.Option(help="Stored split, CSV clip_id,split. (Default: random, by video and person.)"),
    ] = None,
    voxceleb: Annotated[
        bool | None,
        typer.Option(
            "--voxceleb",
            help="Also use VoxCeleb's pairs, in their own gallery; all are test if --split names none.",
        ),
    ] = None,
    splits: Annotated[
        int | None,
        typer.Option(min=1, help="Number of splits to draw; results are means over them. (Default: 1.)"),
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Seed of the random splits. (Default: 0.)")] = None,
    system: Annotated[
        list[str] | None,
        typer.Option("--system", help="speech2face, report, ridge or ours. Repeatable. (Default: all.)"),
    ] = None,
    control: Annotated[
        bool,
        typer.Option(
            "--control", help="Also train `ours` on the faces of other people; its results must be at chance."
        ),
    ] = False,
    report_splits: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Number of splits, from the first, in which the report's encoder is trained (minutes each).",
        ),
    ] = None,
    publish: Annotated[
        Path | None,
        typer.Option(
            help="Also write aggregate results, without clip ids, into this folder, for chapter 08."
        ),
    ] = None,
    profile: Annotated[str, typer.Option(help="Settings of the report's encoder.")] = "pairs",
    parameter: ParameterOption = None,
) -> None:
    """Train on the public pairs and compare each test voice with all test faces."""
    from s2f_lib.book.published import write_results
    from s2f_lib.chapters.pairs import publish_comparison
    from s2f_lib.pairs.study import run_pairs
    from s2f_lib.pairs.systems import SYSTEMS

    for name in system or []:
        if name not in SYSTEMS:
            raise InputError(f"unknown system {name!r}: expected one of {', '.join(SYSTEMS)}")
    if split is not None and (splits or 1) > 1:
        raise InputError("--split names one stored split and --splits draws several: give one of the two")
    check_file_to_write(out, suffix=".json")
    # the profile has ten splits, which take long and are only for chapter 08
    settings: dict[str, Any] = {"source.pairs.n_splits": 1} | parse_parameters(parameter)
    sections = ("source.pairs", "spectrogram", "encoder", "training", "evaluation")
    given = {"root": root, "voxceleb": voxceleb, "seed": seed, "n_splits": splits, "split": split}
    settings |= {f"source.pairs.{key}": value for key, value in given.items() if value is not None}
    config = load_sections(profile, settings, command="pairs", sections=sections)
    started = time.perf_counter()
    with progress_bar("pairs") as report:
        results = run_pairs(
            config,
            systems=tuple(system or SYSTEMS),
            control=control,
            report_splits=report_splits,
            splits_out=out.with_name(f"{out.stem}_splits"),
            progress=report,
        )
    results["wall_s"] = round(time.perf_counter() - started, 1)
    results["created"] = datetime.now(UTC).isoformat(timespec="seconds")
    write_results(out, results)
    if publish is not None:
        publish_comparison(results, publish)
    for set_name, numbers in results["sets"].items():
        _print_numbers(set_name, numbers)
    console.print(f"{out} ({results['wall_s']:.0f} s)", soft_wrap=True)


def _print_numbers(set_name: str, numbers: dict[str, Any]) -> None:
    gallery = numbers["gallery"]
    keys = [key for key in numbers["chance"] if key.startswith("recall")]
    headings = (*(key.replace("recall", "R") for key in keys), "median rank", "p, ours against it")
    title = f"{set_name}: {numbers['n']} queries, galleries of {gallery:g}; recall in %"
    table = Table("system", *headings, title=title)
    for name, values in [*numbers["systems"].items(), ("chance", numbers["chance"])]:
        p_value = numbers["comparisons"].get(name, {}).get("p_log_rank")
        cells = [*(f"{100 * values[key]:.1f}" for key in keys), f"{values['median_rank']:.1f}"]
        table.add_row(name, *cells, "" if p_value is None else f"{p_value:.2g}")
    console.print(table)
