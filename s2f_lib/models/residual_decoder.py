"""A face decoder with residual upsampling, beside the report's: same features in, same picture out.

The features make a 7x7 map and set gain and shift of every normalisation, so
that they reach each size directly (FiLM, Perez et al. 2018; as in BigGAN,
Brock et al. 2019).  Residual blocks double the size four times, to 112x112;
the last convolution gives four pixels for one (Shi et al. 2016), 224x224, and a
fixed filter evens out the pattern of two pixels that this leaves (Sugawara et al.
2018).  Before that, upsampling comes before a convolution, so that there is no
checkerboard as of transposed convolutions (Odena et al. 2016).
"""

from __future__ import annotations

import itertools

from torch import Tensor, nn
from torch.nn import functional

from s2f_lib.config import FaceDecoderConfig

FIRST_MAP = 7  # 7 -> 14 -> 28 -> 56 -> 112, then 2x2 pixels at once

#: A debug size.
DEBUG_RESIDUAL = FaceDecoderConfig(kind="residual", residual_channels=(8, 8, 8, 8, 8), residual_hidden=16)


class ResidualDecoder(nn.Module):
    """Residual blocks that double the size, steered by the features.

    Parameters
    ----------
    config
        `residual_channels` of the maps of 7, 14, 28, 56 and 112 pixels;
        `residual_hidden` units between the features and the maps.
    feature_dimension
        Of the input: 4096 for VGG-Face, 128 for dlib.
    """

    def __init__(self, config: FaceDecoderConfig, *, feature_dimension: int) -> None:
        super().__init__()
        self.config = config
        self.feature_dimension = feature_dimension
        channels = config.residual_channels
        hidden = config.residual_hidden
        self._base = channels[0]
        self.describe = nn.Sequential(nn.Linear(feature_dimension, hidden), nn.ReLU(inplace=True))
        self.project = nn.Linear(hidden, self._base * FIRST_MAP * FIRST_MAP)
        self.blocks = nn.ModuleList(
            _UpBlock(before, after, hidden) for before, after in itertools.pairwise(channels)
        )
        self.last_norm = ConditionalBatchNorm2d(channels[-1], hidden)
        self.to_pixels = nn.Conv2d(channels[-1], 3 * 4, kernel_size=3, padding=1)

    def forward(self, features: Tensor) -> Tensor:
        """Render faces.

        Parameters
        ----------
        features
            `(batch, feature_dimension)` float; their length does not matter.

        Returns
        -------
        Tensor
            `(batch, 3, 224, 224)` RGB in [0, 1].
        """
        code = self.first_layer(features)  # (B, hidden)
        x = self.project(code).unflatten(1, (self._base, FIRST_MAP, FIRST_MAP))  # (B, C, 7, 7)
        for block in self.blocks:
            x = block(x, code)
        x = self.to_pixels(functional.relu(self.last_norm(x, code)))  # (B, 12, 112, 112)
        return binomial_blur(functional.pixel_shuffle(x, 2)).sigmoid()

    def first_layer(self, features: Tensor) -> Tensor:
        """Return the first layer's activations, `(batch, hidden)`, which Speech2Face's loss compares."""
        unit = functional.normalize(features, dim=1) * self.feature_dimension**0.5
        return self.describe(unit)

    def colour_bias(self) -> Tensor:
        """Return the bias of the last layer as `(3, pixels)`, to start training at a mean colour."""
        return self.to_pixels.bias.view(3, 4)


class ConditionalBatchNorm2d(nn.Module):
    """Batch normalisation with a gain and a shift of each channel that the features give."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels)
        self.steer = nn.Linear(hidden, 2 * channels)
        nn.init.zeros_(self.steer.weight)  # at the start all features are alike
        nn.init.zeros_(self.steer.bias)

    def forward(self, x: Tensor, code: Tensor) -> Tensor:
        gain, shift = self.steer(code)[:, :, None, None].chunk(2, dim=1)  # (B, C, 1, 1) each
        return self.norm(x) * (1 + gain) + shift


class _UpBlock(nn.Module):
    """Two convolutions, the first before and the second after doubling the size, and a way around them."""

    def __init__(self, before: int, after: int, hidden: int) -> None:
        super().__init__()
        self.first_norm, self.second_norm = (
            ConditionalBatchNorm2d(before, hidden),
            ConditionalBatchNorm2d(after, hidden),
        )
        self.first = nn.Conv2d(before, after, kernel_size=3, padding=1)
        self.second = nn.Conv2d(after, after, kernel_size=3, padding=1)
        self.around = nn.Conv2d(before, after, kernel_size=1)

    def forward(self, x: Tensor, code: Tensor) -> Tensor:
        inner = self.first(functional.relu(self.first_norm(x, code)))
        inner = self.second(functional.relu(self.second_norm(upsample2x(inner), code)))
        return inner + upsample2x(self.around(x))


def binomial_blur(images: Tensor) -> Tensor:
    """Weigh neighbouring pixels 1, 2, 1 in both directions.

    The four pixels that one place gives come from weights of their own, and the eye sees the
    pattern; this takes away exactly what alternates from pixel to pixel.
    """
    rim = functional.pad(images, (1, 1, 1, 1), mode="replicate")
    return functional.avg_pool2d(functional.avg_pool2d(rim, 2, stride=1), 2, stride=1)


def upsample2x(maps: Tensor) -> Tensor:
    return functional.interpolate(maps, scale_factor=2, mode="nearest")
