"""The commands `s2f weights import` and `s2f train-vgg-face`: import or train weights of VGG-Face."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from s2f_lib.cli.common import console, parse_parameters, progress_bar

weights_app = typer.Typer(help="Import the weights of VGG-Face.", no_args_is_help=True)


@weights_app.callback()
def weights_callback() -> None:
    """Import the weights of VGG-Face; their licence keeps them out of the package."""


@weights_app.command("import")
def import_command(
    path: Annotated[
        Path,
        typer.Argument(
            help="vgg_face_dag.pth, VGG_FACE.t7 or vgg_face_weights.h5, recognised by its content."
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(help=".safetensors file to write. (Default: next to PATH.)", show_default=False),
    ] = None,
    channel_order: Annotated[
        Literal["rgb", "bgr"] | None,
        typer.Option(help="Channel order of the source. (Default: the usual order of its format.)"),
    ] = None,
    expect: Annotated[
        str | None, typer.Option(help="First 8 or more digits of the expected fingerprint.")
    ] = None,
) -> None:
    """Check a public VGG-Face file and convert it to safetensors, without executing anything in it."""
    from s2f_lib.faces.vgg_face.import_weights import card_path, converted_path, import_vgg_face

    card = import_vgg_face(path, out, channel_order=channel_order, expected_fingerprint=expect)
    target = converted_path(path, out)
    for line in (
        f"{card.source_form} weights, fingerprint {card.fingerprint[:16]}, in {target}",
        f"  card: {card_path(target)}",
        f"  use:  -p features.extractor=vgg_face -p features.weights={target}",
    ):
        console.print(line, soft_wrap=True)


def train_vgg_face_command(
    out: Annotated[
        Path, typer.Option(help="Folder for vgg_face.safetensors. An interrupted run in it is resumed.")
    ],
    n_identities: Annotated[
        int, typer.Option(min=2, max=1_000_000, help="Number of synthetic people.")
    ] = 2622,
    renderings: Annotated[int, typer.Option(min=2, max=100_000, help="Number of images per person.")] = 40,
    width: Annotated[
        float,
        typer.Option(
            min=0.01,
            max=64,
            help="Factor on the number of channels; 1: VGG16 as published.",
        ),
    ] = 1.0,
    workers: Annotated[
        int,
        typer.Option(min=0, max=4096, help="Number of processes that generate images; 0: one per core."),
    ] = 0,
    parameter: Annotated[
        list[str] | None,
        typer.Option(
            "-p", "--parameter", metavar="KEY=VALUE", help="A training setting, such as epochs=3. Repeatable."
        ),
    ] = None,
) -> None:
    """Train VGG16 on synthetic people: 4096-D features without the public weights (needs a GPU)."""
    from s2f_lib.config import with_changes
    from s2f_lib.training.vgg_face import VGG_FACE_TRAINING, train_vgg_face

    training = with_changes(VGG_FACE_TRAINING, parse_parameters(parameter))
    with progress_bar("VGG-Face") as report:  # shows the number of images first, then of epochs
        trained = train_vgg_face(
            out,
            training=training,
            n_identities=n_identities,
            renderings=renderings,
            width=width,
            workers=workers,
            progress=report,
            rendered=report,
        )
    console.print(f"weights in {trained.weights}; last epoch:", soft_wrap=True)
    for name, value in trained.metrics.iloc[-1].items():
        console.print(f"  {name}: {value:.4g}")
