"""Losses of the residual face decoder: pixel difference, structure and identity."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from s2f_lib.config import DecoderTrainingConfig
from s2f_lib.errors import ConfigError

_WINDOW_PX = 7  # window of SSIM, with equal weights
_K1, _K2 = 0.01, 0.03  # Wang et al. 2004, section III
_TURN, _SCALE, _SHIFT = 0.05, 0.05, 0.04  # largest random change: radians, and shares of the size


class DecoderLoss(nn.Module):
    """The weighted sum of the residual decoder's losses.

    L = w1 |y - t|_1 + w2 (1 - SSIM(y, t)) + w3 (1 - cos(E(Ty) - m, f - m)), for a reconstruction y of the
    face t with features f. E is the extractor with gradients, from `faces.extractor.differentiable` (None if
    w3 is 0). m, `(dimension,)`, is the mean of the training faces' features, which does not distinguish
    people. T is a small random affine map. Without it the decoder learns invisible patterns that raise the
    extractor's score.
    """

    mean_features: Tensor

    def __init__(
        self, config: DecoderTrainingConfig, *, extractor: nn.Module | None, mean_features: Tensor
    ) -> None:
        super().__init__()
        self.config = config
        self._extractor = [extractor]  # in a list, because its weights do not belong to this module
        self.register_buffer("mean_features", mean_features, persistent=False)

    def forward(self, reconstruction: Tensor, faces: Tensor, features: Tensor) -> Tensor:
        """Return the loss; images are `(batch, 3, 224, 224)` in [0, 1], features `(batch, dimension)`."""
        config = self.config
        loss = config.l1_weight * functional.l1_loss(reconstruction, faces)
        if config.ssim_weight:
            half, half_true = functional.avg_pool2d(reconstruction, 2), functional.avg_pool2d(faces, 2)
            loss = loss + config.ssim_weight * (1 - ssim(half, half_true))
        if config.identity_weight:
            identity = self.identity(random_affine(reconstruction), features).mean()
            loss = loss + config.identity_weight * (1 - identity)
        return loss

    def identity(self, reconstruction: Tensor, features: Tensor) -> Tensor:
        """Return the cosine between the reconstruction's features and `features`, both minus the mean."""
        (extractor,) = self._extractor
        if extractor is None:
            raise ConfigError("the identity loss needs an extractor")
        mean = self.mean_features.to(reconstruction.device)
        found = extractor.to(reconstruction.device)(reconstruction).float()
        return functional.cosine_similarity(found - mean, features.float() - mean)


def random_affine(faces: Tensor) -> Tensor:
    """Mirror, rotate, scale and shift each of `(batch, channels, size, size)` faces at random, by a little.

    Pixels from outside the image repeat its edge.
    """
    n = len(faces)
    turn, scale, shift_x, shift_y = (2 * torch.rand(4, n, device=faces.device) - 1).unbind()
    cos, sin = torch.cos(_TURN * turn), torch.sin(_TURN * turn)
    size, mirror = 1 + _SCALE * scale, torch.where(torch.rand(n, device=faces.device) < 0.5, -1.0, 1.0)
    rows = [size * cos * mirror, -size * sin, 2 * _SHIFT * shift_x, size * sin * mirror, size * cos]
    matrix = torch.stack([*rows, 2 * _SHIFT * shift_y], dim=1).view(n, 2, 3)
    grid = functional.affine_grid(matrix, list(faces.shape), align_corners=False)
    return functional.grid_sample(faces, grid, padding_mode="border", align_corners=False)


def ssim(first: Tensor, second: Tensor) -> Tensor:
    """Return the mean structural similarity of images in [0, 1], with a 7-pixel box as the window.

    The images are `(batch, channels, height, width)`. The box at every second position is much faster than
    the usual Gaussian window. The evaluation (`evaluation.decoders`) uses torchmetrics.
    """

    def mean(maps: Tensor) -> Tensor:
        return functional.avg_pool2d(maps, _WINDOW_PX, stride=2)

    first, second = first.float(), second.float()  # variances cancel in bfloat16
    mean_1, mean_2 = mean(first), mean(second)
    variances = mean(first * first) - mean_1**2 + mean(second * second) - mean_2**2
    covariance = mean(first * second) - mean_1 * mean_2
    c1, c2 = _K1**2, _K2**2
    light = (2 * mean_1 * mean_2 + c1) / (mean_1**2 + mean_2**2 + c1)
    return (light * (2 * covariance + c2) / (variances + c2)).mean()
