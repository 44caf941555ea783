"""Face feature extractors as networks with gradients, for losses on features of drawn faces."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from s2f_lib.errors import ConfigError
from s2f_lib.features.base import FaceFeatureExtractor


def differentiable(extractor: FaceFeatureExtractor) -> nn.Module:
    """Return a frozen network that gives an extractor's features, with gradients to the faces.

    Returns
    -------
    torch.nn.Module
        `(batch, 3, 224, 224)` RGB in [0, 1] to `(batch, dimension)`.

    Raises
    ------
    ConfigError
        The extractor has no such network.
    """
    if extractor.name == "dlib_resnet":
        from s2f_lib.features.dlib_resnet_torch import dlib_descriptor

        return dlib_descriptor()
    if extractor.name == "vgg_face":
        return _VGGFaceFC7(extractor.network)
    raise ConfigError(
        f"extractor {extractor.name!r} gives no gradients: set decoder_training.identity_weight to 0"
    )


class _VGGFaceFC7(nn.Module):
    """VGG16 up to the activations of FC7, from pictures in [0, 1]."""

    def __init__(self, network: nn.Module) -> None:
        from s2f_lib.features.vgg_face import MEAN_RGB

        super().__init__()
        self.network = network.requires_grad_(False).eval()
        mean = torch.tensor(MEAN_RGB, dtype=torch.float32).view(1, 3, 1, 1)
        self.register_buffer("mean", mean, persistent=False)

    def forward(self, faces: Tensor) -> Tensor:
        maps = self.network.features(faces * 255 - self.mean)
        return self.network.classifier[:5](self.network.avgpool(maps).flatten(1))

    def train(self, mode: bool = True) -> _VGGFaceFC7:
        """Stay in evaluation mode: its dropout must never be on."""
        return super().train(False)
