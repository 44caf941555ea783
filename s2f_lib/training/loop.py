"""The training loop that the voice encoder and the face decoder share, on `accelerate`.

A run is a folder: `checkpoints/` (after each epoch, and each so many steps or
seconds), `metrics.csv` (a row an epoch) and, at the end, `model.safetensors`.
A run that was interrupted at any step goes on after its last checkpoint with the
numbers that the whole run would have had: bit for bit on a CPU.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from filelock import FileLock
from torch import Tensor, nn

from s2f_lib.config import LoopConfig
from s2f_lib.errors import TrainingError
from s2f_lib.training.batches import EpochSampler
from s2f_lib.training.distributed import make_accelerator
from s2f_lib.training.optim import warmup_cosine

__all__ = ["EpochSampler", "Progress", "Task", "fit", "make_accelerator", "warmup_cosine"]

#: Called after each epoch with (epoch, epochs, the epoch's row of metrics).
Progress = Callable[[int, int, dict[str, float]], None]

#: Changes a batch of training tensors on the device: (tensors, places in the data, epoch) -> tensors.
Augment = Callable[[tuple[Tensor, ...], Tensor, int], tuple[Tensor, ...]]


@dataclass(frozen=True)
class Task:
    """What is trained.

    Attributes
    ----------
    model
        The network.
    data
        Indexable by a list of integers (`__getitems__`), giving a batch of tensors.
    loss
        `(model, batch) -> scalar`, the mean over the batch; the batch is on the device.
    validate
        `(model) -> {column: value}`, called after each epoch in evaluation mode.
    names
        What each example is called in messages: clip ids; its number by default.
    loss_parameters
        A module with parameters of the loss that are learned along, such as a temperature.
    augment
        Applied to each training batch on the device.
    after_epoch
        Called with the epoch's number before its checkpoint is kept: what it writes is there wherever a
        kill falls.
    """

    model: nn.Module
    data: Any
    loss: Callable[[nn.Module, Any], Tensor]
    validate: Callable[[nn.Module], dict[str, float]]
    names: Sequence[str] | None = None
    loss_parameters: nn.Module | None = None
    augment: Augment | None = None
    after_epoch: Callable[[int], None] | None = None


def fit(
    task: Task,
    config: LoopConfig,
    *,
    out: Path,
    digest: str,
    progress: Progress | None = None,
    after_step: Callable[[int, float], None] | None = None,
) -> pd.DataFrame:
    """Train, or go on training, and return the table of metrics.

    Parameters
    ----------
    task
        Model, data, loss and validation.
    config
        Epochs, batch size, optimiser, precision, seed.
    out
        The run's folder.
    digest
        Of everything that decides the result; a checkpoint of another digest is refused.
    progress
        Called after each epoch.
    after_step
        Called after each step with its number, from 1, and its loss over all processes.

    Returns
    -------
    pandas.DataFrame
        A row an epoch: epoch, train_loss, the columns of `task.validate`, learning_rate,
        seconds, samples_per_s, wait_share (of the time that was spent waiting for data).

    Raises
    ------
    TrainingError
        There are fewer clips than a batch, or the loss is not finite: the message says the
        step, the batch's clips and the last good checkpoint.
    CheckpointError
        The checkpoints in `out` are damaged or of other settings.
    """
    from s2f_lib.training.run import TrainingRun

    _check(len(task.data), config)
    with _alone_in(out):
        torch.manual_seed(config.seed)
        run = TrainingRun(task, config, out=out, digest=digest, after_step=after_step)
        run.resume()
        try:
            while not run.finished:
                row = run.train_epoch()
                if progress is not None:
                    progress(int(row["epoch"]), config.epochs, row)
            run.write_model()
        finally:
            run.metrics.close()
        return run.metrics.table()


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Keep other commands out of a model's folder: they wait, and then find the model trained."""
    if int(os.environ.get("RANK", 0)) > 0:  # of a run of several processes the first one locks
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / ".lock"):
        yield


def _check(size: int, config: LoopConfig) -> None:
    if size < config.batch_size:
        raise TrainingError(
            f"{size} training examples are fewer than a batch of {config.batch_size}: "
            "prepare more clips or lower batch_size"
        )
