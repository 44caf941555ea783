"""Layers of the voice encoder that torch does not have."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class FaceAxes(nn.Module):
    """A fixed linear map from principal-component coordinates to face features.

    ``mean + axes @ output``, with the mean and the principal axes of the training faces' unit features. Faces
    vary much along a few axes and little along the others. In these coordinates one learning rate suits all
    outputs. The map is fixed and invertible, so it does not limit the features that the encoder can predict.
    """

    mean: Tensor
    axes: Tensor

    def __init__(self, dimension: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(dimension))
        self.register_buffer("axes", torch.eye(dimension))

    def fit(self, mean: Tensor, covariance: Tensor) -> None:
        """Set the map from the mean `(d,)` and the covariance `(d, d)` of unit features."""
        variances, directions = torch.linalg.eigh(covariance.double())
        variances = variances.clamp(min=0)
        # half-whitening: the length of an axis is the square root of the standard deviation along it
        lengths = (variances * variances.mean()) ** 0.25
        self.mean.copy_(mean)
        self.axes.copy_((directions * lengths).float())

    def forward(self, output: Tensor) -> Tensor:
        """Map `(batch, d)` outputs to features, in float32."""
        device = "cpu" if output.is_meta else output.device.type  # autocast does not know the meta device
        with torch.autocast(device, enabled=False):
            return self.mean + output.float() @ self.axes.T


class TimeMaxPool(nn.MaxPool2d):
    """The maximum of two consecutive frames: `MaxPool2d` with a kernel of 2 x 1.

    On a CPU torch's own pooling stores one index per maximum and processes the indices one by one. For two
    frames one bit is enough. Values and gradients are the same, and this is about four times as fast.
    """

    def __init__(self) -> None:
        super().__init__(kernel_size=(2, 1))

    def forward(self, maps: Tensor) -> Tensor:
        """Pool `(batch, channels, frames, bins)` to half the frames, rounded down."""
        return _MaxOfTwoFrames.apply(maps) if maps.device.type == "cpu" else super().forward(maps)


class _MaxOfTwoFrames(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, maps: Tensor) -> Tensor:
        ctx.frames = maps.shape[2]
        ctx.channels_last = maps.is_contiguous(memory_format=torch.channels_last) and not maps.is_contiguous()
        even = ctx.frames // 2 * 2
        first, second = maps[:, :, 0:even:2], maps[:, :, 1:even:2]
        second_larger = second > first  # if both are equal, the first one gets the gradient
        ctx.save_for_backward(second_larger)
        return torch.maximum(first, second)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (second_larger,) = ctx.saved_tensors
        batch, channels, pooled, bins = gradient.shape
        result = torch.empty(
            (batch, channels, ctx.frames, bins),
            dtype=gradient.dtype,
            device=gradient.device,
            # the memory format of the input; otherwise each earlier layer would convert its gradient
            memory_format=torch.channels_last if ctx.channels_last else torch.contiguous_format,
        )
        result[:, :, 2 * pooled :] = 0  # an odd last frame is not pooled
        second = result[:, :, 1 : 2 * pooled : 2]
        torch.mul(gradient, second_larger, out=second)
        torch.sub(gradient, second, out=result[:, :, 0 : 2 * pooled : 2])
        return result
