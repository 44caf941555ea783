"""The face decoders: from face features to a 224x224 image of the face (report, "Decoder").

`FaceDecoder` is the report's. `ResidualDecoder` has the same input and output and uses residual blocks.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

from torch import Tensor, nn
from torch.nn import functional

from s2f_lib import registry
from s2f_lib.config import FaceDecoderConfig

IMAGE_SIZE = 224

BASE_CHANNELS = 256  # channels of the report's 14x14 map at width 1
MAP_SIZE = 14  # the report's maps: 14 -> 28 -> 56 -> 112 -> 224
FIRST_MAP = 7  # the residual maps: 7 -> 14 -> 28 -> 56 -> 112, then 2x2 pixels at once

# debug sizes
DEBUG_DECODER = FaceDecoderConfig(kind="report", width=1 / 64)
DEBUG_RESIDUAL = FaceDecoderConfig(kind="residual", residual_channels=(8, 8, 8, 8, 8), residual_hidden=16)


def make_decoder(
    config: FaceDecoderConfig | Callable[..., nn.Module], *, feature_dimension: int
) -> nn.Module:
    """Return the decoder that the settings name, or that a custom class or function returns.

    Parameters
    ----------
    config
        Kind ("report", "residual" or the name of a custom decoder) and size of the decoder; or the class or
        function of a custom decoder, which is called with `feature_dimension`.
    feature_dimension
        Dimension of the features: 4096 for VGG-Face, 128 for dlib.

    Returns
    -------
    torch.nn.Module
        `FaceDecoder`, `ResidualDecoder` or the custom decoder, in training mode.

    Raises
    ------
    ConfigError
        The custom decoder does not take the options.

    Examples
    --------
    >>> import torch
    >>> decoder = make_decoder(DEBUG_RESIDUAL, feature_dimension=128)
    >>> decoder(torch.ones(2, 128)).shape
    torch.Size([2, 3, 224, 224])
    """
    if not isinstance(config, FaceDecoderConfig):
        return registry.make("decoders", config, feature_dimension=feature_dimension)
    if config.kind == "report":
        return FaceDecoder(config, feature_dimension=feature_dimension)
    if config.kind == "residual":
        return ResidualDecoder(config, feature_dimension=feature_dimension)
    factory = registry.load("decoders", config.kind)
    return registry.make("decoders", factory, config.options, feature_dimension=feature_dimension)


class FaceDecoder(nn.Module):
    """The report's decoder: four transposed convolutions that each double the size.

    Parameters
    ----------
    config
        Size of the decoder: `width` scales the channels.
    feature_dimension
        Dimension of the features: 4096 for VGG-Face, 128 for dlib.

    Notes
    -----
    Features are first normalised to one length, because the encoder is trained only on directions. Predicted
    and true features then have the same scale.

    See Also
    --------
    ResidualDecoder : The same input and output, with residual upsampling.

    Examples
    --------
    >>> import torch
    >>> decoder = FaceDecoder(DEBUG_DECODER, feature_dimension=128)
    >>> decoder(torch.ones(2, 128)).shape
    torch.Size([2, 3, 224, 224])
    """

    def __init__(self, config: FaceDecoderConfig, *, feature_dimension: int) -> None:
        super().__init__()
        self.config = config
        self.feature_dimension = feature_dimension
        channels = [max(4, round(BASE_CHANNELS * config.width / 2**step)) for step in range(4)]
        self._base = channels[0]
        self.project = nn.Sequential(
            nn.Linear(feature_dimension, self._base * MAP_SIZE * MAP_SIZE), nn.ReLU(inplace=True)
        )
        layers: list[nn.Module] = []
        for before, after in itertools.pairwise(channels):
            layers += [
                nn.ConvTranspose2d(before, after, kernel_size=4, stride=2, padding=1),
                nn.BatchNorm2d(after),
                nn.ReLU(inplace=True),
            ]
        layers.append(nn.ConvTranspose2d(channels[-1], 3, kernel_size=4, stride=2, padding=1))
        self.upsample = nn.Sequential(*layers, nn.Sigmoid())

    def forward(self, features: Tensor) -> Tensor:
        """Reconstruct `(batch, 3, 224, 224)` RGB faces in [0, 1] from `(batch, d)` features of any length."""
        maps = self.first_layer(features).unflatten(1, (self._base, MAP_SIZE, MAP_SIZE))  # (B, C, 14, 14)
        return self.upsample(maps)

    def first_layer(self, features: Tensor) -> Tensor:
        """Return the first layer's activations, `(batch, C * 14 * 14)`, for Speech2Face's loss."""
        return self.project(_normalised(features))

    def colour_bias(self) -> Tensor:
        """Return the bias of the last convolution as `(3, 1)`, to start training at a mean colour."""
        return self.upsample[-2].get_parameter("bias")[:, None]


class ResidualDecoder(nn.Module):
    """Residual blocks that double the size, with normalisations that depend on the features.

    A linear layer turns the features into a 7x7 map. The features also set the gain and shift of every
    normalisation (FiLM, Perez et al. 2018; as in BigGAN, Brock et al. 2019). Four residual blocks double the
    size, to 112x112. The last convolution computes four pixels per position (Shi et al. 2016), and a fixed
    blur removes the pattern that this leaves (period 2 pixels; Sugawara et al. 2018). In the blocks a
    convolution follows the upsampling, which avoids the checkerboard of transposed convolutions (Odena et al.
    2016).

    Parameters
    ----------
    config
        Size of the decoder: `residual_channels` of the maps of 7, 14, 28, 56 and 112 pixels, and
        `residual_hidden` units between the features and the maps.
    feature_dimension
        Dimension of the features: 4096 for VGG-Face, 128 for dlib.

    See Also
    --------
    FaceDecoder : The report's decoder.

    Examples
    --------
    >>> import torch
    >>> decoder = ResidualDecoder(DEBUG_RESIDUAL, feature_dimension=128)
    >>> decoder(torch.ones(2, 128)).shape
    torch.Size([2, 3, 224, 224])
    """

    def __init__(self, config: FaceDecoderConfig, *, feature_dimension: int) -> None:
        super().__init__()
        self.config = config
        self.feature_dimension = feature_dimension
        channels, hidden = config.residual_channels, config.residual_hidden
        self._base = channels[0]
        self.describe = nn.Sequential(nn.Linear(feature_dimension, hidden), nn.ReLU(inplace=True))
        self.project = nn.Linear(hidden, self._base * FIRST_MAP * FIRST_MAP)
        self.blocks = nn.ModuleList(
            _UpBlock(before, after, hidden) for before, after in itertools.pairwise(channels)
        )
        self.last_norm = ConditionalBatchNorm2d(channels[-1], hidden)
        self.to_pixels = nn.Conv2d(channels[-1], 3 * 4, kernel_size=3, padding=1)

    def forward(self, features: Tensor) -> Tensor:
        """Reconstruct `(batch, 3, 224, 224)` RGB faces in [0, 1] from `(batch, d)` features of any length."""
        code = self.first_layer(features)  # (B, hidden)
        x = self.project(code).unflatten(1, (self._base, FIRST_MAP, FIRST_MAP))  # (B, C, 7, 7)
        for block in self.blocks:
            x = block(x, code)
        x = self.to_pixels(functional.relu(self.last_norm(x, code)))  # (B, 12, 112, 112)
        return binomial_blur(functional.pixel_shuffle(x, 2)).sigmoid()

    def first_layer(self, features: Tensor) -> Tensor:
        """Return the first layer's activations, `(batch, hidden)`, for Speech2Face's loss."""
        return self.describe(_normalised(features))

    def colour_bias(self) -> Tensor:
        """Return the bias of the last convolution as `(3, 4)`, to start training at a mean colour."""
        return self.to_pixels.get_parameter("bias").view(3, 4)


class ConditionalBatchNorm2d(nn.Module):
    """Batch normalisation whose gain and shift per channel are linear functions of a code."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels)
        self.steer = nn.Linear(hidden, 2 * channels)
        nn.init.zeros_(self.steer.weight)  # training starts with gain 1 and shift 0 for every code
        nn.init.zeros_(self.steer.bias)

    def forward(self, x: Tensor, code: Tensor) -> Tensor:
        gain, shift = self.steer(code)[:, :, None, None].chunk(2, dim=1)  # (B, C, 1, 1) each
        return self.norm(x) * (1 + gain) + shift


class _UpBlock(nn.Module):
    """One convolution before and one after the upsampling, and a shortcut (`around`)."""

    def __init__(self, before: int, after: int, hidden: int) -> None:
        super().__init__()
        self.first_norm = ConditionalBatchNorm2d(before, hidden)
        self.second_norm = ConditionalBatchNorm2d(after, hidden)
        self.first = nn.Conv2d(before, after, kernel_size=3, padding=1)
        self.second = nn.Conv2d(after, after, kernel_size=3, padding=1)
        self.around = nn.Conv2d(before, after, kernel_size=1)

    def forward(self, x: Tensor, code: Tensor) -> Tensor:
        inner = self.first(functional.relu(self.first_norm(x, code)))
        inner = self.second(functional.relu(self.second_norm(upsample2x(inner), code)))
        return inner + upsample2x(self.around(x))


def binomial_blur(images: Tensor) -> Tensor:
    """Average neighbours with weights 1, 2, 1 in both directions, which removes patterns of period 2."""
    padded = functional.pad(images, (1, 1, 1, 1), mode="replicate")
    return functional.avg_pool2d(functional.avg_pool2d(padded, 2, stride=1), 2, stride=1)


def upsample2x(maps: Tensor) -> Tensor:
    """Repeat each value twice in both directions."""
    return functional.interpolate(maps, scale_factor=2, mode="nearest")


def _normalised(features: Tensor) -> Tensor:
    """Scale features to a mean square of 1 per dimension."""
    return functional.normalize(features, dim=1) * features.shape[1] ** 0.5
