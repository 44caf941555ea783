"""One process or many: the accelerator, the wrapping for DDP, and shared batch norms.

Two processes with half a batch each must train like one process with the whole batch. DDP averages the
gradients, but a batch norm would see only its own half. On GPUs torch's `SyncBatchNorm` shares the
statistics. It has no CPU implementation, so `SharedBatchNorm` serves on CPUs (gloo).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import torch
import torch.distributed as dist
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.state import AcceleratorState
from torch import Tensor, nn

from s2f_lib.config import LoopConfig, Precision
from s2f_lib.errors import ConfigError


def make_accelerator(config: LoopConfig) -> Accelerator:
    """Return an accelerator with the precision and device of the settings.

    `ConfigError` if the settings need a GPU (device cuda, precision fp16) and there is no GPU.
    """
    if config.device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device is cuda, but torch sees no GPU: use device=auto or device=cpu")
    cpu = config.device == "cpu" or not torch.cuda.is_available()
    if cpu and config.precision == "fp16":
        raise ConfigError("precision is fp16, which needs a GPU: use precision=bf16 or precision=no")
    # accelerate keeps its settings for the whole process and refuses others, but the encoder and the
    # decoder may differ in precision, and in a single process also in device
    AcceleratorState._reset_state(reset_partial_state=world_size() == 1)
    # shared batch norms keep the buffers equal in all processes, so they need no broadcast
    ddp = DistributedDataParallelKwargs(broadcast_buffers=False)
    precision = resolve_precision(config.precision, device="cpu" if cpu else "cuda")
    return Accelerator(mixed_precision=precision, cpu=cpu, kwargs_handlers=[ddp])


def resolve_precision(precision: Precision, *, device: str) -> str:
    """Return the precision that training uses on a "cpu" or "cuda" device: `auto` becomes bf16 or no.

    A CPU without bf16 instructions (AMX, AVX-512 BF16) emulates them, several times slower than float32.
    """
    if precision != "auto":
        return precision
    if device == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "no"
    # older versions of torch lack get_capabilities
    capabilities: Mapping[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return "bf16" if capabilities.get("amx_bf16") or capabilities.get("avx512_bf16") else "no"


def wrap_model(model: nn.Module, accelerator: Accelerator) -> nn.Module:
    """Move a model to the device and, in a run of several processes, wrap it for DDP with shared norms.

    In one process the model is not passed to accelerate, which would replace its `forward` by one that casts
    the outputs.
    """
    model = model.to(accelerator.device)
    if world_size() == 1:
        return model
    return accelerator.prepare_model(share_batch_norms(model, device=accelerator.device))


def is_first_process() -> bool:
    """Return whether this process is the only one, or the first that a launcher started."""
    return int(os.environ.get("RANK", "0")) == 0


def gather(rows: Tensor) -> Tensor:
    """Return the `(b, dimension)` rows of all processes, `(processes * b, dimension)`, with gradient.

    If every process computes the same loss from the result, the gradient that reaches `rows` is that loss's
    gradient times the number of processes. DDP's average corrects this.
    """
    if world_size() == 1:
        return rows
    from torch.distributed.nn.functional import all_gather

    return torch.cat(all_gather(rows.contiguous()))


def world_size() -> int:
    """Return the number of processes."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def barrier() -> None:
    """Wait for the other processes, if there are any."""
    if world_size() > 1:
        dist.barrier()


class SharedBatchNorm(nn.Module):
    """A batch norm over the examples of all processes, for any device, in place of `norm`.

    Its state has the names and values of `nn.BatchNorm2d`, so checkpoints fit both.
    """

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor

    def __init__(self, norm: nn.BatchNorm1d | nn.BatchNorm2d) -> None:
        super().__init__()
        self.eps, self.momentum = norm.eps, norm.momentum or 0.0
        self.weight, self.bias = norm.weight, norm.bias
        for name in ("running_mean", "running_var", "num_batches_tracked"):
            self.register_buffer(name, getattr(norm, name))

    def forward(self, inputs: Tensor) -> Tensor:
        """Normalise `(batch, channels, ...)` by the mean and variance over all processes."""
        from torch.distributed.nn.functional import all_reduce  # its backward pass sums the gradients

        if not self.training:
            return nn.functional.batch_norm(
                inputs, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps
            )
        axes = [axis for axis in range(inputs.ndim) if axis != 1]
        values = inputs.float()
        count = torch.tensor([float(values.numel() // values.shape[1])], device=values.device)
        dist.all_reduce(count)
        mean = all_reduce(values.sum(dim=axes)) / count
        shape = [1, -1] + [1] * (inputs.ndim - 2)
        centred = values - mean.view(shape)
        # squared deviations from the shared mean, because E[x^2] - E[x]^2 would cancel
        variance = all_reduce(centred.square().sum(dim=axes)) / count
        with torch.no_grad():
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * count / (count - 1), self.momentum)
        scale = self.weight * torch.rsqrt(variance + self.eps)
        return (centred * scale.view(shape) + self.bias.view(shape)).to(inputs.dtype)


def share_batch_norms(model: nn.Module, *, device: torch.device) -> nn.Module:
    """Replace every batch norm of a model by one that is shared across processes, and return the model."""
    if device.type == "cuda":
        return nn.SyncBatchNorm.convert_sync_batchnorm(model)
    for name, child in model.named_children():
        if isinstance(child, nn.BatchNorm1d | nn.BatchNorm2d):
            setattr(model, name, SharedBatchNorm(child))
        else:
            share_batch_norms(child, device=device)
    return model
