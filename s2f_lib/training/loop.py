"""The training loop that the voice encoder and the face decoders share, on `accelerate`.

The folder of a run has `checkpoints/` (written at the end of each epoch, and at intervals of steps or
seconds), `metrics.csv` (one row per epoch) and, at the end, `model.safetensors`. An interrupted run is
resumed from its last checkpoint with the numbers of an uninterrupted run: bit for bit on a CPU.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
import torch.distributed as dist
from accelerate.utils import send_to_device
from torch import Tensor, nn

from s2f_lib.config import LoopConfig
from s2f_lib.errors import MissingFileError, TrainingError
from s2f_lib.storage import locked, write_atomically
from s2f_lib.training import checkpoint, optim
from s2f_lib.training.data import Batch, BatchLoader
from s2f_lib.training.distributed import barrier, is_first_process, make_accelerator, world_size, wrap_model

logger = logging.getLogger(__name__)

METRICS_FILE = "metrics.csv"

#: Called after each epoch with (epoch, epochs, row of metrics).
Progress = Callable[[int, int, dict[str, float]], None]

#: Called after each step with (step, loss over all processes); steps count from 1.
AfterStep = Callable[[int, float], None]

#: Changes a training batch on the device: (tensors, indices into the data, epoch) -> tensors.
Augment = Callable[[tuple[Tensor, ...], Tensor, int], tuple[Tensor, ...]]

#: (epoch, step) of a training step, both from 1.
Position = tuple[int, int]


@dataclass(frozen=True)
class Task:
    """The model, data and functions of a training.

    Attributes
    ----------
    model
        The network.
    data
        Data set with `__len__` and `__getitems__(indices)`, which returns a tuple of tensors.
    loss
        `(model, batch) -> scalar`, the mean over the batch, which is on the device.
    validate
        `(model) -> {column: value}`, called after each epoch in evaluation mode.
    names
        Name of each example in messages, such as its clip id. None: its index.
    loss_parameters
        Module with parameters of the loss that are trained too, such as a temperature.
    augment
        Function that is applied to each training batch on the device.
    after_epoch
        Called by the first process with the epoch's number, before the epoch's checkpoint is written. A
        checkpoint of an epoch implies that the call has finished.
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
    after_step: AfterStep | None = None,
) -> pd.DataFrame:
    """Train, or resume training, and return the table of metrics.

    Parameters
    ----------
    task
        Model, data, loss and validation.
    config
        Epochs, batch size, learning rate, precision, seed.
    out
        Folder of the run. Another process that trains in it waits, and then finds the model trained.
    digest
        Digest of everything that decides the trained model. Checkpoints with another one are refused.
    progress
        Called after each epoch.
    after_step
        Called after each step.

    Returns
    -------
    pandas.DataFrame
        One row per epoch: epoch, train_loss, the columns of `task.validate`, learning_rate, seconds,
        samples_per_s, and wait_share (share of the time that was spent waiting for data).

    Raises
    ------
    TrainingError
        There are fewer examples than a batch, or the loss is not finite: the message gives the step, the
        batch's examples and the last good checkpoint.
    CheckpointError
        All checkpoints in `out` are damaged or have other settings.

    See Also
    --------
    train_voice_encoder, train_face_decoder : The trainings of the study.

    Examples
    --------
    >>> from tempfile import mkdtemp
    >>> from s2f_lib.training.data import PairedArrays
    >>> x = np.linspace(-1, 1, 8, dtype=np.float32)[:, None]
    >>> loss = lambda model, batch: (model(batch[0]) - 3 * batch[0]).square().mean()
    >>> task = Task(nn.Linear(1, 1), PairedArrays(x), loss, validate=lambda model: {})
    >>> metrics = fit(task, LoopConfig(epochs=3, batch_size=4), out=Path(mkdtemp()), digest="example")
    >>> list(metrics["epoch"])
    [1, 2, 3]
    """
    if len(task.data) < config.batch_size:
        raise TrainingError(
            f"{len(task.data)} training examples are fewer than a batch of {config.batch_size}: "
            "prepare more clips or lower batch_size"
        )
    if not (out / checkpoint.MODEL_FILE).is_file():
        _check_may_train()
    with locked(out / METRICS_FILE) if is_first_process() else nullcontext():
        torch.manual_seed(config.seed)
        run = TrainingRun(task, config, out, digest, after_step)
        run.resume()
        while not run.finished:
            _check_may_train()
            row = run.train_epoch()
            if progress is not None:
                progress(int(row["epoch"]), config.epochs, row)
        run.write_model()
        return pd.DataFrame(run.rows)


_forbidden: ContextVar[str] = ContextVar("training_forbidden", default="")


@contextmanager
def training_forbidden(message: str) -> Iterator[None]:
    """Let `fit` return only finished models; otherwise it raises a MissingFileError with this message."""
    token = _forbidden.set(message)
    try:
        yield
    finally:
        _forbidden.reset(token)


def _check_may_train() -> None:
    if message := _forbidden.get():
        raise MissingFileError(message)


class TrainingRun:
    """The state of a training between two steps. The parameters are those of `fit`."""

    def __init__(
        self, task: Task, config: LoopConfig, out: Path, digest: str, after_step: AfterStep | None
    ) -> None:
        self.task, self.config, self.out, self.digest = task, config, out, digest
        self.rows: list[dict[str, float]] = []  # metrics of each finished epoch
        self.accelerator = make_accelerator(config)
        if config.batch_size % world_size():
            raise TrainingError(
                f"batch_size {config.batch_size} cannot be divided among {world_size()} processes"
            )
        device = self.accelerator.device
        if config.channels_last:
            task.model.to(memory_format=torch.channels_last)
        self.model = wrap_model(task.model, self.accelerator)
        if config.compile:
            self.model.compile()
        self.extra = task.loss_parameters or nn.Module()
        self.extra.to(device)
        self.optimizer = optim.make_optimizer([*self.model.parameters(), *self.extra.parameters()], config)
        self.loader = BatchLoader(
            task.data,
            batch_size=config.batch_size,
            seed=config.seed,
            device=device,
            threads=config.loader_threads,
            rank=self.accelerator.process_index,
            processes=world_size(),
        )
        factor = optim.warmup_cosine(config.epochs * len(self.loader))
        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.optimizer, factor)
        self.store = checkpoint.CheckpointStore(out / "checkpoints", digest=digest)
        self.guard = LossGuard(delayed=device.type == "cuda", explain=self._explain)
        self._after_step = after_step
        self._step = 0  # steps done in this epoch
        self._total = torch.zeros((), dtype=torch.float64, device=device)  # sum of the epoch's losses
        # seconds of this epoch, and seconds of waiting for data, including those before an interruption
        self._seconds, self._waited_s = 0.0, 0.0
        self._best: dict[str, float] = {}  # epoch and validation_loss
        self._saved_at = time.monotonic()

    @property
    def epoch(self) -> int:
        """Number of finished epochs."""
        return len(self.rows)

    @property
    def finished(self) -> bool:
        """Whether all epochs are done, or validation has not improved for `patience` epochs."""
        patience = self.config.patience
        stalled = patience and self._best and self.epoch - self._best["epoch"] >= patience
        return self.epoch >= self.config.epochs or bool(stalled)

    @property
    def _steps_done(self) -> int:
        return self.epoch * len(self.loader) + self._step

    def train_epoch(self) -> dict[str, float]:
        """Train to the end of the epoch, validate, write a checkpoint, and return the row of metrics."""
        started = time.perf_counter() - self._seconds
        self.model.train()
        batches = self.loader.epoch(self.epoch, start=self._step)
        while self._step < len(self.loader):
            requested_s = time.perf_counter()
            batch = next(batches)
            self._waited_s += time.perf_counter() - requested_s
            loss = self._train_step(batch)
            self._step += 1
            self.guard.add((self.epoch + 1, self._step), loss)
            if self._after_step is not None:
                self._after_step(self._steps_done, float(loss))
            if self._step < len(self.loader) and self._is_due():
                self._seconds = time.perf_counter() - started
                self._save()
        self.guard.settle()
        train_s = time.perf_counter() - started
        row: dict[str, float] = {"epoch": self.epoch + 1}
        row["train_loss"] = float(self._total) / len(self.loader)
        row |= self._validate()
        row["learning_rate"] = float(self.schedule.get_last_lr()[0])
        row["seconds"] = time.perf_counter() - started
        row["samples_per_s"] = len(self.loader) * self.config.batch_size / train_s
        row["wait_share"] = self._waited_s / train_s
        self.rows.append(row)
        self._step, self._seconds, self._waited_s = 0, 0.0, 0.0
        self._total.zero_()
        if self.accelerator.is_main_process:
            self._write_metrics()
            values = ", ".join(f"{name} {value:.4g}" for name, value in row.items() if name != "epoch")
            logger.info("epoch %d of %d: %s", self.epoch, self.config.epochs, values)
        self._save_if_best(row)
        if self.task.after_epoch is not None and self.accelerator.is_main_process:
            self.task.after_epoch(self.epoch)
        self._save()
        return row

    def resume(self) -> None:
        """Load the newest complete checkpoint, if there is one."""
        found = self.store.latest()
        if found is None:
            return
        state = found.state
        checkpoint.fit_model(found.tensors, self.task.model, name=str(self.store.folder))
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        if self.accelerator.scaler is not None and state["scaler"]:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        self.extra.load_state_dict(state["extra"], strict=False)  # frozen parameters are not saved
        self.rows = state["rows"]
        self._best, self._step = state["best"], state["step"]
        self._seconds, self._waited_s = state["seconds"], state["waited_s"]
        self._total.fill_(state["total"])
        self._restore_random_state(state["random"])
        logger.info(
            "resumed after epoch %d of %d, step %d of %d, from %s",
            self.epoch, self.config.epochs, self._step, len(self.loader), found.folder.name,
        )  # fmt: skip

    def write_model(self) -> None:
        """Write the trained model: the best one if `patience` is set, otherwise the last one."""
        stopping_early = self.config.patience and self._best
        tensors = self.store.best().tensors if stopping_early else self._weights()
        if self.accelerator.is_main_process:
            checkpoint.save_model(self.out / checkpoint.MODEL_FILE, tensors, digest=self.digest)
            self._write_metrics()
        barrier()

    def _weights(self) -> dict[str, Tensor]:
        return send_to_device(self.task.model.state_dict(), "cpu")

    def _train_step(self, batch: Batch) -> Tensor:
        tensors = batch.tensors
        if self.task.augment is not None:
            tensors = self.task.augment(tensors, batch.indices, self.epoch)
        with self.accelerator.autocast():
            loss = self.task.loss(self.model, tensors)
        self.accelerator.backward(loss)
        for parameter in self.extra.parameters():  # DDP averages only the gradients of the model
            if parameter.grad is not None:
                parameter.grad = self.accelerator.reduce(parameter.grad, "mean")
        self._step_optimizer()
        loss = self.accelerator.reduce(loss.detach(), "mean")
        self._total += loss
        return loss

    def _step_optimizer(self) -> None:
        scaler = self.accelerator.scaler
        if scaler is not None:
            scaler.unscale_(self.optimizer)
        if self.config.clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip_norm)
        if scaler is not None:
            scaler.step(self.optimizer)
            scaler.update()
        else:
            self.optimizer.step()
        self.schedule.step()
        self.optimizer.zero_grad(set_to_none=True)

    def _explain(self, position: Position) -> str:
        """Return the examples of a step's batch, the last good checkpoint, and advice."""
        epoch, step = position
        indices = self.loader.order(epoch - 1)[step - 1].tolist()
        names = [str(index) if self.task.names is None else self.task.names[index] for index in indices]
        last = self.store.last_folder() or "none yet"
        return (
            f"in the batch of {', '.join(names)}; last good checkpoint: {last}. "
            "Check those examples, lower learning_rate, set clip_norm, or use precision=no"
        )

    def _validate(self) -> dict[str, float]:
        self.model.eval()
        with torch.no_grad(), self.accelerator.autocast():
            return self.task.validate(self.model)

    def _write_metrics(self) -> None:
        table = pd.DataFrame(self.rows).to_csv(index=False)
        write_atomically(self.out / METRICS_FILE, table, durable=False)

    def _save_if_best(self, row: dict[str, float]) -> None:
        loss = row.get("validation_loss")
        if loss is None:
            if self.config.patience:
                raise TrainingError(
                    "patience needs a validation loss: raise validation_share, or unset patience"
                )
            return
        if not self._best or loss < self._best["validation_loss"]:
            self._best = {"epoch": row["epoch"], "validation_loss": loss}
            if self.accelerator.is_main_process:
                self.store.save_best(self._weights(), dict(self._best))

    def _is_due(self) -> bool:
        every_steps, every_s = self.config.checkpoint_every_steps, self.config.checkpoint_every_s
        if every_steps is not None and self._steps_done % every_steps == 0:
            return True
        late = every_s is not None and time.monotonic() - self._saved_at >= every_s
        if world_size() == 1 or every_s is None:
            return late
        answer = torch.tensor(float(late), device=self.accelerator.device)
        dist.broadcast(answer, src=0)  # clocks differ, but all processes must save at the same step
        return bool(answer)

    def _save(self) -> None:
        self.guard.settle()
        tensors = self._weights()
        self.guard.check_weights(tensors)
        scaler = self.accelerator.scaler
        state = {
            "optimizer": send_to_device(self.optimizer.state_dict(), "cpu"),
            "schedule": self.schedule.state_dict(),
            "scaler": scaler.state_dict() if scaler is not None else None,
            "extra": {name: p.detach().cpu() for name, p in self.extra.named_parameters() if p.requires_grad},
            "rows": self.rows,
            "best": self._best,
            "step": self._step,
            "total": float(self._total),
            "seconds": self._seconds,
            "waited_s": self._waited_s,
            "random": self._random_state(),
        }
        if self.accelerator.is_main_process:
            self.store.save(self._steps_done, tensors, state)
        barrier()
        self._saved_at = time.monotonic()

    def _random_state(self) -> list[dict[str, Tensor]]:
        """Return the random states of all processes, by rank."""
        own = {"cpu": torch.get_rng_state()}
        if self.accelerator.device.type == "cuda":
            own["cuda"] = torch.cuda.get_rng_state(self.accelerator.device)
        if world_size() == 1:
            return [own]
        states: list[Any] = [None] * world_size()
        dist.all_gather_object(states, own)
        return states

    def _restore_random_state(self, states: list[dict[str, Tensor]]) -> None:
        if len(states) != world_size():
            logger.warning(
                "a run of %d processes is resumed by %d: the batches are the same, dropout differs",
                len(states), world_size(),
            )  # fmt: skip
            return
        own = states[self.accelerator.process_index]
        torch.set_rng_state(own["cpu"])
        if "cuda" in own and self.accelerator.device.type == "cuda":
            torch.cuda.set_rng_state(own["cuda"], self.accelerator.device)


class LossGuard:
    """Stops a run whose loss or weights are not finite.

    With `delayed` a loss is read one step later, because a GPU would idle if it were read at once. `settle`
    reads the remaining losses before each checkpoint. `explain` returns the end of the error message.
    """

    def __init__(self, *, delayed: bool, explain: Callable[[Position], str]) -> None:
        self._delayed = delayed
        self._explain = explain
        self._waiting: list[tuple[Position, Tensor]] = []
        self._last: Position = (1, 1)

    def add(self, position: Position, loss: Tensor) -> None:
        """Take the loss of a step; `TrainingError` if a loss is not finite."""
        self._last = position
        self._waiting.append((position, loss))
        self.settle(keep=int(self._delayed))

    def settle(self, *, keep: int = 0) -> None:
        """Check the losses that were added, except the last `keep`."""
        while len(self._waiting) > keep:
            position, loss = self._waiting.pop(0)
            if not torch.isfinite(loss):
                raise self._error(f"the loss is {loss.item()}", position)

    def check_weights(self, tensors: dict[str, Tensor]) -> None:
        """Refuse weights that are not finite: a finite loss can have a gradient that is not finite."""
        for name, tensor in tensors.items():
            if not torch.isfinite(tensor).all():
                raise self._error(f"{name} is not finite", self._last)

    def _error(self, problem: str, position: Position) -> TrainingError:
        epoch, step = position
        return TrainingError(f"{problem} at epoch {epoch}, step {step}, {self._explain(position)}")
