"""dlib's face network in torch: 29 layers, 128 features per face.

dlib itself computes features without gradients. With this port a decoder can be trained to reconstruct a face
that dlib takes for the same person. It agrees with dlib within 1e-5, runs in batches and on every device.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from s2f_lib.faces.dlib_port.network import make_convolution
from s2f_lib.faces.dlib_port.weights import (
    DlibResNetWeights,
    LayerWeights,
    dlib_weights,
    read_dlib_resnet_weights,
)

RESNET_FILE = "dlib_face_recognition_resnet_model_v1.dat"


class DlibFaceNetwork(nn.Module):
    """dlib's face network, from faces to 128 features; its parameters are frozen."""

    mean: Tensor

    def __init__(self, weights: DlibResNetWeights) -> None:
        super().__init__()
        self.side_px = weights.side_px
        self.register_buffer("mean", torch.tensor(weights.mean_rgb).view(1, 3, 1, 1) / 255, persistent=False)
        self._plan: list[tuple[str, int, LayerWeights]] = []  # kind, index of the convolution, layer
        convolutions: list[nn.Conv2d] = []
        for layer in weights.layers:
            if layer.kind == "con":
                convolutions.append(make_convolution(layer))
            elif layer.kind == "affine":
                _fold(layer, convolutions[-1])
                continue
            self._plan.append((layer.kind, len(convolutions) - 1, layer))
        self.convolutions = nn.ModuleList(convolutions)
        inputs, outputs = weights.layers[-1].weight.shape
        self.project = nn.Linear(inputs, outputs, bias=False)
        self.project.weight = nn.Parameter(torch.from_numpy(weights.layers[-1].weight.T.copy()))
        self.requires_grad_(False)

    @property
    def dimension(self) -> int:
        """Number of features."""
        return self.project.out_features

    def forward(self, faces: Tensor) -> Tensor:
        """Compute the features, `(batch, 128)`, not normalised, of aligned faces.

        The faces are `(batch, 3, size, size)` RGB in [0, 1].
        """
        if faces.shape[-1] != self.side_px:
            faces = area_resize(faces, self.side_px)
        x = (faces - self.mean) * (255 / 256)
        block_input = shortcut = x
        for kind, index, layer in self._plan:
            if kind == "con":
                x = self.convolutions[index](x)
            elif kind == "relu":
                x = functional.relu(x)
            elif kind == "max_pool":
                x = functional.max_pool2d(x, layer.window, layer.stride, layer.padding)
                block_input = shortcut = x
            elif kind == "avg_pool" and layer.window:
                shortcut = functional.avg_pool2d(block_input, layer.window, layer.stride, layer.padding)
            elif kind == "avg_pool":
                x = x.mean(dim=(2, 3))  # (B, channels)
            elif kind == "add_prev":
                x = block_input = shortcut = functional.relu(_add(x, shortcut))
        return self.project(x)


@lru_cache(maxsize=1)
def dlib_face_network() -> DlibFaceNetwork:
    """Return the network with its public weights, on the CPU. All callers in a process share it."""
    return load_dlib_face_network(dlib_weights(RESNET_FILE))


def load_dlib_face_network(path: Path) -> DlibFaceNetwork:
    """Load the network from dlib's file, onto the CPU."""
    return DlibFaceNetwork(read_dlib_resnet_weights(path)).eval()


def area_resize(faces: Tensor, side_px: int) -> Tensor:
    """Shrink square images, `(batch, channels, size, size)`, as OpenCV's INTER_AREA does.

    Each new pixel is the mean of its area.
    """
    weights = torch.from_numpy(_area_weights(faces.shape[-1], side_px)).to(faces)  # (side, size)
    return weights @ faces @ weights.T


@lru_cache(maxsize=8)
def _area_weights(size: int, side: int) -> np.ndarray:
    """Return `(side, size)` float32: the share of each old pixel in each new one; rows sum to 1."""
    scale = size / side
    edges = np.arange(side + 1) * scale
    low, high = edges[:-1, None], edges[1:, None]
    pixels = np.arange(size)[None]
    overlap = np.clip(np.minimum(high, pixels + 1) - np.maximum(low, pixels), 0, None)
    return (overlap / scale).astype(np.float32)


def _fold(layer: LayerWeights, convolution: nn.Conv2d) -> None:
    """Multiply the gain of an affine layer into the convolution before it, and add its shift."""
    gain, shift = torch.from_numpy(layer.weight.copy()), torch.from_numpy(layer.bias.copy())
    assert convolution.bias is not None
    convolution.weight.mul_(gain[:, None, None, None])
    convolution.bias.mul_(gain).add_(shift)


def _add(first: Tensor, second: Tensor) -> Tensor:
    """Add maps as dlib does: the smaller one is padded with zeros in channels, rows and columns."""
    shape = [max(sizes) for sizes in zip(first.shape[1:], second.shape[1:], strict=True)]
    return _pad(first, shape) + _pad(second, shape)


def _pad(maps: Tensor, shape: list[int]) -> Tensor:
    channels, rows, columns = (wanted - size for wanted, size in zip(shape, maps.shape[1:], strict=True))
    return functional.pad(maps, (0, columns, 0, rows, 0, channels)) if channels or rows or columns else maps
