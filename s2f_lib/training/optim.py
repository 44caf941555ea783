"""The optimizer and the schedule of the learning rate."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import torch
from torch import nn

from s2f_lib.config import LoopConfig

WARMUP_SHARE = 0.05  # share of the steps in which the learning rate rises


def make_optimizer(parameters: Iterable[nn.Parameter], config: LoopConfig) -> torch.optim.Optimizer:
    """Return AdamW over the trainable parameters, fused into one kernel on a GPU."""
    trainable = [parameter for parameter in parameters if parameter.requires_grad]
    fused = all(parameter.device.type == "cuda" for parameter in trainable)
    return torch.optim.AdamW(
        trainable, lr=config.learning_rate, weight_decay=config.weight_decay, fused=fused or None
    )


def warmup_cosine(steps: int) -> Callable[[int], float]:
    """Return the factor of the learning rate as a function of the step: a linear rise, then a cosine to 0."""
    warmup = max(1, round(steps * WARMUP_SHARE))

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warmup) / max(1, steps - warmup))))

    return factor
