"""The command `s2f faces`: both decoders trained on UTKFace, and judged on its held-out faces."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from s2f_lib import paths
from s2f_lib.cli.common import ParameterOption, console, parse_parameters, print_table, progress_bar
from s2f_lib.errors import ConfigError


def faces(
    utkface: Annotated[
        Path, typer.Option(help="Folder of UTKFace's pictures, [age]_[gender]_[race]_[date].jpg.chip.jpg.")
    ],
    out: Annotated[Path, typer.Option(help="The .json file to write; two .csv files go beside it.")],
    work: Annotated[
        Path | None,
        typer.Option(help="Folder of features and models, used again. [default: runs/faces]"),
    ] = None,
    n_train: Annotated[int, typer.Option(min=2, help="Faces to train on, at most; the report: 5900.")] = 5900,
    n_gallery: Annotated[int, typer.Option(min=10, help="Faces held out: queries and gallery.")] = 400,
    fold: Annotated[int, typer.Option(min=0, help="Which of the galleries; no face is in two of them.")] = 0,
    report_epochs: Annotated[
        int | None,
        typer.Option(min=1, help="Epochs of the report's decoder. [default: decoder_training.epochs]"),
    ] = None,
    note: Annotated[str, typer.Option(help="A sentence for readers, kept with the numbers.")] = "",
    parameter: ParameterOption = None,
) -> None:
    """Compare the report's decoder with the residual one on UTKFace: numbers alone, no picture is written."""
    from s2f_lib.config import load_config
    from s2f_lib.evaluation.decoder_comparison import compare_decoders
    from s2f_lib.provenance import environment

    if out.suffix != ".json":
        raise ConfigError(f"--out is {out}: expected a .json file")
    config = load_config(None, parse_parameters(parameter))
    folder = work if work is not None else paths.workspace() / "runs" / "faces"
    with progress_bar("decoders") as report:
        compared = compare_decoders(
            utkface,
            config,
            work=folder,
            n_train=n_train,
            n_gallery=n_gallery,
            fold=fold,
            report_epochs=report_epochs,
            progress=report,
        )
    written = compared.write(out, environment=environment(), note=note)
    title = f"{compared.provenance['train']:,} faces of UTKFace trained on, gallery of {n_gallery}"
    print_table(compared.table[["decoder", "measure", "value", "low", "high", "chance"]], title=title)
    console.print("  " + ", ".join(map(str, written)), soft_wrap=True)
