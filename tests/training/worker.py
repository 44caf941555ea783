"""The trainings of `test_distributed`: the same by one process and by several, and their losses.

torchrun --nproc-per-node 2 -m tests.training.worker PREPARED OUT
"""

from __future__ import annotations

import json
import os
import sys
from contextlib import suppress
from pathlib import Path

import torch

from s2f_lib.config import LossName
from s2f_lib.preparation.shards import PreparedClips, read_prepared
from s2f_lib.training import optim

from .conftest import tiny_config, train_encoder

# 4 steps per epoch of 8 pairs each; the losses over the batch need all 8
FIFTY_STEPS = {
    "training__epochs": 13,
    "training__validation_share": 0.0,
    # nine batch norms on eight clips amplify differences: at 1e-3 a change of 1e-7 in the first weights
    # is 0.1 in the loss after twenty steps, in one process, too; at 1e-5 the loss still falls by a fifth
    "training__learning_rate": 1e-5,
}
FEW_STEPS = FIFTY_STEPS | {"training__epochs": 2}

#: name to (loss, settings)
RUNS: dict[str, tuple[LossName, dict[str, float]]] = {
    "l1": ("l1", FIFTY_STEPS),
    "contrastive": ("contrastive", FIFTY_STEPS),
    "info_nce": ("info_nce", FEW_STEPS),
}


def train_all(clips: PreparedClips, out: Path, *, interrupt_at: int | None = None) -> dict[str, list[float]]:
    """Train each run, at most to a step, and return every step's loss."""
    torch.set_num_threads(1)
    losses: dict[str, list[float]] = {}
    adamw = optim.make_optimizer
    # plain SGD: AdamW divides by the size of the gradients, which amplifies differences in rounding
    optim.make_optimizer = lambda parameters, config: torch.optim.SGD(
        list(parameters), lr=config.learning_rate, weight_decay=config.weight_decay
    )
    try:
        for name, (loss, settings) in RUNS.items():
            steps = losses[name] = []

            def after_step(step: int, value: float, steps: list[float] = steps) -> None:
                steps.append(value)
                if step == interrupt_at:
                    raise InterruptedError

            config = tiny_config(**settings, training__checkpoint_every_steps=5)
            with suppress(InterruptedError):
                train_encoder(clips, config, loss, out, name=name, after_step=after_step)
    finally:
        optim.make_optimizer = adamw
    return losses


if __name__ == "__main__":
    prepared, folder = Path(sys.argv[1]), Path(sys.argv[2])
    train_clips = read_prepared(prepared, split="train")
    first = train_all(train_clips, folder, interrupt_at=6)  # resumed after step 5 below
    second = train_all(train_clips, folder)
    if os.environ["RANK"] == "0":
        whole = {name: first[name][:5] + second[name] for name in RUNS}
        (folder / "losses.json").write_text(json.dumps({"losses": whole, "cut": first}), encoding="utf-8")
    torch.distributed.destroy_process_group()
