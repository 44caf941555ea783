"""Losses on drawn faces: difference, structure, identity, and what a discriminator sees."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from s2f_lib.config import DecoderTrainingConfig
from s2f_lib.models.decoders import PatchDiscriminator

_WINDOW_PX = 7  # of SSIM, with equal weights
_K1, _K2 = 0.01, 0.03  # Wang et al. 2004, section III
_TURN, _SCALE, _SHIFT = 0.05, 0.05, 0.04  # of a drawing before it is described: radians and shares, uniform


class DecoderLoss(nn.Module):
    """The weighted sum of the residual decoder's losses.

    L = w1 |y - t|_1 + w2 (1 - SSIM(y, t)) + w3 (1 - cos(E(Ty) - m, f - m)) + w4 A(y),
    for a drawing y of the face t with features f, the extractor E and the mean features m.
    T mirrors, turns, scales and shifts by a little at random: it keeps the decoder from
    drawing fine patterns that please the extractor and no eye.

    Parameters
    ----------
    config
        The weights.
    extractor
        The extractor with gradients, of `faces.differentiable`; None where identity has no weight.
    mean_features
        `(dimension,)`, of the training faces: what is common to all faces says nothing of identity.
    """

    def __init__(
        self, config: DecoderTrainingConfig, *, extractor: nn.Module | None, mean_features: Tensor
    ) -> None:
        super().__init__()
        self.config = config
        self._extractor = [extractor]  # in a list: its weights are not this module's
        self.register_buffer("mean_features", mean_features, persistent=False)
        self.discriminator = PatchDiscriminator() if config.adversarial_weight else None

    def forward(self, reconstruction: Tensor, faces: Tensor, features: Tensor) -> Tensor:
        """Return the loss.

        Parameters
        ----------
        reconstruction, faces
            `(batch, 3, 224, 224)` in [0, 1].
        features
            `(batch, dimension)` of the faces.
        """
        config = self.config
        loss = config.l1_weight * functional.l1_loss(reconstruction, faces)
        if config.ssim_weight:
            half, half_true = functional.avg_pool2d(reconstruction, 2), functional.avg_pool2d(faces, 2)
            loss = loss + config.ssim_weight * (1 - ssim(half, half_true))
        if config.identity_weight:
            loss = loss + config.identity_weight * (
                1 - self.identity(random_affine(reconstruction), features).mean()
            )
        if self.discriminator is not None:
            loss = loss + self._adversarial(reconstruction, faces)
        return loss

    def identity(self, reconstruction: Tensor, features: Tensor) -> Tensor:
        """Return the cosine between the drawings' features and `features`, both less the mean, `(batch,)`."""
        extractor = self._extractor[0].to(reconstruction.device)
        mean = self.mean_features.to(reconstruction.device)
        found = extractor(reconstruction).float()
        return functional.cosine_similarity(found - mean, features.float() - mean)

    def _adversarial(self, reconstruction: Tensor, faces: Tensor) -> Tensor:
        """Return the discriminator's loss; the drawing gets its gradient turned round.

        So one step of one optimiser trains both against each other (Ganin et al. 2016).
        """
        discriminator = self.discriminator.to(reconstruction.device)
        real = discriminator(functional.avg_pool2d(faces, 2)).float()
        turned = GradientReversal.apply(reconstruction, self.config.adversarial_weight)
        fake = discriminator(functional.avg_pool2d(turned, 2)).float()
        return functional.softplus(-real).mean() + functional.softplus(fake).mean()


def random_affine(faces: Tensor) -> Tensor:
    """Return the faces mirrored, turned, scaled and shifted by a little, each in its own way.

    Parameters
    ----------
    faces
        `(batch, channels, size, size)`; what comes from outside continues the edge.
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
    """Return the mean structural similarity of pictures in [0, 1], with a 7-pixel box as its window.

    The box, at every second place, costs a fraction of the usual Gaussian window; for
    measuring, `evaluation.decoders` uses torchmetrics' own.

    Parameters
    ----------
    first, second
        `(batch, channels, height, width)`.
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


class GradientReversal(torch.autograd.Function):
    """The identity, with the gradient times a negative weight."""

    @staticmethod
    def forward(ctx, x: Tensor, weight: float) -> Tensor:
        ctx.weight = weight
        return x.view_as(x)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:
        return -ctx.weight * gradient, None
