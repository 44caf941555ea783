"""Train on one device or many: `accelerate launch -m s2f_lib.training PREPARED --profile gpu ...`.

One process, any device::

    python -m s2f_lib.training data/prepared-... --profile quick --loss l1 --out runs/l1

Several GPUs, with DDP or FSDP2::

    accelerate launch --multi_gpu --num_processes 4 -m s2f_lib.training PREPARED --profile gpu --out OUT
    accelerate launch --use_fsdp --fsdp_version 2 --num_processes 4 -m s2f_lib.training PREPARED ...

Several CPU processes (gloo; `accelerate launch --cpu` starts them through MPI alone, torchrun does without)::

    torchrun --nproc-per-node 2 -m s2f_lib.training PREPARED -p training.device=cpu --out OUT

`batch_size` is that of all processes together, so their number does not change the result
beyond rounding.  The same command again goes on after an interruption.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Any

import typer

from s2f_lib.errors import InputError, StudyError

logger = logging.getLogger(__name__)


def train(
    prepared: Annotated[Path, typer.Argument(help="Folder of shards that `s2f prepare` wrote.")],
    out: Annotated[Path, typer.Option(help="The model's folder; a run in it goes on.")],
    profile: Annotated[str, typer.Option(help="Name in book/profiles, or a YAML file.")] = "quick",
    loss: Annotated[
        str, typer.Option(help="l1, l2, l1_l2, contrastive, info_nce; default: the profile's.")
    ] = "",
    setting: Annotated[
        list[str] | None, typer.Option("-p", help="A setting, key=value; again for more.")
    ] = None,
    log_steps: Annotated[
        Path | None, typer.Option(help="Write each step's loss to this file, a JSON list a line.")
    ] = None,
) -> None:
    """Train the voice encoder on the training split of prepared clips."""
    try:
        _train(prepared, out=out, profile=profile, loss=loss, setting=setting or [], log_steps=log_steps)
    except InputError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from None
    except StudyError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from None


def _train(
    prepared: Path, *, out: Path, profile: str, loss: str, setting: list[str], log_steps: Path | None
) -> None:
    from typing import get_args

    from s2f_lib.cli.common import progress_bar
    from s2f_lib.config import LossName, load_config, suggest
    from s2f_lib.preparation.shards import read_prepared
    from s2f_lib.training.encoder import train_voice_encoder

    main_process = int(os.environ.get("RANK", "0")) == 0
    _log_lines(logging.INFO if main_process else logging.WARNING)
    config = load_config(profile, dict(_split(text) for text in setting))
    name = loss or config.training.main_loss
    if name not in get_args(LossName):
        raise InputError(f"unknown loss {name!r}{suggest(name, list(get_args(LossName)))}")
    clips = read_prepared(prepared, split="train")
    logger.info("%d training clips, loss %s, profile %s", len(clips), name, config.profile)
    steps: Any = log_steps.open("a", encoding="utf-8") if log_steps and main_process else None

    def after_step(step: int, value: float) -> None:
        steps.write(json.dumps([step, value]) + "\n")
        steps.flush()

    try:
        with progress_bar("epochs") if main_process else nullcontext() as report:
            trained = train_voice_encoder(
                clips, config, loss=name, out=out, progress=report, after_step=after_step if steps else None
            )
    finally:
        if steps:
            steps.close()
        _leave()
    logger.info("trained for %d epochs; the model is in %s", len(trained.metrics), out)


def _split(text: str) -> tuple[str, str]:
    key, sign, value = text.partition("=")
    if not sign:
        raise InputError(f"-p {text}: expected key=value, for example -p training.epochs=3")
    return key, value


def _log_lines(level: int) -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    package = logging.getLogger("s2f_lib")
    package.handlers[:] = [handler]
    package.setLevel(level)


def _leave() -> None:
    import torch.distributed as dist

    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


if __name__ == "__main__":
    typer.run(train)
