"""One run of the loop: its state, a step, an epoch, and how it is kept and taken up again."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from s2f_lib.config import LoopConfig
from s2f_lib.errors import TrainingError
from s2f_lib.training import checkpoint
from s2f_lib.training.batches import Batch, BatchLoader
from s2f_lib.training.distributed import (
    full_tensors,
    gradients_averaged,
    make_accelerator,
    mean_over_processes,
    shard_like,
    world_size,
    wrap_model,
)
from s2f_lib.training.guard import LossGuard, Position
from s2f_lib.training.metrics import MetricsLog
from s2f_lib.training.optim import MovingAverage, make_optimizer, make_schedule

if TYPE_CHECKING:
    from s2f_lib.training.loop import Task

logger = logging.getLogger(__name__)


class TrainingRun:
    """A model in training, between two steps.

    Parameters are those of `loop.fit`.
    """

    def __init__(
        self,
        task: Task,
        config: LoopConfig,
        *,
        out: Path,
        digest: str,
        after_step: Callable[[int, float], None] | None = None,
    ) -> None:
        self.task, self.config, self.out, self.digest = task, config, out, digest
        self.accelerator = make_accelerator(config)
        parts = world_size() * config.accumulation_steps
        if config.batch_size % parts:
            raise TrainingError(
                f"batch_size {config.batch_size} does not divide among {world_size()} processes "
                f"times accumulation_steps {config.accumulation_steps}"
            )
        device = self.accelerator.device
        if config.channels_last:
            task.model.to(memory_format=torch.channels_last)
        self.model = wrap_model(task.model, device=device)
        if config.compile:
            self.model.compile()
        self.extra = task.loss_parameters or nn.Module()
        self.extra.to(device)
        self.optimizer = make_optimizer([*self.model.parameters(), *self.extra.parameters()], config)
        self.loader = BatchLoader(
            task.data,
            batch_size=config.batch_size,
            seed=config.seed,
            device=device,
            threads=config.loader_threads,
            rank=self.accelerator.process_index,
            processes=world_size(),
            parts=config.accumulation_steps,
        )
        factor = make_schedule(config, steps=config.epochs * len(self.loader))
        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.optimizer, factor)
        self.average = MovingAverage(task.model, decay=config.ema_decay) if config.ema_decay else None
        out.mkdir(parents=True, exist_ok=True)
        self.store = checkpoint.CheckpointStore(
            out / "checkpoints", digest=digest, keep=config.keep_checkpoints
        )
        self.metrics = MetricsLog(out, tensorboard=config.tensorboard and self.accelerator.is_main_process)
        self.guard = LossGuard(delayed=device.type == "cuda", explain=self._explain)
        self._after_step = after_step
        self._step = 0  # of this epoch
        self._total = torch.zeros((), dtype=torch.float64, device=device)  # of the epoch's losses
        self._seconds, self._waited_s = 0.0, 0.0  # of the epoch, over interruptions
        self._best: dict[str, float] = {}  # epoch and validation_loss
        self._saved_at = time.monotonic()

    @property
    def epoch(self) -> int:
        """Whole epochs done."""
        return len(self.metrics.rows)

    @property
    def finished(self) -> bool:
        """Whether all epochs are done, or validation has not improved for `patience` of them."""
        patience = self.config.patience
        stalled = patience and self._best and self.epoch - self._best["epoch"] >= patience
        return self.epoch >= self.config.epochs or bool(stalled)

    def train_epoch(self) -> dict[str, float]:
        """Train to the end of the epoch, validate, keep a checkpoint, and return the epoch's row."""
        started = time.perf_counter() - self._seconds
        self.model.train()
        batches = self.loader.epoch(self.epoch, start=self._step)
        while self._step < len(self.loader):
            requested_s = time.perf_counter()
            batch = next(batches)
            self._waited_s += time.perf_counter() - requested_s
            loss = self._train_step(batch)
            self._step += 1
            self.guard.see((self.epoch + 1, self._step), loss)
            if self._after_step is not None:
                self._after_step(self.epoch * len(self.loader) + self._step, float(loss))
            if self._step < len(self.loader) and self._is_due():
                self._seconds = time.perf_counter() - started
                self._save()
        self.guard.settle()
        row = self._validated_row(train_s=time.perf_counter() - started)
        row["seconds"] = time.perf_counter() - started
        row["samples_per_s"] = row.pop("samples_per_s")  # after seconds, as the table always had it
        row["wait_share"] = row.pop("wait_share")
        self._step, self._seconds, self._waited_s = 0, 0.0, 0.0
        self._total.zero_()
        if self.accelerator.is_main_process:
            self.metrics.add(row, epochs=self.config.epochs)
        else:
            self.metrics.rows.append(row)
        self._note_best(row)
        if self.task.after_epoch is not None:
            self.task.after_epoch(self.epoch)
        self._save()
        return row

    def resume(self) -> None:
        """Go on from the newest whole checkpoint, where there is one."""
        found = self.store.latest()
        if found is None:
            return
        state = found.state
        self._set_model(found.tensors)
        self._set_optimizer(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        if self.accelerator.scaler is not None and state["scaler"]:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        self.extra.load_state_dict(state["extra"], strict=False)  # frozen parts are not kept
        if self.average is not None:
            self.average.updates = state["average"]["updates"]
            for name, tensor in self.average.tensors.items():
                tensor.copy_(shard_like(state["average"]["tensors"][name], tensor))
        self.metrics.rows = state["rows"]
        self._best, self._step = state["best"], state["step"]
        self._seconds, self._waited_s = state["seconds"], state["waited_s"]
        self._total.fill_(state["total"])
        self._set_random(state["random"])
        logger.info(
            "resumed after epoch %d of %d, step %d of %d, from %s",
            self.epoch, self.config.epochs, self._step, len(self.loader), found.folder.name,
        )  # fmt: skip

    def write_model(self) -> None:
        """Write the trained model: with `patience` the best one, else the last; averaged where asked."""
        stopping_early = self.config.patience and self._best
        tensors = self.store.best().tensors if stopping_early else self._served_tensors()
        if self.accelerator.is_main_process:
            checkpoint.save_model(self.out / checkpoint.MODEL_FILE, tensors, digest=self.digest)
            self.metrics.write()
        if world_size() > 1:
            dist.barrier()

    def _train_step(self, batch: Batch) -> Tensor:
        parts = self.config.accumulation_steps
        loss_sum = torch.zeros((), device=self.accelerator.device)
        for number, part in enumerate(batch.split(parts), start=1):
            tensors = part.tensors
            if self.task.augment is not None:
                tensors = self.task.augment(tensors, part.indices, self.epoch)
            with gradients_averaged(self.model, now=number == parts):
                with self.accelerator.autocast():
                    loss = self.task.loss(self.model, tensors)
                self.accelerator.backward(loss / parts)
            loss_sum += loss.detach()
        for parameter in self.extra.parameters():  # outside DDP's care
            if parameter.grad is not None:
                parameter.grad = mean_over_processes(parameter.grad)
        self._step_optimizer()
        loss = mean_over_processes(loss_sum / parts)
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
        if self.average is not None:
            self.average.update(self.task.model)

    def _explain(self, position: Position) -> str:
        epoch, step = position
        indices = self.loader.indices(epoch - 1, step - 1)
        names = [str(index) if self.task.names is None else self.task.names[index] for index in indices]
        last = self.store.last_folder() or "none yet"
        return (
            f"in the batch of {', '.join(names)}; last good checkpoint: {last}. "
            "Look at those clips, lower learning_rate, set clip_norm, or use precision=no"
        )

    def _validated_row(self, *, train_s: float) -> dict[str, float]:
        self.model.eval()
        averaged = self.average.swapped_in(self.task.model) if self.average is not None else nullcontext()
        with averaged, torch.no_grad(), self.accelerator.autocast():
            validation = self.task.validate(self.model)
        row: dict[str, float] = {"epoch": self.epoch + 1}
        row["train_loss"] = float(self._total) / len(self.loader)
        row |= validation
        row["learning_rate"] = self.schedule.get_last_lr()[0]
        row["samples_per_s"] = len(self.loader) * self.config.batch_size / train_s
        row["wait_share"] = self._waited_s / train_s
        return row

    def _note_best(self, row: dict[str, float]) -> None:
        loss = row.get("validation_loss")
        if loss is None:
            if self.config.patience:
                raise TrainingError(
                    "patience needs a validation loss: raise validation_share, or unset patience"
                )
            return
        if not self._best or loss < self._best["validation_loss"]:
            self._best = {"epoch": row["epoch"], "validation_loss": loss}
            tensors = self._served_tensors()
            if self.accelerator.is_main_process:
                self.store.save_best(tensors, dict(self._best))

    def _is_due(self) -> bool:
        every_steps, every_s = self.config.checkpoint_every_steps, self.config.checkpoint_every_s
        done = self.epoch * len(self.loader) + self._step
        if every_steps is not None and done % every_steps == 0:
            return True
        late = every_s is not None and time.monotonic() - self._saved_at >= every_s
        if world_size() == 1 or every_s is None:
            return late
        answer = torch.tensor(float(late), device=self.accelerator.device)
        dist.broadcast(answer, src=0)  # clocks differ, and all have to save together
        return bool(answer)

    def _save(self) -> None:
        self.guard.settle()
        tensors = full_tensors(self.task.model.state_dict())
        self.guard.check_weights(tensors)
        scaler = self.accelerator.scaler
        average = self.average and {
            "updates": self.average.updates,
            "tensors": full_tensors(self.average.tensors),
        }
        state = {
            "optimizer": full_tensors(self.optimizer.state_dict()),
            "schedule": self.schedule.state_dict(),
            "scaler": scaler.state_dict() if scaler is not None else None,
            "extra": {name: full_tensors(p) for name, p in self.extra.named_parameters() if p.requires_grad},
            "average": average,
            "rows": self.metrics.rows,
            "best": self._best,
            "step": self._step,
            "total": float(self._total),
            "seconds": self._seconds,
            "waited_s": self._waited_s,
            "random": self._random(),
        }
        if self.accelerator.is_main_process:
            self.store.save(self.epoch * len(self.loader) + self._step, tensors, state)
        if world_size() > 1:
            dist.barrier()
        self._saved_at = time.monotonic()

    def _served_tensors(self) -> dict[str, Tensor]:
        """Return what is used after training: the average where there is one."""
        return full_tensors(
            self.average.tensors if self.average is not None else self.task.model.state_dict()
        )

    def _set_model(self, tensors: dict[str, Tensor]) -> None:
        own = self.task.model.state_dict()
        if set(own) == set(tensors):
            tensors = {name: shard_like(tensor, own[name]) for name, tensor in tensors.items()}
        checkpoint.fit_model(tensors, self.task.model, name=str(self.store.folder))

    def _set_optimizer(self, state: dict[str, Any]) -> None:
        self.optimizer.load_state_dict(state)
        for parameter, values in self.optimizer.state.items():
            for name, value in values.items():
                if isinstance(value, Tensor) and value.shape == parameter.shape:
                    values[name] = shard_like(value, parameter)

    def _random(self) -> list[dict[str, Tensor]]:
        mine = {"cpu": torch.get_rng_state()}
        if self.accelerator.device.type == "cuda":
            mine["cuda"] = torch.cuda.get_rng_state(self.accelerator.device)
        if world_size() == 1:
            return [mine]
        everyone: list[Any] = [None] * world_size()
        dist.all_gather_object(everyone, mine)
        return everyone

    def _set_random(self, states: list[dict[str, Tensor]]) -> None:
        if len(states) != world_size():
            logger.warning(
                "%d processes go on with a run of %d: same data, other dropout", world_size(), len(states)
            )
            return
        mine = states[self.accelerator.process_index]
        torch.set_rng_state(mine["cpu"])
        if "cuda" in mine and self.accelerator.device.type == "cuda":
            torch.cuda.set_rng_state(mine["cuda"], self.accelerator.device)
