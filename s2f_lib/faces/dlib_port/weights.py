"""Reader of dlib's network files, without dlib.

dlib writes an object as its parts, one after the other, without separators: integers as a control byte and
up to eight bytes, floating point numbers as mantissa and exponent, texts with their length, tensors as four
sizes and little-endian float32 (dlib/serialize.h, dlib/float_details.h, dlib/cuda/tensor.h of dlib 20). A
network is written from the loss inwards: first the versions of the layers, then the input layer, then the
contents of the layers from the input outwards (dlib/dnn/core.h).

Two networks are read: the face detector (`mmod_human_face_detector.dat`) and the face network
(`dlib_face_recognition_resnet_model_v1.dat`). No code in a file is run, and every length is checked against
the rest of the file.
"""

from __future__ import annotations

import importlib.util
import math
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from s2f_lib.errors import DataError, MissingFileError

_NOT_FINITE = {32000: math.inf, 32001: -math.inf, 32002: math.nan}  # float_details.h
_MAX_LAYERS = 1000  # larger than any real network, so that a damaged file is refused early


def _empty() -> np.ndarray:
    return np.zeros(0, np.float32)


@dataclass(frozen=True)
class LayerWeights:
    """One layer of a network.

    `weight` is `(filters, channels, rows, columns)` for con, `(channels,)` gains for affine, and
    `(inputs, outputs)` for fc; `bias` is `(filters,)` or `(channels,)`. Both are float32, and empty for the
    other kinds.
    """

    kind: str  # "con", "affine", "relu", "max_pool", "avg_pool", "add_prev" or "fc"
    weight: np.ndarray = field(default_factory=_empty)
    bias: np.ndarray = field(default_factory=_empty)
    window: int = 0  # window of con and pools in pixels; 0: the whole map
    stride: int = 1
    padding: int = 0
    relu: bool = False  # whether a rectifier follows; the detector's convolutions only


@dataclass(frozen=True)
class MmodWeights:
    """Contents of `mmod_human_face_detector.dat` that detection needs."""

    window_width_px: int  # sliding window, in pixels of the image pyramid
    window_height_px: int
    nms_iou: float  # limits of non-maximum suppression; see `suppress_overlaps`
    nms_covered: float
    mean_rgb: tuple[float, float, float]  # from 0 to 255; it is subtracted before the division by 256
    pyramid_padding_px: int  # empty pixels between the tiles of the pyramid
    pyramid_outer_padding_px: int  # empty pixels around all tiles
    layers: tuple[LayerWeights, ...]  # from the image to the score map, with batch normalisation folded in


@dataclass(frozen=True)
class DlibResNetWeights:
    """Contents of `dlib_face_recognition_resnet_model_v1.dat`."""

    mean_rgb: tuple[float, float, float]  # from 0 to 255; it is subtracted before the division by 256
    side_px: int  # side of the square input image
    layers: tuple[LayerWeights, ...]  # from the image to the feature; a residual block ends with "add_prev"


def dlib_weights(file_name: str) -> Path:
    """Return a file of the installed distribution `face_recognition_models`.

    The package itself is not imported: its `__init__` needs `pkg_resources`, which new versions of setuptools
    do not contain.
    """
    spec = importlib.util.find_spec("face_recognition_models")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        path = Path(folder) / "models" / file_name
        if path.is_file():
            return path
    raise MissingFileError(
        f"{file_name} not found: it comes with the distribution face_recognition_models; "
        "install it with `pip install face_recognition_models`"
    )


class DlibReader:
    """Reader of the elements of dlib's format, one after the other; errors state the file's `name`."""

    def __init__(self, data: bytes, name: str) -> None:
        self._data = data
        self._name = name
        self._position = 0

    @property
    def remaining(self) -> int:
        """Number of bytes that are not read yet."""
        return len(self._data) - self._position

    def fail(self, what: str) -> DataError:
        """Return the error for an unexpected element at the present position."""
        return DataError(
            f"{self._name}: {what} near byte {self._position}; expected a dlib network file as "
            "`face_recognition_models` ships it; install that distribution again"
        )

    def take(self, count: int) -> bytes:
        """Return the next `count` bytes."""
        if count > self.remaining:
            raise self.fail(f"the file ends early ({count} bytes expected, {self.remaining} left)")
        self._position += count
        return self._data[self._position - count : self._position]

    def integer(self) -> int:
        """Return an integer: a control byte (sign, size), then little-endian bytes."""
        control = self.take(1)[0]
        size = control & 0x0F
        if not 1 <= size <= 8 or control & 0x70:
            raise self.fail(f"invalid integer (control byte {control:#04x})")
        value = int.from_bytes(self.take(size), "little")
        return -value if control & 0x80 else value

    def real(self) -> float:
        """Return a floating point number: mantissa, then exponent."""
        mantissa = self.integer()
        exponent = self.integer()
        if exponent in _NOT_FINITE:
            return _NOT_FINITE[exponent]
        if abs(exponent) > 5000:
            raise self.fail(f"invalid floating point number (exponent {exponent})")
        return math.ldexp(mantissa, exponent)

    def skip_reals(self, count: int) -> None:
        """Skip floating point numbers."""
        for _ in range(count):
            self.real()

    def flag(self) -> bool:
        """Return a truth value: the character 1 or 0."""
        character = self.take(1)
        if character not in (b"0", b"1"):
            raise self.fail(f"invalid truth value ({character!r})")
        return character == b"1"

    def text(self) -> str:
        """Return a text."""
        size = self.integer()
        if not 0 <= size <= 200:
            raise self.fail(f"invalid layer name (length {size})")
        return self.take(size).decode("latin-1")

    def expect_text(self, *known: str) -> str:
        """Return a text that must be one of the known ones."""
        found = self.text()
        if found not in known:
            raise self.fail(f"layer {found!r}, expected {' or '.join(known)}")
        return found

    def expect_version(self, *known: int) -> int:
        """Return a version number that must be one of the known ones."""
        found = self.integer()
        if found not in known:
            raise self.fail(f"version {found}, expected {' or '.join(map(str, known))}")
        return found

    def tensor(self) -> np.ndarray:
        """Return a tensor, `(samples, channels, rows, columns)` float32."""
        self.expect_version(2)
        shape = tuple(self.integer() for _ in range(4))
        if min(shape) < 0:
            raise self.fail(f"a tensor of shape {shape}")
        count = math.prod(shape)
        return np.frombuffer(self.take(4 * count), dtype="<f4").reshape(shape)

    def alias(self) -> tuple[int, int, int, int]:
        """Return the shape of a part of a parameter vector (dlib's alias_tensor)."""
        self.expect_version(1)
        return self.integer(), self.integer(), self.integer(), self.integer()

    def end(self) -> None:
        """Check that the file ends here."""
        if self.remaining:
            raise self.fail(f"{self.remaining} bytes more than the network has")


def read_mmod_weights(path: Path) -> MmodWeights:
    """Read a detector that consists of convolutions, batch normalisations and rectifiers."""
    reader = DlibReader(path.read_bytes(), path.name)
    reader.expect_version(1)  # add_loss_layer
    # loss_mmod_ and its options (dlib/dnn/loss.h); versions above 1 have several windows and box regression
    reader.expect_text("loss_mmod_")
    reader.expect_version(1)
    window = reader.integer(), reader.integer()
    reader.skip_reals(3)  # loss per false alarm, loss per missed target, truth match threshold
    nms = reader.real(), reader.real()
    reader.skip_reals(2)  # overlap to ignore, share to ignore
    if min(window) < 1 or not (0 <= nms[0] <= 1 and 0 <= nms[1] <= 1):
        raise reader.fail(f"a window of {window} pixels and overlaps of {nms}")
    n_layers = _read_versions(reader, 2, 3)
    input_layer = reader.expect_text("input_rgb_image_pyramid", "input_rgb_image_pyramid2")
    mean_rgb = reader.real(), reader.real(), reader.real()
    padding, outer_padding = 10, 11  # dlib's constants for files of the first kind (dlib/dnn/input.h)
    if input_layer == "input_rgb_image_pyramid2":
        padding, outer_padding = reader.integer(), reader.integer()
    layers: list[LayerWeights] = []
    for index in range(n_layers):
        kind = reader.expect_text("con_4", "bn_con2", "relu_")
        if kind == "con_4":
            layers.append(_read_convolution(reader, channels=len(layers[-1].bias) if layers else 3))
        elif not layers:
            raise reader.fail(f"layer {kind!r} before any convolution")
        elif kind == "bn_con2":
            layers[-1] = _fold_normalisation(reader, layers[-1])
        else:
            layers[-1] = replace(layers[-1], relu=True)
        _skip_layer_state(reader, innermost=index == 0)
    reader.end()
    return MmodWeights(*window, *nms, mean_rgb, padding, outer_padding, tuple(layers))


def read_dlib_resnet_weights(path: Path) -> DlibResNetWeights:
    """Read dlib's face network: a residual network (He et al. 2016) of 29 convolutions."""
    reader = DlibReader(path.read_bytes(), path.name)
    reader.expect_version(1)  # add_loss_layer
    reader.expect_text("loss_metric_2")
    reader.skip_reals(2)  # margin and threshold of the metric loss
    n_layers = _read_versions(reader, 1, 2, 3)
    reader.expect_text("input_rgb_image_sized")
    mean_rgb = reader.real(), reader.real(), reader.real()
    rows, columns = reader.integer(), reader.integer()
    if rows != columns:
        raise reader.fail(f"an input of {rows} x {columns} pixels")
    layers = []
    for index in range(n_layers):
        layers.append(_read_layer(reader))
        _skip_layer_state(reader, innermost=index == 0)
    reader.end()
    return DlibResNetWeights(mean_rgb, rows, tuple(layers))


def _read_versions(reader: DlibReader, *known: int) -> int:
    """Read the versions of all layers and return the number of layers that have content.

    Tags and skips have version 1 and no content. The innermost layer has version 3, the others version 2.
    """
    n_layers = 0
    for _ in range(_MAX_LAYERS):
        version = reader.expect_version(*known)
        n_layers += version > 1
        if version == 3:
            return n_layers
    raise reader.fail(f"more than {_MAX_LAYERS} layers")


def _read_layer(reader: DlibReader) -> LayerWeights:
    """Read one layer of the face network (dlib/dnn/layers.h)."""
    kind = reader.expect_text("con_4", "affine_", "relu_", "max_pool_2", "avg_pool_2", "add_prev_", "fc_2")
    if kind == "con_4":
        return _read_convolution(reader)
    if kind == "affine_":
        values = reader.tensor().ravel()
        n_gains, n_biases = math.prod(reader.alias()), math.prod(reader.alias())
        reader.integer()  # whether it follows a convolution or a fully connected layer
        if n_gains != n_biases or values.size != 2 * n_gains:
            raise reader.fail(f"an affine layer of {values.size} values for {n_gains} channels")
        return LayerWeights("affine", values[:n_gains], values[n_gains:])
    if kind in ("max_pool_2", "avg_pool_2"):
        window, window_x, stride, stride_x, padding, padding_x = (reader.integer() for _ in range(6))
        if (window, stride, padding) != (window_x, stride_x, padding_x):
            raise reader.fail(f"a pool of {window} x {window_x} pixels")
        return LayerWeights(kind.removesuffix("_2"), window=window, stride=stride, padding=padding)
    if kind == "fc_2":
        n_outputs, n_inputs = reader.integer(), reader.integer()
        values = reader.tensor().ravel()
        reader.alias(), reader.alias()  # weights and biases; this network has no biases
        reader.integer()  # whether there are biases
        reader.skip_reals(4)  # learning rates and weight decays
        if values.size != n_outputs * n_inputs:
            raise reader.fail(f"{values.size} weights from {n_inputs} to {n_outputs} units without biases")
        return LayerWeights("fc", values.reshape(n_inputs, n_outputs))
    return LayerWeights(kind.removesuffix("_"))


def _read_convolution(reader: DlibReader, channels: int | None = None) -> LayerWeights:
    """Read the body of con_ (dlib/dnn/layers.h): filters and biases lie in one vector."""
    values = reader.tensor().ravel()
    filters, rows, columns, stride, stride_x, padding, padding_x = (reader.integer() for _ in range(7))
    shape, bias_shape = reader.alias(), reader.alias()
    reader.skip_reals(4)  # learning rates and weight decays
    n_weights = math.prod(shape)
    fits = (
        shape == (filters, shape[1] if channels is None else channels, rows, columns)
        and bias_shape == (1, filters, 1, 1)
        and values.size == n_weights + filters
        and stride == stride_x >= 1
        and rows == columns
        and padding == padding_x
    )
    if not fits:
        raise reader.fail(f"a convolution of shape {shape} with {values.size} values, which do not fit")
    return LayerWeights("con", values[:n_weights].reshape(shape), values[n_weights:], rows, stride, padding)


def _fold_normalisation(reader: DlibReader, layer: LayerWeights) -> LayerWeights:
    """Read the body of bn_ and fold it into the convolution before it, as dlib's affine_ does."""
    values = reader.tensor().ravel()
    reader.alias(), reader.alias()  # gamma and beta, which lie one after the other in `values`
    reader.tensor(), reader.tensor()  # mean and deviation of the last training batch
    mean, variance = reader.tensor().ravel(), reader.tensor().ravel()
    reader.integer(), reader.integer()  # number of updates, window of the running statistics
    reader.skip_reals(4)  # learning rates and weight decays
    eps = reader.real()
    filters = len(layer.bias)
    if layer.relu or values.size != 2 * filters or mean.size != filters or variance.size != filters:
        raise reader.fail(f"a normalisation that does not fit the {filters} filters before it")
    gamma, beta = values[:filters].astype(np.float64), values[filters:]
    gain = gamma / np.sqrt(variance + eps)
    return replace(
        layer,
        weight=(layer.weight * gain[:, None, None, None]).astype(np.float32),
        bias=((layer.bias - mean) * gain + beta).astype(np.float32),
    )


def _skip_layer_state(reader: DlibReader, *, innermost: bool) -> None:
    """Skip what add_layer writes after its layer: three flags and three tensors."""
    for _ in ("set up", "gradient is stale", "getters are off"):
        reader.flag()
    for _ in ("gradient", "cached output", "gradient of the parameters"):
        reader.tensor()
    if innermost:
        reader.integer()  # sample expansion factor
