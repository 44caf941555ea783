"""Read dlib's face descriptor network from its own file, without dlib.

`dlib_face_recognition_resnet_model_v1.dat` holds a residual network of 29
convolutions (He et al. 2016, with half the filters) in the form that
`faces.dlib_port.serialization` describes; here the layers are read as a list
from the image outwards, in which residual blocks end with "add_prev".
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from s2f_lib.faces.dlib_port.serialization import DlibReader, skip_layer_state

_MAX_VERSIONS = 1000  # far beyond the network's layers: stops a damaged file early


@dataclass(frozen=True)
class LayerWeights:
    """One layer of the network.

    Attributes
    ----------
    kind
        "con", "affine", "relu", "max_pool", "avg_pool", "add_prev" or "fc".
    weight
        con: (filters, channels, rows, columns); affine: (channels,) gains; fc: (inputs, outputs).
    bias
        con, affine: (channels,).
    window, stride, padding
        con and pools, pixels; a window of 0 is the whole map.
    """

    kind: str
    weight: np.ndarray | None = None
    bias: np.ndarray | None = None
    window: int = 0
    stride: int = 1
    padding: int = 0


@dataclass(frozen=True)
class DlibResNetWeights:
    """The whole network.

    Attributes
    ----------
    mean_rgb
        Taken from each channel, in 0 to 255, before dividing by 256.
    side_px
        Of the square picture that goes in.
    layers
        From the image to the descriptor.
    """

    mean_rgb: tuple[float, float, float]
    side_px: int
    layers: tuple[LayerWeights, ...]


def read_dlib_resnet_weights(path: Path) -> DlibResNetWeights:
    """Read the network.

    Raises
    ------
    DataError
        The file is damaged, or holds another network; the message says where.
    """
    reader = DlibReader(path.read_bytes(), path.name)
    reader.expect_version(1)  # add_loss_layer
    reader.expect_text("loss_metric_2")
    reader.real(), reader.real()  # margin and threshold of the metric loss
    n_layers = _read_versions(reader)
    reader.expect_text("input_rgb_image_sized")
    mean_rgb = reader.real(), reader.real(), reader.real()
    rows, columns = reader.integer(), reader.integer()
    if rows != columns:
        raise reader.fail(f"an input of {rows} x {columns} pixels")
    layers = []
    for index in range(n_layers):
        layers.append(_read_layer(reader))
        skip_layer_state(reader, innermost=index == 0)
    if reader.remaining:
        raise reader.fail(f"{reader.remaining} bytes more than the network has")
    return DlibResNetWeights(mean_rgb, rows, tuple(layers))


def _read_versions(reader: DlibReader) -> int:
    """Read the versions of all layers, which come first; return how many hold content.

    Tags and skips write version 1 and nothing else; layers 2, the innermost 3.
    """
    n_layers = 0
    for _ in range(_MAX_VERSIONS):
        version = reader.expect_version(1, 2, 3)
        n_layers += version > 1
        if version == 3:
            return n_layers
    raise reader.fail(f"more than {_MAX_VERSIONS} layers")


def _read_layer(reader: DlibReader) -> LayerWeights:
    kind = reader.expect_text("con_4", "affine_", "relu_", "max_pool_2", "avg_pool_2", "add_prev_", "fc_2")
    if kind == "con_4":
        return _read_convolution(reader)
    if kind == "affine_":
        values = reader.tensor().ravel()
        n_gains, n_biases = math.prod(reader.alias()), math.prod(reader.alias())
        reader.integer()  # of a convolution, not of a fully connected layer
        if n_gains != n_biases or values.size != 2 * n_gains:
            raise reader.fail(f"an affine layer of {values.size} values for {n_gains} channels")
        return LayerWeights("affine", values[:n_gains], values[n_gains:])
    if kind in ("max_pool_2", "avg_pool_2"):
        window, window_x, stride, stride_x, padding, padding_x = (reader.integer() for _ in range(6))
        if (window, stride, padding) != (window_x, stride_x, padding_x):
            raise reader.fail(f"a pool of {window} x {window_x} pixels")
        return LayerWeights(kind.removesuffix("_2"), window=window, stride=stride, padding=padding)
    if kind == "fc_2":
        return _read_fully_connected(reader)
    return LayerWeights(kind.removesuffix("_"))


def _read_convolution(reader: DlibReader) -> LayerWeights:
    values = reader.tensor().ravel()
    filters, rows, columns, stride, stride_x, padding, padding_x = (reader.integer() for _ in range(7))
    shape, bias_shape = reader.alias(), reader.alias()
    for _ in ("learning rate", "weight decay", "bias learning rate", "bias weight decay"):
        reader.real()
    n_weights = math.prod(shape)
    square = rows == columns and stride == stride_x >= 1 and padding == padding_x
    if not square or shape[0] != filters or bias_shape[1] != filters or values.size != n_weights + filters:
        raise reader.fail(f"a convolution of shape {shape} with {values.size} values")
    return LayerWeights("con", values[:n_weights].reshape(shape), values[n_weights:], rows, stride, padding)


def _read_fully_connected(reader: DlibReader) -> LayerWeights:
    n_outputs, n_inputs = reader.integer(), reader.integer()
    values = reader.tensor().ravel()
    reader.alias(), reader.alias()  # weights; biases, of which there are none
    reader.integer()  # whether there are biases
    for _ in ("learning rate", "weight decay", "bias learning rate", "bias weight decay"):
        reader.real()
    if values.size != n_outputs * n_inputs:
        raise reader.fail(f"{values.size} weights from {n_inputs} to {n_outputs} units, and no biases")
    return LayerWeights("fc", values.reshape(n_inputs, n_outputs))
