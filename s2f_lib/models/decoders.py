"""The face decoders by their names."""

from __future__ import annotations

from torch import Tensor, nn

from s2f_lib.config import FaceDecoderConfig
from s2f_lib.models.face_decoder import FaceDecoder
from s2f_lib.models.residual_decoder import ResidualDecoder


def make_decoder(config: FaceDecoderConfig, *, feature_dimension: int) -> FaceDecoder | ResidualDecoder:
    """Return the decoder that `config.kind` names, with random weights."""
    kinds = {"report": FaceDecoder, "residual": ResidualDecoder}
    return kinds[config.kind](config, feature_dimension=feature_dimension)


class PatchDiscriminator(nn.Module):
    """A small discriminator: how much each patch of a face looks like one of a photograph.

    For the optional adversarial loss (Goodfellow et al. 2014; patches as in Isola
    et al. 2017).  It has no normalisation, so that it keeps no state but its weights.
    """

    def __init__(self, channels: int = 32) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        before = 3
        for factor in (1, 2, 4):
            layers += [nn.Conv2d(before, factor * channels, 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
            before = factor * channels
        self.layers = nn.Sequential(*layers, nn.Conv2d(before, 1, 3, padding=1))

    def forward(self, faces: Tensor) -> Tensor:
        """Return `(batch, 1, height / 8, width / 8)` scores; above 0 looks real."""
        return self.layers(2 * faces - 1)
