"""The face decoder: features to a 224x224 face (report, "Decoder")."""

from __future__ import annotations

import itertools

from torch import Tensor, nn

from s2f_lib.config import FaceDecoderConfig

MAP_SIZE = 14  # 14 -> 28 -> 56 -> 112 -> 224
IMAGE_SIZE = 224

#: A debug size.
DEBUG_DECODER = FaceDecoderConfig(kind="report", width=1 / 8, base_channels=32)


class FaceDecoder(nn.Module):
    """Four transposed convolutions, each doubling the size.

    Parameters
    ----------
    config
        Channels of the 14x14 map, halved at each step.
    feature_dimension
        Of the input: 4096 for VGG-Face, 128 for dlib.

    Notes
    -----
    Features are normalised to unit length first, since the encoder is trained
    on directions alone: a predicted and a true feature then have one scale.
    """

    def __init__(self, config: FaceDecoderConfig, *, feature_dimension: int) -> None:
        super().__init__()
        self.config = config
        self.feature_dimension = feature_dimension
        channels = [max(4, round(config.base_channels * config.width / 2**step)) for step in range(4)]
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
        maps = self.first_layer(features).unflatten(1, (self._base, MAP_SIZE, MAP_SIZE))  # (B, C, 14, 14)
        return self.upsample(maps)

    def first_layer(self, features: Tensor) -> Tensor:
        """Return the first layer's activations, `(batch, C * 14 * 14)`, which Speech2Face's loss compares."""
        unit = nn.functional.normalize(features, dim=1) * self.feature_dimension**0.5
        return self.project(unit)

    def colour_bias(self) -> Tensor:
        """Return the bias of the last layer as `(3, 1)`, to start training at a mean colour."""
        return self.upsample[-2].bias[:, None]
