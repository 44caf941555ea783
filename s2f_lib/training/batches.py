"""Batches of training examples: their order, and their way from memory or disk to the device.

The order hangs on seed and epoch alone.  Threads gather batches ahead of the
step that needs them: slicing an array, in memory or mapped from disk, lets
other Python code run meanwhile, so no worker process and no copy between
processes is needed, and their number changes nothing but the speed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Sampler

AHEAD = 3  # batches a thread keeps ready


@dataclass(frozen=True, slots=True)
class Batch:
    """The examples of one step that this process computes.

    Attributes
    ----------
    tensors
        What the data set gives: `(b, ...)` each, on the device.
    indices
        `(b,)` int64, places in the data set, on the CPU.
    """

    tensors: tuple[Tensor, ...]
    indices: Tensor

    def split(self, parts: int) -> Iterator[Batch]:
        """Cut into equal parts, in order."""
        size = len(self.indices) // parts
        for start in range(0, size * parts, size):
            rows = slice(start, start + size)
            yield Batch(tuple(tensor[rows] for tensor in self.tensors), self.indices[rows])


class EpochSampler(Sampler[int]):
    """A permutation that depends on seed and epoch alone, so that a resumed run draws the same."""

    def __init__(self, size: int, *, seed: int) -> None:
        self.size = size
        self.seed = seed
        self.epoch = 0

    def __len__(self) -> int:
        return self.size

    def __iter__(self) -> Iterator[int]:
        return iter(self.order().tolist())

    def order(self) -> Tensor:
        """Return this epoch's permutation, `(size,)` int64."""
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        return torch.randperm(self.size, generator=generator)


class BatchLoader:
    """An epoch's batches, in order, on the device.

    Parameters
    ----------
    data
        Indexable by a list of integers (`__getitems__`), giving a tuple of tensors.
    batch_size
        Examples a step, over all processes; what is left of an epoch is dropped.
    seed
        Of the order.
    device
        Where the tensors go; for a GPU they pass through pinned memory.
    threads
        That gather ahead; 0 gathers when asked.
    rank, processes, parts
        Each process takes its share of every part of a batch (`accumulation_steps`), so
        that a step is the same step whatever their number.
    """

    def __init__(
        self,
        data: Any,
        *,
        batch_size: int,
        seed: int,
        device: torch.device,
        threads: int = 1,
        rank: int = 0,
        processes: int = 1,
        parts: int = 1,
    ) -> None:
        self._data = data
        self._sampler = EpochSampler(len(data), seed=seed)
        self._batch_size = batch_size
        self._device = device
        self._threads = threads
        self._rank = rank
        self._processes = processes
        self._parts = parts

    def __len__(self) -> int:
        return self._sampler.size // self._batch_size

    def indices(self, epoch: int, step: int) -> list[int]:
        """Return the examples of one step over all processes."""
        return self._order(epoch)[step].tolist()

    def epoch(self, epoch: int, *, start: int = 0) -> Iterator[Batch]:
        """Yield this process's share of the batches from step `start` on; those before are not read."""
        order = self._order(epoch)[start:]
        share = order.view(len(order), self._parts, self._processes, -1)  # (steps, parts, processes, pairs)
        mine = share[:, :, self._rank].flatten(1)
        for tensors, indices in self._gathered(mine):
            moved = tuple(tensor.to(self._device, non_blocking=True) for tensor in tensors)
            yield Batch(moved, indices)

    def _order(self, epoch: int) -> Tensor:
        self._sampler.epoch = epoch
        return self._sampler.order()[: len(self) * self._batch_size].view(len(self), self._batch_size)

    def _gathered(self, rows: Tensor) -> Iterator[tuple[tuple[Tensor, ...], Tensor]]:
        if not self._threads:
            yield from ((self._gather(indices), indices) for indices in rows)
            return
        waiting: deque[tuple[Future[tuple[Tensor, ...]], Tensor]] = deque()
        with ThreadPoolExecutor(self._threads, thread_name_prefix="batches") as pool:
            try:
                for indices in rows:
                    waiting.append((pool.submit(self._gather, indices), indices))
                    if len(waiting) > AHEAD * self._threads:
                        future, place = waiting.popleft()
                        yield future.result(), place
                while waiting:
                    future, place = waiting.popleft()
                    yield future.result(), place
            finally:  # the consumer may have stopped early
                for future, _ in waiting:
                    future.cancel()

    def _gather(self, indices: Tensor) -> tuple[Tensor, ...]:
        tensors = self._data.__getitems__(indices.tolist())
        if self._device.type == "cuda":
            return tuple(tensor.pin_memory() for tensor in tensors)
        return tuple(tensors)
