"""The command `s2f train`: train a voice encoder on prepared clips, on one device or several.

Several GPUs (DDP)::

    accelerate launch --multi_gpu --num_processes 4 -m s2f_lib.cli train PREPARED --profile gpu --out OUT

Several CPU processes (gloo; `accelerate launch --cpu` needs MPI, torchrun does not)::

    torchrun --nproc-per-node 2 -m s2f_lib.cli train PREPARED -p training.device=cpu --out OUT

`batch_size` is the total over all processes, so the number of processes changes the result only by rounding.
"""

from __future__ import annotations

import json
import logging
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer

from s2f_lib.cli.common import (
    ParameterOption,
    console,
    load_sections,
    log_to_stderr,
    parse_parameters,
    progress_bar,
)


def train_command(
    prepared: Annotated[Path, typer.Argument(help="Folder of shards that `s2f prepare` wrote.")],
    out: Annotated[
        Path,
        typer.Option(help="Folder of the models: one subfolder per combination of loss, settings and clips."),
    ],
    profile: Annotated[
        str, typer.Option("--profile", help="A name in book/profiles, or a YAML file of settings.")
    ] = "quick",
    loss: Annotated[
        str | None,
        typer.Option(
            help="l1, l2, l1_l2, contrastive, info_nce or a custom loss. (Default: training.main_loss.)",
            show_default=False,
        ),
    ] = None,
    parameter: ParameterOption = None,
    log_steps: Annotated[
        Path | None,
        typer.Option(help="File for the losses: each line is a JSON list of step and loss."),
    ] = None,
) -> None:
    """Train a voice encoder on prepared clips; an interrupted training is resumed."""
    chosen = {} if loss is None else {"training.main_loss": loss}
    sections = ("spectrogram", "encoder", "training")
    settings = parse_parameters(parameter) | chosen
    config = load_sections(profile, settings, command="train", sections=sections)

    from s2f_lib.preparation.shards import read_prepared
    from s2f_lib.training.distributed import is_first_process
    from s2f_lib.training.encoder import train_voice_encoder

    first_process = is_first_process()
    log_to_stderr(logging.INFO if first_process else logging.WARNING)
    clips = read_prepared(prepared, split="train")
    with ExitStack() as stack:
        report = stack.enter_context(progress_bar("epochs", every_s=60)) if first_process else None
        after_step = None
        if log_steps is not None and first_process:
            steps = stack.enter_context(log_steps.open("a", encoding="utf-8", buffering=1))

            def after_step(step: int, value: float) -> None:
                steps.write(json.dumps([step, value]) + "\n")

        stack.callback(_leave_process_group)
        trained = train_voice_encoder(
            clips,
            spectrogram=config.spectrogram,
            encoder=config.encoder,
            training=config.training,
            loss=config.training.main_loss,
            parent=out,
            progress=report,
            after_step=after_step,
        )
    if first_process:
        console.print(f"Trained for {len(trained.metrics)} epochs: {trained.folder}", soft_wrap=True)


def _leave_process_group() -> None:
    import torch.distributed as dist

    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()
