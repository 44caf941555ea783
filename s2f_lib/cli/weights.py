"""Commands about VGG-Face's weights: `s2f weights import` and `s2f train-vgg-face`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from s2f_lib.cli.common import console, parse_parameters, progress_bar

weights_app = typer.Typer(help="Weights of VGG-Face, which cannot be shipped.", no_args_is_help=True)


@weights_app.callback()
def weights() -> None:
    """Weights of VGG-Face, which cannot be shipped."""


@weights_app.command("import")
def import_weights(
    path: Annotated[
        Path, typer.Argument(help="vgg_face_dag.pth, VGG_FACE.t7 or vgg_face_weights.h5, told by content.")
    ],
    out: Annotated[
        Path | None,
        typer.Option(help="The .safetensors file to write. [default: beside PATH]", show_default=False),
    ] = None,
    channel_order: Annotated[
        Literal["rgb", "bgr"] | None,
        typer.Option(help="Of the source, where it differs from its form's usual one."),
    ] = None,
    expect: Annotated[
        str | None, typer.Option(help="First digits that the fingerprint must have, at least 8.")
    ] = None,
) -> None:
    """Check a public file of VGG-Face and convert it to safetensors; nothing in it is executed."""
    from s2f_lib.faces.vgg_face.import_weights import card_path, converted_path, import_vgg_face

    card = import_vgg_face(path, out, channel_order=channel_order, expected_fingerprint=expect)
    target = converted_path(path, out)
    console.print(
        f"{card.source_form} weights, fingerprint {card.fingerprint[:16]}, in {target}", soft_wrap=True
    )
    console.print(f"  card: {card_path(target)}", soft_wrap=True)
    console.print(f"  use:  -p features.extractor=vgg_face -p features.weights={target}", soft_wrap=True)


def train_vgg_face(
    out: Annotated[Path, typer.Option(help="Folder for vgg_face.safetensors; one that is there goes on.")],
    n_identities: Annotated[int, typer.Option(min=2, help="Synthetic people to tell apart.")] = 2622,
    renderings: Annotated[int, typer.Option(min=2, help="Pictures of each.")] = 40,
    width: Annotated[
        float, typer.Option(min=0.01, help="Multiplies VGG16's channels; 1: as published.")
    ] = 1.0,
    workers: Annotated[int, typer.Option(min=0, help="Processes that draw; 0: one a core.")] = 0,
    parameter: Annotated[
        list[str] | None,
        typer.Option(
            "-p",
            "--parameter",
            metavar="KEY=VALUE",
            help="A setting of the training, such as learning_rate=0.00003. Repeatable.",
        ),
    ] = None,
) -> None:
    """Train VGG16 to tell synthetic people apart: 4096-D features without the public weights (GPU)."""
    from s2f_lib.config import with_changes
    from s2f_lib.training.vgg_face import VGG_FACE_TRAINING
    from s2f_lib.training.vgg_face import train_vgg_face as train

    config = with_changes(VGG_FACE_TRAINING, parse_parameters(parameter))
    with progress_bar("VGG-Face") as report:  # first the faces, then the epochs
        trained = train(
            out,
            config=config,
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
