"""Optimisers, schedules of the learning rate, and the moving average of the weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from s2f_lib.config import LoopConfig


def make_optimizer(parameters: Iterable[nn.Parameter], config: LoopConfig) -> torch.optim.Optimizer:
    """Return AdamW or SGD over the trainable parameters, fused into one kernel on a GPU."""
    parameters = [parameter for parameter in parameters if parameter.requires_grad]
    fused = all(parameter.device.type == "cuda" for parameter in parameters)
    common = {"lr": config.learning_rate, "weight_decay": config.weight_decay, "fused": fused or None}
    if config.optimizer == "sgd":
        return torch.optim.SGD(parameters, momentum=config.momentum, **common)
    betas = (config.momentum, 0.999)
    return torch.optim.AdamW(parameters, betas=betas, eps=config.adam_eps, **common)


def make_schedule(config: LoopConfig, *, steps: int) -> Callable[[int], float]:
    """Return the factor of the learning rate at each of `steps` steps."""
    if config.schedule == "cosine":
        return warmup_cosine(steps, config.warmup_share)
    return warmup_exponential(
        steps, config.warmup_share, factor=config.decay_factor, every_steps=config.decay_steps
    )


def warmup_cosine(steps: int, warmup_share: float) -> Callable[[int], float]:
    """Return the factor of the learning rate at a step: up a line, down a cosine to zero."""
    warmup = max(1, round(steps * warmup_share))

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warmup) / max(1, steps - warmup))))

    return factor


def warmup_exponential(
    steps: int, warmup_share: float, *, factor: float, every_steps: int
) -> Callable[[int], float]:
    """Return the factor at a step: up a line, then times `factor` each `every_steps` (Speech2Face)."""
    warmup = max(1, round(steps * warmup_share))

    def at(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        return factor ** ((step - warmup) // every_steps)

    return at


class MovingAverage:
    """An exponential moving average of a model's weights: ``average = d average + (1 - d) weights``.

    Statistics of the norms are copied, not averaged: they are averages already.

    Parameters
    ----------
    model
        Read at each `update`; the average starts at its weights.
    decay
        d, in (0, 1).  In the first steps a smaller one is used, ``(1 + t) / (10 + t)``,
        so that the random start is soon forgotten.
    """

    def __init__(self, model: nn.Module, *, decay: float) -> None:
        self.decay = decay
        self.updates = 0
        self.tensors = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
        self._averaged = {name for name, _ in model.named_parameters()}

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Take the model's weights after a step into the average."""
        self.updates += 1
        weight = 1 - min(self.decay, (1 + self.updates) / (10 + self.updates))
        for name, tensor in model.state_dict().items():
            if name in self._averaged:
                self.tensors[name].lerp_(tensor, weight)
            else:
                self.tensors[name].copy_(tensor)

    @contextmanager
    def swapped_in(self, model: nn.Module) -> Iterator[None]:
        """Lend the average to the model, and give its own weights back afterwards."""
        own = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
        _copy(self.tensors, model)
        try:
            yield
        finally:
            _copy(own, model)


@torch.no_grad()
def _copy(tensors: dict[str, Tensor], model: nn.Module) -> None:
    for name, tensor in model.state_dict().items():
        tensor.copy_(tensors[name])
