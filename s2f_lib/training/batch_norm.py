"""Batch norms that share their statistics across processes.

Two processes with half a batch each must train as one process with the whole
batch.  Gradients are averaged by DDP or FSDP, but a batch norm would see only its
own half.  On GPUs torch's `SyncBatchNorm` shares the statistics; it has no CPU
implementation, so on CPUs (gloo) the same is done here with two differentiable
sums: the number of positions, sum and sum of squared deviations go once around.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.nn.functional import all_reduce  # its backward pass sums the gradients, too

_KINDS = (nn.BatchNorm1d, nn.BatchNorm2d)


class SharedBatchNorm(nn.Module):
    """A batch norm over all processes' examples, for any device.

    Its state has the names and values of `nn.BatchNorm2d`'s, so checkpoints fit both.

    Parameters
    ----------
    norm
        The norm whose parameters, buffers and settings are taken over.
    """

    def __init__(self, norm: nn.BatchNorm1d | nn.BatchNorm2d) -> None:
        super().__init__()
        self.eps, self.momentum = norm.eps, norm.momentum
        self.weight, self.bias = norm.weight, norm.bias
        for name in ("running_mean", "running_var", "num_batches_tracked"):
            self.register_buffer(name, getattr(norm, name))

    def forward(self, inputs: Tensor) -> Tensor:
        """Normalise `(batch, channels, ...)` by the mean and variance over all processes."""
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
        # squared deviations from the shared mean: E[x^2] - E[x]^2 would cancel
        variance = all_reduce(centred.square().sum(dim=axes)) / count
        with torch.no_grad():
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * count / (count - 1), self.momentum)
        scale = self.weight * torch.rsqrt(variance + self.eps)
        return (centred * scale.view(shape) + self.bias.view(shape)).to(inputs.dtype)


def share_batch_norms(model: nn.Module, *, device: torch.device) -> nn.Module:
    """Return the model with every batch norm shared across processes; it is changed in place."""
    if device.type == "cuda":
        return nn.SyncBatchNorm.convert_sync_batchnorm(model)
    for name, child in model.named_children():
        if isinstance(child, _KINDS):
            setattr(model, name, SharedBatchNorm(child))
        else:
            share_batch_norms(child, device=device)
    return model
