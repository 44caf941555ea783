"""The command `s2f reconstruct`: a recording of a voice to a drawn face."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from s2f_lib.cli.common import console
from s2f_lib.errors import ConfigError


def reconstruct(
    voice: Annotated[
        Path, typer.Argument(help="Any file with sound that FFmpeg reads: at least 1 s of speech.")
    ],
    out: Annotated[Path, typer.Option("-o", "--out", help="The .png file to write.")],
    run: Annotated[
        Path | None,
        typer.Option(
            "--run", help="A run's folder. [default: runs/quick, left by make book]", show_default=False
        ),
    ] = None,
    gallery: Annotated[
        Path | None,
        typer.Option(
            help="Folder of pictures to retrieve from. [default: the run's people]", show_default=False
        ),
    ] = None,
    top_k: Annotated[int, typer.Option(min=1, max=10, help="Faces to retrieve.")] = 5,
) -> None:
    """Draw a face from a voice, guess attributes, and find the nearest faces of a gallery."""
    from s2f_lib.reconstruction.voice import reconstruct as reconstruct_voice

    if out.suffix.lower() != ".png":
        raise ConfigError(f"--out is {out}: expected a .png file")
    result = reconstruct_voice(voice, run=run, gallery=gallery, top_k=top_k)
    out.parent.mkdir(parents=True, exist_ok=True)
    result.figure().savefig(out, format="png", dpi=150)
    for guess in result.attributes:
        console.print(f"  {guess.format_guess()}", highlight=False, soft_wrap=True)
    for rank, found in enumerate(result.found, start=1):
        line = f"  {rank}. {found.name}, cosine {found.similarity:.3f}"
        console.print(line, highlight=False, soft_wrap=True, markup=False)
    console.print(f"  {out}: drawn from a voice, no portrait of the speaker", soft_wrap=True, markup=False)
