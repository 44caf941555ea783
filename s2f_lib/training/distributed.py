"""One process or many: the accelerator, wrapping for DDP and FSDP, and what crosses processes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from s2f_lib.config import LoopConfig
from s2f_lib.errors import ConfigError
from s2f_lib.training.batch_norm import share_batch_norms


def make_accelerator(config: LoopConfig) -> Accelerator:
    """Return an accelerator of the asked precision and device.

    `accelerate` keeps its settings for the whole process and refuses others;
    a study trains an encoder and a decoder, perhaps at two precisions.

    Raises
    ------
    ConfigError
        A GPU is asked for and there is none, or half precision (fp16) where there is no GPU.
    """
    if config.device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device is cuda, but torch sees no GPU: use device=auto or device=cpu")
    cpu = config.device == "cpu" or not torch.cuda.is_available()
    if cpu and config.precision == "fp16":
        raise ConfigError("precision is fp16, which needs a GPU: use precision=bf16 or precision=no")
    # of one process the device may change from one training to the next; the group of several may not
    AcceleratorState._reset_state(reset_partial_state=world_size() == 1)
    return Accelerator(mixed_precision=config.precision, cpu=cpu)


def is_sharded() -> bool:
    """Return whether the launcher asked for FSDP (`accelerate launch --use_fsdp`)."""
    return os.environ.get("ACCELERATE_USE_FSDP", "false").lower() in {"1", "true"}


def wrap_model(model: nn.Module, *, device: torch.device) -> nn.Module:
    """Move a model to the device and, in a run of several processes, spread it over them.

    DDP keeps a copy a process and averages gradients.  Where the launcher asked for
    FSDP, `fully_shard` (FSDP2) cuts every parameter among the processes, and
    gathers a layer's when it is computed.  Batch norms are shared in both.
    `accelerate`'s own wrapping is not used: it knows no FSDP on CPUs, where it is tested.
    """
    model = model.to(device)
    if world_size() == 1:
        return model
    model = share_batch_norms(model, device=device)
    if is_sharded():
        from torch.distributed.fsdp import fully_shard

        for tensor in model.state_dict().values():  # every process starts from the first one's weights
            dist.broadcast(tensor, src=0)
        for child in model.children():
            if next(child.parameters(), None) is not None:
                fully_shard(child)
        return fully_shard(model)
    devices = [device.index] if device.type == "cuda" and device.index is not None else None
    # shared norms keep the buffers equal, so they need no broadcast
    return nn.parallel.DistributedDataParallel(model, device_ids=devices, broadcast_buffers=False)


@contextmanager
def gradients_averaged(model: nn.Module, *, now: bool) -> Iterator[None]:
    """Put off the exchange of gradients while a batch is accumulated."""
    if isinstance(model, nn.parallel.DistributedDataParallel) and not now:
        with model.no_sync():
            yield
        return
    if hasattr(model, "set_requires_gradient_sync"):
        model.set_requires_gradient_sync(now)
    yield


def gather(rows: Tensor) -> Tensor:
    """Return the rows of all processes, in the order of their ranks, with gradient.

    Parameters
    ----------
    rows
        `(b, dimension)`, equal b in each process.

    Returns
    -------
    Tensor
        `(processes * b, dimension)`.  Where every process computes the same loss of
        it, the gradient that reaches `rows` is that loss's times the number of
        processes, and the average that DDP or FSDP takes makes it right.
    """
    if world_size() == 1:
        return rows
    from torch.distributed.nn.functional import all_gather

    return torch.cat(all_gather(rows.contiguous()))


def mean_over_processes(value: Tensor) -> Tensor:
    """Return a detached tensor's mean over the processes."""
    value = value.detach().clone()
    if world_size() > 1:
        dist.all_reduce(value)
        value /= world_size()
    return value


def world_size() -> int:
    """Return the number of processes."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def full_tensors(tree: Any) -> Any:
    """Return nested dictionaries and lists with every sharded tensor made whole, on the CPU."""
    if isinstance(tree, DTensor):
        return tree.full_tensor().cpu()
    if isinstance(tree, Tensor):
        return tree.detach().cpu()
    if isinstance(tree, dict):
        return {key: full_tensors(value) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return type(tree)(full_tensors(value) for value in tree)
    return tree


def shard_like(value: Tensor, reference: Tensor) -> Tensor:
    """Return a whole tensor on the reference's device, cut among the processes as the reference is."""
    value = value.to(reference.device)
    if isinstance(reference, DTensor) and value.shape == reference.shape:
        return distribute_tensor(value, reference.device_mesh, reference.placements)
    return value
