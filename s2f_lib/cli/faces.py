"""The command `s2f faces`: train both decoders on UTKFace and evaluate them on its held-out faces."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from s2f_lib import paths
from s2f_lib.cli.common import (
    ParameterOption,
    check_file_to_write,
    console,
    load_sections,
    parse_parameters,
    print_table,
    progress_bar,
)


def faces_command(
    utkface: Annotated[
        Path, typer.Option(help="Folder of UTKFace's images, [age]_[gender]_[race]_[date].jpg.chip.jpg.")
    ],
    out: Annotated[Path, typer.Option(help=".json file to write; two .csv files go next to it.")],
    work: Annotated[
        Path | None,
        typer.Option(help="Folder of features and models; later runs reuse them. (Default: runs/faces.)"),
    ] = None,
    n_train: Annotated[
        int, typer.Option(min=2, help="Largest number of training faces; the report has 5900.")
    ] = 5900,
    n_gallery: Annotated[
        int, typer.Option(min=10, help="Number of held-out faces: queries and gallery.")
    ] = 400,
    fold: Annotated[int, typer.Option(min=0, help="Index of the gallery; two galleries share no face.")] = 0,
    report_epochs: Annotated[
        int | None,
        typer.Option(min=1, help="Epochs of the report's decoder. (Default: decoder_training.epochs.)"),
    ] = None,
    note: Annotated[str, typer.Option(help="A sentence for readers; stored with the numbers.")] = "",
    parameter: ParameterOption = None,
) -> None:
    """Compare the report's decoder with the residual decoder on UTKFace; writes numbers, but no images."""
    from s2f_lib.book.published import write_results
    from s2f_lib.evaluation.decoder_comparison import compare_decoders
    from s2f_lib.provenance import environment

    check_file_to_write(out, suffix=".json")
    sections = ("features", "decoder", "decoder_training", "evaluation")
    config = load_sections(None, parse_parameters(parameter), command="faces", sections=sections)
    with progress_bar("decoders") as report:
        compared = compare_decoders(
            utkface,
            features=config.features,
            decoder=config.decoder,
            training=config.decoder_training,
            interval=config.evaluation.interval,
            work=work if work is not None else paths.workspace() / "runs" / "faces",
            n_train=n_train,
            n_gallery=n_gallery,
            fold=fold,
            report_epochs=report_epochs,
            progress=report,
        )
    provenance = compared.provenance | {"note": note, "environment": environment()}
    written = write_results(
        out,
        {"provenance": provenance, "decoders": compared.table.to_dict("records")},
        tables={f"{out.stem}_measures": compared.table, f"{out.stem}_training": compared.training},
    )
    title = f"{compared.provenance['train']:,} training faces of UTKFace, gallery of {n_gallery}"
    print_table(compared.table[["decoder", "measure", "value", "low", "high", "chance"]], title=title)
    console.print("  " + ", ".join(map(str, written)), soft_wrap=True)
