"""VGG-Face: VGG16 with 2,622 identities, whose fc7 layer gives the report's 4096 features.

The weights cannot be shipped. They are read from a safetensors file with torchvision's VGG16 names, in RGB
order; `import_weights` writes such a file from one of the public files.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from s2f_lib.errors import DataError, MissingFileError
from s2f_lib.storage import digest

ChannelOrder = Literal["rgb", "bgr"]

N_IDENTITIES = 2_622  # Parkhi et al. 2015
MEAN_RGB = (129.1863, 104.7624, 93.5940)  # of VGG-Face's training faces, from 0 to 255 (the authors' demos)

# VGG16's layers, and the torchvision modules that hold them
CANONICAL_NAMES = {
    "conv1_1": "features.0",
    "conv1_2": "features.2",
    "conv2_1": "features.5",
    "conv2_2": "features.7",
    "conv3_1": "features.10",
    "conv3_2": "features.12",
    "conv3_3": "features.14",
    "conv4_1": "features.17",
    "conv4_2": "features.19",
    "conv4_3": "features.21",
    "conv5_1": "features.24",
    "conv5_2": "features.26",
    "conv5_3": "features.28",
    "fc6": "classifier.0",
    "fc7": "classifier.3",
    "fc8": "classifier.6",
}
LAYERS = tuple(CANONICAL_NAMES)

Tensors = dict[str, tuple[np.ndarray, np.ndarray]]  # layer to weight and bias

_HELP = (
    "the weights of VGG-Face cannot be shipped: get vgg_face_dag.pth, VGG_FACE.t7 or vgg_face_weights.h5, "
    "run `s2f weights import PATH`, and set features.weights to the .safetensors file that it writes; "
    "or set features.extractor to dlib_resnet"
)


@dataclass(frozen=True)
class VggShape:
    """Layer sizes of a VGG16; the defaults are VGG-Face's (Parkhi et al. 2015)."""

    #: Filters of the thirteen convolutions.
    channels: tuple[int, ...] = (64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512)
    map_px: int = 7  # side of the last feature map, the input of fc6
    hidden: int = 4096  # units of fc6 and fc7: the dimension of the feature
    classes: int = N_IDENTITIES  # units of fc8

    def weights(self) -> dict[str, tuple[int, ...]]:
        """Return the shape of each layer's weight: (out, in, rows, columns), or (out, in) for fc."""
        inputs = (3, *self.channels)
        shapes: dict[str, tuple[int, ...]] = {
            name: (out, into, 3, 3) for name, out, into in zip(LAYERS, self.channels, inputs, strict=False)
        }
        shapes["fc6"] = (self.hidden, self.channels[-1] * self.map_px**2)
        shapes["fc7"] = (self.hidden, self.hidden)
        shapes["fc8"] = (self.classes, self.hidden)
        return shapes


VGG_FACE_SHAPE = VggShape()


class VGGFaceFC7(nn.Module):
    """A VGG16 up to the rectified activations of fc7.

    `network` is torchvision's VGG16, in RGB order; it is shared, not copied. `input_scale` is the factor from
    the input to pixel values from 0 to 255.
    """

    mean: Tensor

    def __init__(self, network: nn.Module, *, input_scale: float = 1.0) -> None:
        super().__init__()
        self.network = network
        self.input_scale = input_scale
        mean = torch.tensor(MEAN_RGB, dtype=torch.float32).view(1, 3, 1, 1)
        self.register_buffer("mean", mean, persistent=False)
        self.eval()

    def forward(self, pixels: Tensor) -> Tensor:
        """Compute the features, `(batch, 4096)`, at least 0, not normalised, of aligned faces.

        The pixels are `(batch, 3, 224, 224)` RGB, from 0 to 255 after `input_scale`.
        """
        network: Any = self.network
        maps = network.features(pixels * self.input_scale - self.mean)
        hidden = network.avgpool(maps).flatten(1)  # (batch, 512 * 7 * 7)
        return network.classifier[:5](hidden)  # fc6, ReLU, dropout (off), fc7, ReLU

    def train(self, mode: bool = True) -> VGGFaceFC7:
        """Stay in evaluation mode, because the dropout of VGG16 must stay off."""
        return super().train(False)


def empty_vgg16() -> nn.Module:
    """Return torchvision's VGG16 for VGG-Face's identities, without memory for its weights."""
    import torchvision

    with torch.device("meta"):
        return torchvision.models.vgg16(weights=None, num_classes=N_IDENTITIES)


def load_vgg_face(path: Path | None) -> nn.Module:
    """Load VGG-Face, torchvision's `vgg16(num_classes=2622)` in RGB order, from a safetensors file.

    The network is on the CPU. The error for a missing path says where to get the weights.
    """
    import safetensors.torch
    from safetensors import SafetensorError

    if path is None:
        raise MissingFileError(f"features.weights is not set: {_HELP}")
    path = Path(path)
    if not path.is_file():
        raise MissingFileError(f"no weights at {path}: {_HELP}")
    try:
        state = safetensors.torch.load_file(path)
    except (SafetensorError, ValueError) as error:
        raise DataError(
            f"{path} is not a safetensors file ({error}); run `s2f weights import {path}`"
        ) from None
    network = empty_vgg16()
    wanted = network.state_dict()
    for name, tensor in wanted.items():
        found = tuple(state[name].shape) if name in state else None
        if found != tuple(tensor.shape):
            raise DataError(
                f"{path}: {name} is {found or 'missing'}; expected {tuple(tensor.shape)} as in VGG16"
            )
    extra = sorted(set(state) - set(wanted))
    if extra:
        raise DataError(
            f"{path}: unknown tensors {', '.join(extra[:3])}; expected only VGG16's {len(wanted)} tensors"
        )
    network.load_state_dict(state, assign=True)
    return network


def fingerprint_of(state: Mapping[str, Tensor | np.ndarray]) -> str:
    """Return a SHA-256 of a network's weights as float32, in the order of their names: 64 digits.

    Every file that holds these weights has the same. The fingerprint of the extractor is its first 16 digits.
    """
    arrays = ((name, _as_float32(values)) for name, values in sorted(state.items()))
    return digest(*chain.from_iterable(arrays), length=64)


def _as_float32(values: Tensor | np.ndarray) -> np.ndarray:
    if isinstance(values, Tensor):
        return values.detach().float().cpu().numpy()
    return np.asarray(values, np.float32)
