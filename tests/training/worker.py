"""What each process of `test_distributed` runs: the same trainings as one process does, and their losses.

torchrun --nproc-per-node 2 -m tests.training.worker PREPARED OUT
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import torch

from s2f_lib.preparation.shards import PreparedClips, read_prepared
from s2f_lib.training.encoder import train_voice_encoder

from .conftest import tiny_config

# 4 steps an epoch of 8 pairs each; the losses over the batch need all 8
FIFTY_STEPS = {
    "training__epochs": 13,
    "training__validation_share": 0.0,
    # nine batch norms on eight clips amplify differences: at 1e-3 a change of 1e-7 in the first weights
    # is 0.1 in the loss after twenty steps, in one process, too; at 1e-5 the loss still falls by a fifth
    "training__optimizer": "sgd",
    "training__momentum": 0.0,
    "training__learning_rate": 1e-5,
}
FEW_STEPS = FIFTY_STEPS | {"training__epochs": 2}

#: name to (loss, whether sharded by FSDP, settings)
RUNS = {
    "l1": ("l1", False, FIFTY_STEPS),
    "contrastive": ("contrastive", False, FIFTY_STEPS),
    "info_nce": ("info_nce", False, FEW_STEPS),
    "accumulated": ("l1", False, FEW_STEPS | {"training__accumulation_steps": 2}),
    "fsdp": ("l1", True, FEW_STEPS),
    "fsdp-adamw": ("l1", True, FEW_STEPS | {"training__optimizer": "adamw", "training__ema_decay": 0.9}),
}


def train_all(clips: PreparedClips, out: Path, *, interrupt_at: int | None = None) -> dict[str, list[float]]:
    """Train each run, perhaps up to a step alone, and return every step's loss."""
    torch.set_num_threads(1)
    losses: dict[str, list[float]] = {}
    for name, (loss, sharded, settings) in RUNS.items():
        os.environ["ACCELERATE_USE_FSDP"] = str(sharded).lower()
        steps = losses[name] = []

        def after_step(step: int, value: float, steps: list[float] = steps) -> None:
            steps.append(value)
            if step == interrupt_at:
                raise InterruptedError

        config = tiny_config(**settings, training__checkpoint_every_steps=5)
        try:
            train_voice_encoder(clips, config, loss=loss, out=out / name, after_step=after_step)
        except InterruptedError:
            pass
        finally:
            os.environ["ACCELERATE_USE_FSDP"] = "false"
    return losses


if __name__ == "__main__":
    prepared, folder = Path(sys.argv[1]), Path(sys.argv[2])
    train_clips = read_prepared(prepared, split="train")
    first = train_all(train_clips, folder, interrupt_at=6)  # then go on after step 5
    second = train_all(train_clips, folder)
    if os.environ["RANK"] == "0":
        whole = {name: first[name][:5] + second[name] for name in RUNS}
        (folder / "losses.json").write_text(json.dumps({"losses": whole, "cut": first}), encoding="utf-8")
    torch.distributed.destroy_process_group()
