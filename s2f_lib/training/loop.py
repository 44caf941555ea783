"""The training loop that the voice encoder and the face decoder share, on `accelerate`.

A run is a folder: `checkpoint/` (replaced after each epoch), `metrics.csv` (a
row an epoch) and, at the end, `model.safetensors`.  An interrupted run goes on
after its last whole epoch with the numbers that the whole run would have had.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Sampler

from s2f_lib.config import LoopConfig
from s2f_lib.errors import TrainingError
from s2f_lib.training import checkpoint

logger = logging.getLogger(__name__)

#: Called after each epoch with (epoch, epochs, the epoch's row of metrics).
Progress = Callable[[int, int, dict[str, float]], None]


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
        `(model, batch) -> scalar`; the batch is on the device.
    validate
        `(model) -> {column: value}`, called after each epoch in evaluation mode.
    """

    model: nn.Module
    data: Dataset
    loss: Callable[[nn.Module, Any], Tensor]
    validate: Callable[[nn.Module], dict[str, float]]


class EpochSampler(Sampler[int]):
    """A permutation that depends on seed and epoch alone, so that a resumed run draws the same."""

    def __init__(self, size: int, *, seed: int) -> None:
        self.size = size
        self.seed = seed
        self.epoch = 0

    def __len__(self) -> int:
        return self.size

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        return iter(torch.randperm(self.size, generator=generator).tolist())


def fit(
    task: Task, config: LoopConfig, *, out: Path, digest: str, progress: Progress | None = None
) -> pd.DataFrame:
    """Train, or go on training, and return the table of metrics.

    Parameters
    ----------
    task
        Model, data, loss and validation.
    config
        Epochs, batch size, learning rate, precision, seed.
    out
        The run's folder.
    digest
        Of everything that decides the result; a checkpoint of another digest is refused.
    progress
        Called after each epoch.

    Returns
    -------
    pandas.DataFrame
        A row an epoch: epoch, train_loss, the columns of `task.validate`,
        learning_rate, seconds, samples_per_s.

    Raises
    ------
    TrainingError
        There are fewer clips than a batch, or the loss is not finite.
    CheckpointError
        The checkpoint in `out` is damaged or of other settings.
    """
    size = len(task.data)
    if size < config.batch_size:
        raise TrainingError(
            f"{size} training examples are fewer than a batch of {config.batch_size}: "
            "prepare more clips or lower batch_size"
        )
    accelerator = make_accelerator(config)
    if config.batch_size % accelerator.num_processes:
        raise TrainingError(
            f"batch_size {config.batch_size} does not divide among {accelerator.num_processes} processes"
        )
    sampler = EpochSampler(size, seed=config.seed)
    loader = DataLoader(
        task.data,
        batch_size=config.batch_size // accelerator.num_processes,
        sampler=sampler,
        drop_last=True,
        collate_fn=_as_is,
    )
    optimizer = torch.optim.AdamW(
        task.model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay
    )
    steps = config.epochs * (size // config.batch_size)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, warmup_cosine(steps, config.warmup_share))
    model, optimizer, loader = accelerator.prepare(task.model, optimizer, loader)

    folder = out / "checkpoint"
    out.mkdir(parents=True, exist_ok=True)
    checkpoint.recover(folder)
    rows: list[dict[str, float]] = []
    if folder.exists():
        state = checkpoint.load_checkpoint(folder, accelerator.unwrap_model(model), digest=digest)
        optimizer.load_state_dict(state["optimizer"])
        schedule.load_state_dict(state["schedule"])
        torch.set_rng_state(state["random"])
        rows = state["rows"]
        logger.info("resumed after epoch %d of %d", len(rows), config.epochs)
    else:
        torch.manual_seed(config.seed)

    for epoch in range(len(rows), config.epochs):
        started = time.perf_counter()
        sampler.epoch = epoch
        train_loss = _train_epoch(accelerator, model, loader, task.loss, optimizer, schedule, epoch=epoch)
        train_s = time.perf_counter() - started
        model.eval()
        with torch.no_grad(), accelerator.autocast():
            validation = task.validate(model)
        row = {"epoch": epoch + 1, "train_loss": train_loss, **validation}
        row["learning_rate"] = schedule.get_last_lr()[0]
        row["seconds"] = time.perf_counter() - started
        row["samples_per_s"] = len(loader) * config.batch_size / train_s
        rows.append(row)
        if accelerator.is_main_process:
            state = {
                "optimizer": optimizer.state_dict(),
                "schedule": schedule.state_dict(),
                "random": torch.get_rng_state(),
                "rows": rows,
            }
            checkpoint.save_checkpoint(folder, accelerator.unwrap_model(model), state, digest=digest)
            pd.DataFrame(rows).to_csv(out / "metrics.csv", index=False)
        logger.info("epoch %d of %d: %s", epoch + 1, config.epochs, _in_words(row))
        if progress is not None:
            progress(epoch + 1, config.epochs, row)
    if accelerator.is_main_process:
        tensors = {k: v.contiguous() for k, v in accelerator.unwrap_model(model).state_dict().items()}
        save_file(tensors, out / checkpoint.MODEL_FILE, metadata={"digest": digest})
    return pd.DataFrame(rows)


def make_accelerator(config: LoopConfig) -> Accelerator:
    """Return an accelerator of the asked precision and device.

    `accelerate` keeps its settings for the whole process and refuses others;
    a study trains an encoder and a decoder, perhaps at two precisions.
    """
    AcceleratorState._reset_state(reset_partial_state=False)
    return Accelerator(mixed_precision=config.precision, cpu=config.device == "cpu")


def warmup_cosine(steps: int, warmup_share: float) -> Callable[[int], float]:
    """Return the factor of the learning rate at a step: up a line, down a cosine to zero."""
    warmup = max(1, round(steps * warmup_share))

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warmup) / max(1, steps - warmup))))

    return factor


def _train_epoch(
    accelerator: Accelerator,
    model: nn.Module,
    loader: DataLoader,
    loss_of: Callable[[nn.Module, Any], Tensor],
    optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LambdaLR,
    *,
    epoch: int,
) -> float:
    model.train()
    total = torch.zeros((), device=accelerator.device)
    for step, batch in enumerate(loader):
        with accelerator.autocast():
            loss = loss_of(model, batch)
        if not torch.isfinite(loss):
            raise TrainingError(
                f"the loss is {loss.item()} at epoch {epoch + 1}, step {step + 1}: "
                "lower learning_rate or use precision=no; the last good checkpoint is kept"
            )
        accelerator.backward(loss)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad(set_to_none=True)
        total += loss.detach()
    return float(accelerator.reduce(total, reduction="mean")) / len(loader)


def _as_is(batch: Any) -> Any:
    return batch  # the data set already gives whole batches


def _in_words(row: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.4g}" for name, value in row.items() if name != "epoch")
