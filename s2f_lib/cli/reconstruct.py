"""The command `s2f reconstruct`: from a recording of a voice to the image of a face."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from s2f_lib.cli.common import check_file_to_write, console, log_to_stderr


def reconstruct_command(
    voice: Annotated[
        Path, typer.Argument(help="Any file with sound that FFmpeg reads; at least 1 s of speech.")
    ],
    out: Annotated[Path, typer.Option("-o", "--out", help="PNG file to write.")],
    run: Annotated[
        Path | None,
        typer.Option(
            "--run", help="Run folder. (Default: runs/quick, made by `make book`.)", show_default=False
        ),
    ] = None,
    gallery: Annotated[
        Path | None,
        typer.Option(
            help="Folder of face images to retrieve from. (Default: the run's people.)", show_default=False
        ),
    ] = None,
    top_k: Annotated[int, typer.Option(min=1, max=10, help="Number of faces to retrieve.")] = 5,
    train: Annotated[
        bool, typer.Option("--train", help="Train the run's models if they are missing (minutes or more).")
    ] = False,
) -> None:
    """Reconstruct a face from a voice, guess attributes, and find the nearest faces of a gallery."""
    from s2f_lib.reconstruction.voice import reconstruct
    from s2f_lib.storage import atomic_path

    check_file_to_write(out, suffix=".png")
    if train:
        log_to_stderr()
    result = reconstruct(voice, run=run, gallery=gallery, top_k=top_k, train=train)
    with atomic_path(out) as temporary:
        result.figure().savefig(temporary, format="png", dpi=150)
    for guess in result.attributes:
        console.print(f"  {guess.format_guess()}", highlight=False, soft_wrap=True)
    for rank, found in enumerate(result.found, start=1):
        line = f"  {rank}. {found.name}, cosine {found.similarity:.3f}"
        console.print(line, highlight=False, soft_wrap=True, markup=False)
    console.print(f"  model: {result.encoder}", soft_wrap=True, markup=False, highlight=False)
    console.print(f"  {out}: not a portrait of the speaker", soft_wrap=True, markup=False)
