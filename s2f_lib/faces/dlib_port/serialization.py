"""Read a face detection network from dlib's own file format, without dlib.

dlib writes an object as its parts, one after the other, with nothing between
them: integers as a control byte and up to eight bytes, floating point numbers
as mantissa and exponent, texts with their length, tensors as four sizes and
little-endian float32 (dlib/serialize.h, dlib/float_details.h,
dlib/cuda/tensor.h of dlib 20).  A network is written from the loss inwards, so
the layers' versions come first, then the input layer, then the layers'
contents from the input outwards (dlib/dnn/core.h).

Only data is read: nothing in the file can make this module run code, and every
length is checked against what is left of the file.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from s2f_lib.errors import DataError

_NOT_FINITE = {32000: math.inf, 32001: -math.inf, 32002: math.nan}  # float_details.h
_MAX_LAYERS = 1000  # far beyond any real network: stops a damaged file early


@dataclass(frozen=True)
class ConvolutionWeights:
    """One convolution, with dlib's batch normalisation folded into it.

    Attributes
    ----------
    weight
        (filters, channels, rows, columns) float32.
    bias
        (filters,) float32.
    stride, padding
        In pixels, the same for rows and columns.
    relu
        Whether a rectifier follows.
    """

    weight: np.ndarray
    bias: np.ndarray
    stride: int
    padding: int
    relu: bool


@dataclass(frozen=True)
class MmodWeights:
    """All that `mmod_human_face_detector.dat` holds and that detection needs.

    Attributes
    ----------
    window_width_px, window_height_px
        Size of the sliding window, in pixels of the image pyramid.
    nms_iou, nms_covered
        A detection is dropped where it overlaps a better one by more than this
        intersection over union, or covers more than this share of either.
    mean_rgb
        Taken from each channel of the image, in 0 to 255, before dividing by 256.
    pyramid_padding_px, pyramid_outer_padding_px
        Between the tiles of the pyramid, and around them.
    layers
        From the image to the map of scores.
    """

    window_width_px: int
    window_height_px: int
    nms_iou: float
    nms_covered: float
    mean_rgb: tuple[float, float, float]
    pyramid_padding_px: int
    pyramid_outer_padding_px: int
    layers: tuple[ConvolutionWeights, ...]


class DlibReader:
    """The primitives of dlib's format, read one after the other.

    Parameters
    ----------
    data
        The whole file.
    name
        What to call it in errors.
    """

    def __init__(self, data: bytes, name: str) -> None:
        self._data = data
        self._name = name
        self._at = 0

    @property
    def remaining(self) -> int:
        """Bytes that were not read yet."""
        return len(self._data) - self._at

    def fail(self, what: str) -> DataError:
        """Return the error for something unexpected at the present place."""
        return DataError(
            f"{self._name}: {what} near byte {self._at}; expected a dlib network file as "
            "`face_recognition_models` ships it; install that distribution again"
        )

    def take(self, count: int) -> bytes:
        """Return the next `count` bytes."""
        if count > self.remaining:
            raise self.fail(f"the file ends early ({count} bytes wanted, {self.remaining} left)")
        self._at += count
        return self._data[self._at - count : self._at]

    def integer(self) -> int:
        """Return an integer: control byte (sign, size), then little-endian bytes."""
        control = self.take(1)[0]
        size = control & 0x0F
        if not 1 <= size <= 8 or control & 0x70:
            raise self.fail(f"no integer (control byte {control:#04x})")
        value = int.from_bytes(self.take(size), "little")
        return -value if control & 0x80 else value

    def real(self) -> float:
        """Return a floating point number: mantissa, then exponent."""
        mantissa = self.integer()
        exponent = self.integer()
        if exponent in _NOT_FINITE:
            return _NOT_FINITE[exponent]
        if abs(exponent) > 5000:
            raise self.fail(f"no floating point number (exponent {exponent})")
        return math.ldexp(mantissa, exponent)

    def flag(self) -> bool:
        """Return a truth value: the character 1 or 0."""
        character = self.take(1)
        if character not in (b"0", b"1"):
            raise self.fail(f"no truth value ({character!r})")
        return character == b"1"

    def text(self) -> str:
        """Return a text."""
        size = self.integer()
        if not 0 <= size <= 200:
            raise self.fail(f"no layer name (length {size})")
        return self.take(size).decode("latin-1")

    def expect_text(self, *known: str) -> str:
        """Return a text that has to be one of those known."""
        found = self.text()
        if found not in known:
            raise self.fail(f"layer {found!r}, expected {' or '.join(known)}")
        return found

    def expect_version(self, *known: int) -> int:
        """Return a version number that has to be one of those known."""
        found = self.integer()
        if found not in known:
            raise self.fail(f"version {found}, expected {' or '.join(map(str, known))}")
        return found

    def tensor(self) -> np.ndarray:
        """Return a tensor, (samples, channels, rows, columns) float32."""
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


def read_mmod_weights(path: Path) -> MmodWeights:
    """Read a detector whose network is convolutions, batch normalisations and rectifiers.

    Parameters
    ----------
    path
        `mmod_human_face_detector.dat`.

    Raises
    ------
    DataError
        The file is damaged, or holds another network; the message says where.
    """
    reader = DlibReader(path.read_bytes(), path.name)
    reader.expect_version(1)  # add_loss_layer
    window, nms = _read_options(reader)
    # add_layer writes its version, then the layers below it, then itself
    depth = 0
    while reader.expect_version(2, 3) == 2:
        depth += 1
        if depth > _MAX_LAYERS:
            raise reader.fail(f"more than {_MAX_LAYERS} layers")
    mean_rgb, padding, outer_padding = _read_input(reader)
    layers = _read_layers(reader, depth + 1)
    return MmodWeights(
        window_width_px=window[0],
        window_height_px=window[1],
        nms_iou=nms[0],
        nms_covered=nms[1],
        mean_rgb=mean_rgb,
        pyramid_padding_px=padding,
        pyramid_outer_padding_px=outer_padding,
        layers=layers,
    )


def _read_options(reader: DlibReader) -> tuple[tuple[int, int], tuple[float, float]]:
    """Read loss_mmod_ and its options (dlib/dnn/loss.h); return the window's size and the overlaps."""
    reader.expect_text("loss_mmod_")
    # later versions hold several windows and box regression, which this network does not use
    reader.expect_version(1)
    window = reader.integer(), reader.integer()
    for _ in ("loss per false alarm", "loss per missed target", "truth match threshold"):
        reader.real()
    nms = reader.real(), reader.real()
    for _ in ("overlap to ignore", "share to ignore"):
        reader.real()
    if min(window) < 1 or not (0 <= nms[0] <= 1 and 0 <= nms[1] <= 1):
        raise reader.fail(f"a window of {window} pixels and overlaps of {nms}")
    return window, nms


def _read_input(reader: DlibReader) -> tuple[tuple[float, float, float], int, int]:
    """Read the input layer (dlib/dnn/input.h); return the mean colour and the paddings."""
    name = reader.expect_text("input_rgb_image_pyramid", "input_rgb_image_pyramid2")
    mean_rgb = reader.real(), reader.real(), reader.real()
    if name == "input_rgb_image_pyramid2":
        return mean_rgb, reader.integer(), reader.integer()
    return mean_rgb, 10, 11  # what the first form means


def _read_layers(reader: DlibReader, count: int) -> tuple[ConvolutionWeights, ...]:
    """Read the layers from the input outwards; fold what follows a convolution into it."""
    layers: list[ConvolutionWeights] = []
    channels = 3
    for index in range(count):
        kind = reader.expect_text("con_4", "bn_con2", "relu_")
        if kind == "con_4":
            layers.append(_read_convolution(reader, channels))
            channels = len(layers[-1].bias)
        elif not layers:
            raise reader.fail(f"layer {kind!r} before any convolution")
        elif kind == "bn_con2":
            layers[-1] = _fold_normalisation(reader, layers[-1])
        else:
            layers[-1] = replace(layers[-1], relu=True)
        skip_layer_state(reader, innermost=index == 0)
    if reader.remaining:
        raise reader.fail(f"{reader.remaining} bytes more than the network has")
    return tuple(layers)


def _read_convolution(reader: DlibReader, channels: int) -> ConvolutionWeights:
    """Read the body of con_ (dlib/dnn/layers.h): filters and biases lie in one vector."""
    values = reader.tensor().ravel()
    filters, rows, columns, stride, stride_x, padding, padding_x = (reader.integer() for _ in range(7))
    shape = reader.alias()
    bias_shape = reader.alias()
    for _ in ("learning rate", "weight decay", "bias learning rate", "bias weight decay"):
        reader.real()
    n_weights = math.prod(shape)
    fits = (
        shape == (filters, channels, rows, columns)
        and bias_shape == (1, filters, 1, 1)
        and values.size == n_weights + filters
        and stride == stride_x >= 1
        and rows == columns
        and padding == padding_x
    )
    if not fits:
        raise reader.fail(f"a convolution of shape {shape} that does not fit its {channels} input channels")
    return ConvolutionWeights(
        weight=values[:n_weights].reshape(shape),
        bias=values[n_weights:],
        stride=stride,
        padding=padding,
        relu=False,
    )


def _fold_normalisation(reader: DlibReader, layer: ConvolutionWeights) -> ConvolutionWeights:
    """Read the body of bn_ and fold it into the convolution before it, as dlib's affine_ does."""
    values = reader.tensor().ravel()
    reader.alias(), reader.alias()  # where gamma and beta lie: one after the other
    reader.tensor(), reader.tensor()  # mean and deviation of the last training batch
    mean, variance = reader.tensor().ravel(), reader.tensor().ravel()
    reader.integer(), reader.integer()  # number of updates, window of the running statistics
    for _ in ("learning rate", "weight decay", "bias learning rate", "bias weight decay"):
        reader.real()
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


def skip_layer_state(reader: DlibReader, *, innermost: bool) -> None:
    """Skip what add_layer keeps beside its layer: three flags and three tensors."""
    for _ in ("set up", "gradient is stale", "getters are off"):
        reader.flag()
    for _ in ("gradient", "cached output", "gradient of the parameters"):
        reader.tensor()
    if innermost:
        reader.integer()  # sample expansion factor
