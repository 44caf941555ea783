"""Stops a run whose loss or weights are no longer finite, and says where to look."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from s2f_lib.errors import TrainingError

#: (epoch from 1, step from 1) of a training step.
Position = tuple[int, int]


class LossGuard:
    """Looks at each step's loss.

    On a GPU a loss is looked at one step later: reading it at once would let the
    device run dry.  `settle` catches up; no checkpoint is written before.

    Parameters
    ----------
    delayed
        Whether to look one step later.
    explain
        `position -> str`: the batch's clips, and the last good checkpoint.
    """

    def __init__(self, *, delayed: bool, explain: Callable[[Position], str]) -> None:
        self._delayed = delayed
        self._explain = explain
        self._waiting: list[tuple[Position, Tensor]] = []
        self._last: Position = (1, 1)

    def see(self, position: Position, loss: Tensor) -> None:
        """Take the loss of a step, the same in all processes; `TrainingError` where one is not finite."""
        self._last = position
        self._waiting.append((position, loss))
        while len(self._waiting) > self._delayed:
            self._check_loss(*self._waiting.pop(0))

    def settle(self) -> None:
        """Look at every loss that was taken."""
        while self._waiting:
            self._check_loss(*self._waiting.pop(0))

    def check_weights(self, tensors: dict[str, Tensor]) -> None:
        """Refuse weights that are not finite: a finite loss can have a gradient that is not."""
        for name, tensor in tensors.items():
            if not torch.isfinite(tensor).all():
                epoch, step = self._last
                raise TrainingError(
                    f"{name} is not finite at epoch {epoch}, step {step}, {self._explain(self._last)}"
                )

    def _check_loss(self, position: Position, loss: Tensor) -> None:
        if not torch.isfinite(loss):
            epoch, step = position
            raise TrainingError(
                f"the loss is {loss.item()} at epoch {epoch}, step {step}, {self._explain(position)}"
            )
