"""Readers of the three public files of VGG-Face: one network, in torch's order of tensors.

| format | file | author | channels | order of the last map in fc6 |
|---|---|---|---|---|
| pytorch | `vgg_face_dag.pth` | Samuel Albanie, from MatConvNet's file | RGB | channels, rows, columns |
| torch7 | `VGG_FACE.t7` | Omkar Parkhi, one of the authors | BGR | channels, rows, columns |
| keras | `vgg_face_weights.h5` | DeepFace, from MatConvNet's file | RGB | rows, columns, channels |

The mean colour is the same for all: (129.1863, 104.7624, 93.5940) for red, green and blue. The authors'
Matlab demos subtract it before any reordering. (Copies of their torch7 demo swap the channels first and then
subtract the numbers in the old order, which subtracts the mean of red from blue; this is not followed here.)
DeepFace feeds BGR images to its file, as to all of its networks; but the public scripts that made such files
copy MatConvNet's weights without a permutation, and those expect RGB. `channel_order` of `import_vgg_face`
overrides the order of a format.

No code in a file is run: torch reads with `weights_only=True`, `torch7` skips functions, and only plain
datasets inside an HDF5 file are read.
"""

from __future__ import annotations

import pickle
import re
import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from s2f_lib.errors import DataError, InputError
from s2f_lib.faces.vgg_face.network import CANONICAL_NAMES, LAYERS, ChannelOrder, Tensors, VggShape
from s2f_lib.faces.vgg_face.torch7 import TorchObject, looks_like_torch7, read_torch7

_PASSIVE_MODULES = {  # torch7 modules without weights or without effect in evaluation
    "ReLU",
    "Threshold",
    "SpatialMaxPooling",
    "View",
    "Reshape",
    "Dropout",
    "SoftMax",
    "LogSoftMax",
    "Identity",
}
_CONVOLUTIONS = {"SpatialConvolution", "SpatialConvolutionMM"}


@dataclass(frozen=True)
class WeightsFormat:
    """One public format of the weights."""

    name: str  # "pytorch", "torch7" or "keras"
    channel_order: ChannelOrder  # order that the first convolution expects
    read: Callable[[Path, VggShape], Tensors]


def detect_format(path: Path) -> WeightsFormat:
    """Return the format of a file by its content; the name of the file does not matter."""
    with path.open("rb") as file:
        head = file.read(16)
    if head.startswith(b"\x89HDF\r\n\x1a\n"):
        return KERAS
    # a zip archive, or a pickle of protocol 2 or later: the new and the old format of torch.save
    if head.startswith(b"PK\x03\x04") or re.match(rb"\x80[\x02-\x05]", head):
        return PYTORCH
    if looks_like_torch7(head):
        return TORCH7
    raise InputError(
        f"{path} is not a public file of VGG-Face ({_guess(head)}); expected vgg_face_dag.pth "
        "(PyTorch), VGG_FACE.t7 (torch7, binary) or vgg_face_weights.h5 (Keras)"
    )


def to_canonical(
    tensors: Tensors, *, channel_order: ChannelOrder, shape: VggShape, name: str
) -> dict[str, np.ndarray]:
    """Return torchvision's VGG16 state, float32 and for RGB images, after a check of shapes and values.

    `channel_order` is that of the given tensors; errors state the file's `name`.
    """
    state = {}
    for layer, wanted in shape.weights().items():
        weight, bias = tensors[layer]
        _expect_shape(name, layer, weight.shape, wanted)
        _expect_shape(name, f"{layer}'s bias", bias.shape, wanted[:1])
        if layer == "conv1_1" and channel_order == "bgr":
            weight = weight[:, ::-1]
        for part, values in (("weight", weight), ("bias", bias)):
            values = np.ascontiguousarray(values, dtype=np.float32)
            if not np.isfinite(values).all():
                raise DataError(f"{name}: the {part} of {layer} holds numbers that are not finite")
            state[f"{CANONICAL_NAMES[layer]}.{part}"] = values
    return state


def _read_pytorch(path: Path, shape: VggShape) -> Tensors:
    """Read a state dict of `conv1_1.weight`, ..., `fc8.bias`."""
    import torch

    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        reason = str(error).splitlines()[0][:200]
        raise DataError(
            f"{path.name} holds more than tensors. It was not loaded, and nothing in it was run ({reason}); "
            "get vgg_face_dag.pth from its authors' page"
        ) from None
    except Exception as error:  # torch.load raises many kinds of errors
        reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise DataError(f"{path.name} is not a complete PyTorch file ({reason}); download it again") from None
    if isinstance(state, Mapping) and isinstance(state.get("state_dict"), Mapping):
        state = state["state_dict"]
    if not isinstance(state, Mapping):
        raise DataError(f"{path.name} holds a {type(state).__name__}; expected a state dict of VGG-Face")
    for key, value in state.items():
        if not isinstance(value, torch.Tensor) or not value.is_floating_point():
            raise DataError(f"{path.name}: {key!r} is not a tensor of floating point numbers")
    expected = {f"{layer}.{part}" for layer in LAYERS for part in ("weight", "bias")}
    _expect_names(path.name, {str(key) for key in state}, expected)
    return {
        layer: (state[f"{layer}.weight"].float().numpy(), state[f"{layer}.bias"].float().numpy())
        for layer in LAYERS
    }


def _read_torch7(path: Path, shape: VggShape) -> Tensors:
    """Read an `nn.Sequential`. Its layers have no names: they are identified by their order."""
    modules = list(_weighted_modules(read_torch7(path), path.name))
    _expect_count(path.name, len(modules))
    tensors: Tensors = {}
    for (layer, wanted), module in zip(shape.weights().items(), modules, strict=True):
        kind = module.class_name.rpartition(".")[2]
        if (kind in _CONVOLUTIONS) != layer.startswith("conv"):
            raise DataError(
                f"{path.name}: {layer} is a {module.class_name}; expected VGG16's layers in order"
            )
        weight, bias = module.fields.get("weight"), module.fields.get("bias")
        if not isinstance(weight, np.ndarray) or not isinstance(bias, np.ndarray):
            raise DataError(f"{path.name}: {layer} lacks its weight or bias")
        # SpatialConvolutionMM stores its filters as rows: (out, in * rows * columns)
        if weight.ndim == 2 and layer.startswith("conv"):
            _expect_shape(path.name, layer, weight.shape, (wanted[0], int(np.prod(wanted[1:]))))
            weight = weight.reshape(wanted)
        tensors[layer] = weight, bias
    return tensors


def _weighted_modules(value: object, name: str) -> Iterator[TorchObject]:
    """Yield the modules with weights, in order, from nested containers."""
    if not isinstance(value, TorchObject):
        raise DataError(f"{name} holds a {type(value).__name__}; expected a torch7 nn.Sequential")
    kind = value.class_name.rpartition(".")[2]
    if kind == "Sequential":
        modules = value.fields.get("modules")
        if not isinstance(modules, dict):
            raise DataError(f"{name}: an nn.Sequential without modules")
        for key in sorted(key for key in modules if isinstance(key, float)):
            yield from _weighted_modules(modules[key], name)
    elif kind in _CONVOLUTIONS or kind == "Linear":
        yield value
    elif kind not in _PASSIVE_MODULES:
        raise DataError(f"{name}: a module of class {value.class_name}, which VGG-Face does not have")


def _read_keras(path: Path, shape: VggShape) -> Tensors:
    """Read HDF5 weights: kernels are (rows, columns, in, out), fully connected layers may be convolutions."""
    import h5py

    try:
        with h5py.File(path, "r") as file:
            layers = _keras_layers(file, path.name)
            return {
                layer: _from_keras(path.name, layer, *layers[layer], shape=shape) for layer in shape.weights()
            }
    except (OSError, RuntimeError, KeyError) as error:
        raise DataError(f"{path.name} is not a complete HDF5 file ({error}); download it again") from None


def _keras_layers(file: Any, name: str) -> dict[str, tuple[Any, Any]]:
    """Return kernel and bias dataset of each of VGG16's layers, without their contents."""
    import h5py

    root = file["model_weights"] if _is_inside(file, "model_weights") else file
    names = [
        text.decode() if isinstance(text, bytes) else str(text) for text in root.attrs.get("layer_names", [])
    ]
    found: dict[str, tuple[Any, Any]] = {}
    for layer in names or sorted(root, key=_natural_order):
        group = root[layer] if _is_inside(root, layer) else None
        if not isinstance(group, h5py.Group):
            continue
        datasets: list[Any] = []

        def add(_: str, item: object, datasets: list[Any] = datasets) -> None:
            if isinstance(item, h5py.Dataset):
                datasets.append(item)

        group.visititems(add)  # it follows only hard links, never a link to another file
        if not datasets:
            continue
        kernel = [item for item in datasets if item.ndim > 1]
        bias = [item for item in datasets if item.ndim == 1]
        if len(kernel) != 1 or len(bias) != 1 or any(item.external or item.is_virtual for item in datasets):
            raise DataError(
                f"{name}: layer {layer} has {len(datasets)} tensors; expected a kernel and a bias"
            )
        found[layer] = kernel[0], bias[0]
    if set(found) >= set(LAYERS):
        _expect_names(name, set(found), set(LAYERS))
        return found
    _expect_count(name, len(found))
    # layers without VGG16's names (conv2d_1, ...) are identified by their order
    return dict(zip(LAYERS, found.values(), strict=True))


def _from_keras(
    name: str, layer: str, kernel: Any, bias: Any, *, shape: VggShape
) -> tuple[np.ndarray, np.ndarray]:
    """Read one layer and reorder it as torch does."""
    wanted = shape.weights()[layer]
    out = wanted[0]
    shapes: list[tuple[int, ...]]
    if layer.startswith("conv"):
        shapes = [(3, 3, wanted[1], out)]
    else:
        side = shape.map_px if layer == "fc6" else 1
        # a convolution over the whole map, or a dense layer after Keras' Flatten
        shapes = [(side, side, wanted[1] // side**2, out), (wanted[1], out)]
    if kernel.shape not in shapes:
        raise DataError(f"{name}: {layer} has shape {kernel.shape}; expected {' or '.join(map(str, shapes))}")
    values = np.asarray(kernel).reshape(shapes[0])  # Keras flattens rows, columns, channels
    values = values.transpose(3, 2, 0, 1)  # out, in, rows, columns
    return values.reshape(wanted), np.asarray(bias)


def _is_inside(group: Any, key: str) -> bool:
    """Return whether a group holds a member itself, not as a link to another file."""
    import h5py

    return isinstance(group.get(key, getlink=True), h5py.HardLink)


def _natural_order(text: str) -> list[int | str]:
    """Return a sorting key that puts conv2d_2 before conv2d_10."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", text)]


def _expect_shape(name: str, what: str, found: tuple[int, ...], wanted: tuple[int, ...]) -> None:
    if tuple(found) != tuple(wanted):
        raise DataError(f"{name}: {what} has shape {tuple(found)}; expected {tuple(wanted)} as in VGG-Face")


def _expect_count(name: str, found: int) -> None:
    if found != len(LAYERS):
        raise DataError(f"{name} has {found} layers with weights; expected {len(LAYERS)} as in VGG16")


def _expect_names(name: str, found: set[str], wanted: set[str]) -> None:
    for kind, names in (("lacks", wanted - found), ("has the unknown", found - wanted)):
        if names:
            raise DataError(
                f"{name} {kind} {', '.join(sorted(names)[:3])}; expected exactly VGG16's conv1_1 to fc8"
            )


def _guess(head: bytes) -> str:
    if not head:
        return "it is empty"
    if len(head) >= 9 and head[8:9] == b"{" and struct.unpack("<Q", head[:8])[0] < 100_000_000:
        return "it is a safetensors file already: set features.weights to it"
    if head.lstrip()[:1] == b"<":
        return "it is a web page, not the downloaded file"
    if re.match(rb"[34]\r?\n1\r?\n", head):
        return "it is an ASCII torch7 file: save it again in binary"
    return f"it starts with {head[:8]!r}"


PYTORCH = WeightsFormat("pytorch", "rgb", _read_pytorch)
TORCH7 = WeightsFormat("torch7", "bgr", _read_torch7)
KERAS = WeightsFormat("keras", "rgb", _read_keras)
