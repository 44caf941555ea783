"""Face feature extractors as networks with gradients, for losses on features of drawn faces."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from s2f_lib.errors import ConfigError
from s2f_lib.faces.extractor import FaceFeatureExtractor


def differentiable(extractor: FaceFeatureExtractor) -> nn.Module:
    """Return a frozen network that gives an extractor's features, with gradients to the faces.

    It shares the extractor's weights in memory, but may go to another device alone: the
    extractor's own network stays where it is.

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
        from s2f_lib.faces.dlib_port.resnet import dlib_face_network

        return _alias(dlib_face_network())
    if extractor.name == "vgg_face":
        return _VGGFaceFC7(extractor.network)
    raise ConfigError(
        f"extractor {extractor.name!r} gives no gradients: set decoder_training.identity_weight to 0"
    )


def _alias(network: nn.Module) -> nn.Module:
    """Return a frozen network over the same memory; moving it makes copies of its own."""
    same = {id(tensor): nn.Parameter(tensor.detach(), requires_grad=False) for tensor in network.parameters()}
    same |= {id(tensor): tensor.detach() for tensor in network.buffers()}
    return copy.deepcopy(network, same)  # deepcopy takes what it finds there for copied already


class _VGGFaceFC7(nn.Module):
    """VGG16 up to the activations of FC7, from pictures in [0, 1]."""

    def __init__(self, network: nn.Module) -> None:
        from s2f_lib.faces.vgg_face.network import MEAN_RGB

        super().__init__()
        self.network = _alias(network).eval()
        mean = torch.tensor(MEAN_RGB, dtype=torch.float32).view(1, 3, 1, 1)
        self.register_buffer("mean", mean, persistent=False)

    def forward(self, faces: Tensor) -> Tensor:
        maps = self.network.features(faces * 255 - self.mean)
        return self.network.classifier[:5](self.network.avgpool(maps).flatten(1))

    def train(self, mode: bool = True) -> _VGGFaceFC7:
        """Stay in evaluation mode: its dropout must never be on."""
        return super().train(False)
