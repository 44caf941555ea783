"""The three public forms of VGG-Face, read into one: layers by name, tensors in torch's order.

| form | file | made by | channels | fc6 sees the last map as |
|---|---|---|---|---|
| pytorch | `vgg_face_dag.pth` | Samuel Albanie, from MatConvNet's file | RGB | channels, rows, columns |
| torch7 | `VGG_FACE.t7` | Omkar Parkhi, of the authors | BGR | channels, rows, columns |
| keras | `vgg_face_weights.h5` | DeepFace, from MatConvNet's file | RGB | rows, columns, channels |

The mean colour is one and the same, (129.1863, 104.7624, 93.5940) for red, green
and blue: the authors' Matlab demos subtract it before any reordering.  (Copies of
their torch7 demo swap the channels first and then subtract the numbers in the
old order, which takes red's mean from blue; that is not followed here.)  DeepFace
feeds BGR to its file as it does to all of its networks; but the public scripts
that made such files copy MatConvNet's weights unpermuted, and those expect RGB.
Who knows better says so by `channel_order` of `vgg_face_weights.import_vgg_face`.

Nothing in a file is run: torch reads with `weights_only=True`, `.t7` by
`torch7`, and of an HDF5 file only plain datasets inside it are read.
"""

from __future__ import annotations

import pickle
import re
import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from s2f_lib.errors import DataError, InputError
from s2f_lib.faces.vgg_face.keras import read_keras
from s2f_lib.faces.vgg_face.network import (
    LAYERS,
    ChannelOrder,
    Tensors,
    VggShape,
    expect_names,
    expect_shape,
)
from s2f_lib.faces.vgg_face.torch7 import TorchObject, looks_like_torch7, read_torch7

_PASSIVE_MODULES = {  # of torch7: without weights, or not used in evaluation
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
class SourceForm:
    """One public form of the weights.

    Attributes
    ----------
    name
        "pytorch", "torch7" or "keras".
    channel_order
        Of the pictures that the first convolution expects.
    read
        Reads such a file: path and shape in, tensors out.
    """

    name: str
    channel_order: ChannelOrder
    read: Callable[[Path, VggShape], Tensors]


def detect_form(path: Path) -> SourceForm:
    """Return which form a file is, by what it holds: its name is not looked at.

    Raises
    ------
    InputError
        It is none of the three; the message says what it seems to be.
    """
    with path.open("rb") as file:
        head = file.read(16)
    if head.startswith(b"\x89HDF\r\n\x1a\n"):
        return KERAS
    # a zip archive, or a pickle of protocol 2 and later: the new and the old form of torch.save
    if head.startswith(b"PK\x03\x04") or re.match(rb"\x80[\x02-\x05]", head):
        return PYTORCH
    if looks_like_torch7(head):
        return TORCH7
    raise InputError(
        f"{path} is none of the public forms of VGG-Face ({_guess(head)}); expected vgg_face_dag.pth "
        "(PyTorch), VGG_FACE.t7 (torch7, binary) or vgg_face_weights.h5 (Keras)"
    )


def _read_pytorch(path: Path, shape: VggShape) -> Tensors:
    """Read a state dict of `conv1_1.weight`, ..., `fc8.bias`."""
    import torch

    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        reason = str(error).splitlines()[0][:200]
        raise DataError(
            f"{path.name} holds more than tensors, and was not loaded: nothing in it was run ({reason}); "
            "get vgg_face_dag.pth from its authors' page"
        ) from None
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise DataError(f"{path.name} is no whole PyTorch file ({reason}); download it again") from None
    if isinstance(state, Mapping) and isinstance(state.get("state_dict"), Mapping):
        state = state["state_dict"]
    if not isinstance(state, Mapping):
        raise DataError(f"{path.name} holds a {type(state).__name__}; expected a state dict of VGG-Face")
    for key, value in state.items():
        if not isinstance(value, torch.Tensor) or not value.is_floating_point():
            raise DataError(f"{path.name}: {key!r} is no tensor of floating point numbers")
    expected = {f"{layer}.{part}" for layer in LAYERS for part in ("weight", "bias")}
    expect_names(path.name, {str(key) for key in state}, expected)
    return {
        layer: (state[f"{layer}.weight"].float().numpy(), state[f"{layer}.bias"].float().numpy())
        for layer in LAYERS
    }


def _read_torch7(path: Path, shape: VggShape) -> Tensors:
    """Read an `nn.Sequential`, whose layers have no names: their order tells them apart."""
    modules = list(_weighted_modules(read_torch7(path), path.name))
    if len(modules) != len(LAYERS):
        raise DataError(
            f"{path.name} has {len(modules)} layers with weights; expected {len(LAYERS)}, as VGG16"
        )
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
        # SpatialConvolutionMM keeps its filters as rows: (out, in * rows * columns)
        if weight.ndim == 2 and layer.startswith("conv"):
            expect_shape(path.name, layer, weight.shape, (wanted[0], int(np.prod(wanted[1:]))))
            weight = weight.reshape(wanted)
        tensors[layer] = weight, bias
    return tensors


def _weighted_modules(value: object, name: str) -> Iterator[TorchObject]:
    """Walk containers in order; yield the modules that have weights."""
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


def _guess(head: bytes) -> str:
    if not head:
        return "it is empty"
    if len(head) >= 9 and head[8:9] == b"{" and struct.unpack("<Q", head[:8])[0] < 100_000_000:
        return "it is a safetensors file already: give it as features.weights"
    if head.lstrip()[:1] == b"<":
        return "it is a web page, not the download itself"
    if re.match(rb"[34]\r?\n1\r?\n", head):
        return "it is an ASCII torch7 file: save it again in binary"
    return f"it starts with {head[:8]!r}"


PYTORCH = SourceForm("pytorch", "rgb", _read_pytorch)
TORCH7 = SourceForm("torch7", "bgr", _read_torch7)
KERAS = SourceForm("keras", "rgb", read_keras)
