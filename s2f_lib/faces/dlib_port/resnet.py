"""dlib's face descriptor in torch: the same numbers, and gradients.

dlib gives descriptors and no gradients.  The port lets a decoder be trained to
draw a face that dlib takes for the same person.  It agrees with dlib to 1e-4
(tested), runs in batches and on any device.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from s2f_lib.faces.detector import dlib_weights
from s2f_lib.faces.dlib_port.resnet_weights import DlibResNetWeights, LayerWeights, read_dlib_resnet_weights


class DlibFaceNetwork(nn.Module):
    """Faces in [0, 1] to dlib's 128-D descriptors; its parameters are frozen.

    Parameters
    ----------
    weights
        What `read_dlib_resnet_weights` returned.

    Notes
    -----
    A residual block adds maps of different size as dlib does: the smaller one,
    in channels or pixels, is filled up with zeros.
    """

    def __init__(self, weights: DlibResNetWeights) -> None:
        super().__init__()
        self.side_px = weights.side_px
        self.register_buffer("mean", torch.tensor(weights.mean_rgb).view(1, 3, 1, 1) / 255, persistent=False)
        self._plan: list[tuple[str, int, LayerWeights]] = []  # kind, place among the convolutions, layer
        self.convolutions = nn.ModuleList()
        for layer in weights.layers:
            if layer.kind == "con":
                self.convolutions.append(_convolution(layer))
            elif layer.kind == "affine":
                _fold(layer, self.convolutions[-1])
                continue
            self._plan.append((layer.kind, len(self.convolutions) - 1, layer))
        last = weights.layers[-1]
        self.project = nn.Linear(*last.weight.shape, bias=False)
        with torch.no_grad():
            self.project.weight.copy_(torch.from_numpy(last.weight.T.copy()))
        self.requires_grad_(False)

    @property
    def dimension(self) -> int:
        """Length of a descriptor."""
        return self.project.out_features

    def forward(self, faces: Tensor) -> Tensor:
        """Describe faces.

        Parameters
        ----------
        faces
            `(batch, 3, height, width)` RGB in [0, 1], square, aligned as `faces.alignment` does.

        Returns
        -------
        Tensor
            `(batch, 128)`, not normalised.
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
    """Return the network with the weights that `face_recognition_models` ships, on the CPU."""
    return load_dlib_face_network(dlib_weights("dlib_face_recognition_resnet_model_v1.dat"))


def load_dlib_face_network(path: Path) -> DlibFaceNetwork:
    """Return the network of a dlib file.

    Raises
    ------
    DataError
        The file is damaged or holds another network.
    """
    return DlibFaceNetwork(read_dlib_resnet_weights(path)).eval()


def area_resize(faces: Tensor, side_px: int) -> Tensor:
    """Scale square pictures down by area, as OpenCV's INTER_AREA does: each pixel is the mean of its area.

    Parameters
    ----------
    faces
        `(batch, channels, size, size)`.
    """
    weights = torch.from_numpy(_area_weights(faces.shape[-1], side_px)).to(faces)  # (side, size)
    return weights @ faces @ weights.T


@lru_cache(maxsize=8)
def _area_weights(size: int, side: int) -> np.ndarray:
    """Return `(side, size)` float32: what share of each old pixel lies in each new one; rows sum to 1."""
    scale = size / side
    edges = np.arange(side + 1) * scale
    low, high = edges[:-1, None], edges[1:, None]
    pixels = np.arange(size)[None]
    overlap = np.clip(np.minimum(high, pixels + 1) - np.maximum(low, pixels), 0, None)
    return (overlap / scale).astype(np.float32)


def _convolution(layer: LayerWeights) -> nn.Conv2d:
    filters, channels, window, _ = layer.weight.shape
    module = nn.Conv2d(channels, filters, window, stride=layer.stride, padding=layer.padding)
    with torch.no_grad():
        module.weight.copy_(torch.from_numpy(layer.weight.copy()))
        module.bias.copy_(torch.from_numpy(layer.bias.copy()))
    return module


def _fold(layer: LayerWeights, module: nn.Conv2d) -> None:
    """Take gain and shift of an affine layer into the convolution before it."""
    gain, shift = torch.from_numpy(layer.weight.copy()), torch.from_numpy(layer.bias.copy())
    with torch.no_grad():
        module.weight.mul_(gain[:, None, None, None])
        module.bias.mul_(gain).add_(shift)


def _add(first: Tensor, second: Tensor) -> Tensor:
    """Add maps, the smaller one filled up with zeros in channels, rows and columns."""
    shape = [max(sizes) for sizes in zip(first.shape[1:], second.shape[1:], strict=True)]
    return _filled(first, shape) + _filled(second, shape)


def _filled(maps: Tensor, shape: list[int]) -> Tensor:
    missing = [wanted - size for wanted, size in zip(shape, maps.shape[1:], strict=True)]
    if not any(missing):
        return maps
    channels, rows, columns = missing
    return functional.pad(maps, (0, columns, 0, rows, 0, channels))
