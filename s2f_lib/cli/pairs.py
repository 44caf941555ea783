"""The command `s2f pairs`: systems compared on the public face-voice pairs."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from s2f_lib.cli.common import ParameterOption, console, parse_parameters, progress_bar
from s2f_lib.errors import InputError


def pairs(
    root: Annotated[
        Path,
        typer.Option(
            help="Folder with avspeech_res/ and perhaps voxceleb/, or a clone that has them in figures/."
        ),
    ],
    out: Annotated[Path, typer.Option(help="The JSON file to write; the splits go into a folder beside it.")],
    split: Annotated[
        Path | None,
        typer.Option(
            help="Stored split, CSV clip_id,split with train or test; else drawn by video and person."
        ),
    ] = None,
    voxceleb: Annotated[
        bool | None,
        typer.Option(
            "--voxceleb",
            help="Also VoxCeleb's pairs, in a gallery of their own; all are test where --split names none.",
        ),
    ] = None,
    splits: Annotated[
        int | None,
        typer.Option(min=1, help="How many splits to draw; numbers are means over them. [default: 1]"),
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Of the drawn splits. [default: 0]")] = None,
    system: Annotated[
        list[str] | None,
        typer.Option("--system", help="speech2face, report, ridge or ours. Repeatable. [default: all]"),
    ] = None,
    control: Annotated[
        bool,
        typer.Option("--control", help="Also `ours` trained on other people's faces: it must be at chance."),
    ] = False,
    report_splits: Annotated[
        int | None,
        typer.Option(
            min=1, help="Train the report's encoder in the first so many splits only: it takes minutes."
        ),
    ] = None,
    publish: Annotated[
        Path | None,
        typer.Option(
            help="Also write the aggregates, without clip ids, as chapter 08 keeps them, into this folder."
        ),
    ] = None,
    profile: Annotated[str, typer.Option(help="Settings of the report's encoder.")] = "pairs",
    parameter: ParameterOption = None,
) -> None:
    """Train on the public pairs' train part, and look for each test voice's face among all test faces."""
    from s2f_lib.config import load_config
    from s2f_lib.pairs.systems import SYSTEMS

    for name in system or []:
        if name not in SYSTEMS:
            raise InputError(f"unknown system {name!r}: expected one of {', '.join(SYSTEMS)}")
    if split is not None and (splits or 1) > 1:
        raise InputError(
            "--split gives one split, --splits asks for several to be drawn: give one of the two"
        )
    if out.is_dir():
        raise InputError(f"--out {out} is a folder; expected the JSON file to write")
    # one split, unless more are asked for: the profile's ten are the chapter's, and take a while
    settings: dict[str, Any] = {"source.pairs.n_splits": 1} | parse_parameters(parameter)
    given = {"voxceleb": voxceleb, "seed": seed, "n_splits": splits, "split": split}
    settings |= {"source.pairs.root": root}
    settings |= {f"source.pairs.{key}": value for key, value in given.items() if value is not None}
    config = load_config(profile, settings)
    from s2f_lib.pairs.study import run_pairs

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
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.with_name(f".{out.name}.part")
    partial.write_text(json.dumps(results, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    partial.replace(out)
    if publish is not None:
        from s2f_lib.chapters.pairs import publish as keep

        keep(results, publish)
    for set_name, numbers in results["sets"].items():
        _print(set_name, numbers)
    console.print(f"{out} ({results['wall_s']:.0f} s)", soft_wrap=True)


def _print(set_name: str, numbers: dict[str, Any]) -> None:
    gallery = numbers["gallery"]
    table = Table(title=f"{set_name}: {numbers['n']} queries, galleries of {gallery:g}; recall in %")
    keys = [key for key in numbers["chance"] if key.startswith("recall")]
    for column in (
        "system",
        *(key.replace("recall", "R") for key in keys),
        "median rank",
        "p, ours against it",
    ):
        table.add_column(column)
    for name, values in [*numbers["systems"].items(), ("chance", numbers["chance"])]:
        p_value = numbers["comparisons"].get(name, {}).get("p_log_rank")
        shown = [f"{100 * values[key]:.1f}" for key in keys]
        table.add_row(
            name, *shown, f"{values['median_rank']:.1f}", "" if p_value is None else f"{p_value:.2g}"
        )
    console.print(table)
