"""The sizes and names of VGG16's layers, and the one form that all weights are brought into."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from s2f_lib.errors import DataError

ChannelOrder = Literal["rgb", "bgr"]

MEAN_RGB = (129.1863, 104.7624, 93.5940)  # of VGG-Face's training faces, on 0-255 (the authors' demos)

# VGG16's layers, and the places of torchvision's modules that hold them
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


@dataclass(frozen=True)
class VggShape:
    """The sizes of a VGG16; the defaults are VGG-Face's (Parkhi et al. 2015).

    Attributes
    ----------
    channels
        Filters of the thirteen convolutions.
    map_px
        Side of the last feature map, which fc6 sees.
    hidden
        Units of fc6 and fc7: the dimension of the feature.
    classes
        Identities of fc8.
    """

    channels: tuple[int, ...] = (64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512)
    map_px: int = 7
    hidden: int = 4096
    classes: int = 2622

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


def to_canonical(
    tensors: Tensors, *, channel_order: ChannelOrder, shape: VggShape, name: str
) -> dict[str, np.ndarray]:
    """Return torchvision's VGG16 state for RGB pictures, all float32.

    Parameters
    ----------
    tensors
        What a form's `read` returned.
    channel_order
        What the first convolution expects.
    shape
        The sizes that the network has to have.
    name
        The file, for errors.

    Raises
    ------
    DataError
        A tensor has another shape, or numbers that are not finite.
    """
    state = {}
    for layer, wanted in shape.weights().items():
        weight, bias = tensors[layer]
        expect_shape(name, layer, weight.shape, wanted)
        expect_shape(name, f"{layer}'s bias", bias.shape, wanted[:1])
        if layer == "conv1_1" and channel_order == "bgr":
            weight = weight[:, ::-1]
        for part, values in (("weight", weight), ("bias", bias)):
            values = np.ascontiguousarray(values, dtype=np.float32)
            if not np.isfinite(values).all():
                raise DataError(f"{name}: the {part} of {layer} holds numbers that are not finite")
            state[f"{CANONICAL_NAMES[layer]}.{part}"] = values
    return state


def expect_shape(name: str, what: str, found: tuple[int, ...], wanted: tuple[int, ...]) -> None:
    """Raise `DataError` where a tensor of the file `name` has another shape."""
    if tuple(found) != tuple(wanted):
        raise DataError(f"{name}: {what} has shape {tuple(found)}; expected {tuple(wanted)}, VGG-Face's")


def expect_names(name: str, found: set[str], wanted: set[str]) -> None:
    """Raise `DataError` where the file `name` lacks layers or has others."""
    for kind, names in (("lacks", wanted - found), ("has the unknown", found - wanted)):
        if names:
            raise DataError(
                f"{name} {kind} {', '.join(sorted(names)[:3])}; expected VGG16's conv1_1 to fc8, and no more"
            )
