"""Write one network in the three public formats of VGG-Face, as other programs do."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np

from s2f_lib.faces.vgg_face.network import LAYERS, VggShape

# 1/16 of the width: 4 to 32 filters, a last map of 7x7 as in the full network
NARROW = VggShape(channels=(4, 4, 8, 8, 16, 16, 16, 32, 32, 32, 32, 32, 32), map_px=7, hidden=256, classes=20)

Network = dict[str, tuple[np.ndarray, np.ndarray]]


def random_network(seed: int, shape: VggShape = NARROW) -> Network:
    """Return weights and biases for RGB images, in torch's order, with activations that do not vanish."""
    rng = np.random.default_rng(seed)
    network = {}
    for name, size in shape.weights().items():
        scale = (2 / np.prod(size[1:])) ** 0.5
        network[name] = (
            (scale * rng.standard_normal(size)).astype(np.float32),
            (0.1 * rng.standard_normal(size[0])).astype(np.float32),
        )
    return network


def write_pytorch(path: Path, network: Network, *, legacy: bool = False) -> None:
    """Write a state dict, as pytorch-mcn does."""
    import torch

    state = {}
    for name, (weight, bias) in network.items():
        state[f"{name}.weight"] = torch.tensor(weight)
        state[f"{name}.bias"] = torch.tensor(bias)
    torch.save(state, path, _use_new_zipfile_serialization=not legacy)


def write_keras(
    path: Path, network: Network, *, named: bool, dense: bool = False, shape: VggShape = NARROW
) -> None:
    """Write `save_weights` HDF5: kernels (rows, columns, in, out); fc as convolutions, or as dense layers."""
    import h5py

    with h5py.File(path, "w") as file:
        names = []
        for number, layer in enumerate(LAYERS, start=1):
            weight, bias = network[layer]
            if layer == "fc6":
                weight = weight.reshape(shape.hidden, shape.channels[-1], shape.map_px, shape.map_px)
            elif weight.ndim == 2:
                weight = weight[:, :, None, None]
            kernel = weight.transpose(2, 3, 1, 0)
            if dense and layer.startswith("fc"):
                kernel = kernel.reshape(-1, kernel.shape[-1])
            name = layer if named else f"conv2d_{number}"
            names += [name, f"activation_{number}"]
            group = file.create_group(name)
            group.create_dataset(f"{name}/kernel:0", data=kernel)
            group.create_dataset(f"{name}/bias:0", data=bias)
            file.create_group(f"activation_{number}")
        file.attrs["layer_names"] = [name.encode() for name in names]


class Torch7Writer:
    """The part of torch7's binary format that networks need."""

    def __init__(self) -> None:
        self.out = bytearray()
        self._index = 0

    def integer(self, value: int) -> None:
        self.out += struct.pack("<i", value)

    def text(self, value: str) -> None:
        self.integer(len(value))
        self.out += value.encode()

    def next_index(self) -> None:
        self._index += 1
        self.integer(self._index)

    def value(self, value: object) -> None:
        if value is None:
            self.integer(0)
        elif isinstance(value, bool):
            self.integer(5)
            self.integer(int(value))
        elif isinstance(value, int | float):
            self.integer(1)
            self.out += struct.pack("<d", value)
        elif isinstance(value, str):
            self.integer(2)
            self.text(value)
        elif isinstance(value, dict):
            self.integer(3)
            self.next_index()
            self.integer(len(value))
            for key, item in value.items():
                self.value(key)
                self.value(item)
        elif isinstance(value, np.ndarray):
            self.tensor(value)
        else:
            raise TypeError(type(value))

    def begin(self, class_name: str) -> None:
        self.integer(4)
        self.next_index()
        self.text("V 1")
        self.text(class_name)

    def module(self, class_name: str, fields: dict) -> None:
        self.begin(class_name)
        self.value(fields)

    def tensor(self, values: np.ndarray) -> None:
        kind = {"float32": "Float", "float64": "Double"}[values.dtype.name]
        values = np.ascontiguousarray(values)
        self.begin(f"torch.{kind}Tensor")
        self.integer(values.ndim)
        for size in values.shape:
            self.out += struct.pack("<q", size)
        for stride in values.strides:
            self.out += struct.pack("<q", stride // values.itemsize)
        # the tensor starts at the third number of its storage
        self.out += struct.pack("<q", 3)
        self.begin(f"torch.{kind}Storage")
        self.out += struct.pack("<q", values.size + 2)
        self.out += np.zeros(2, values.dtype).tobytes() + values.tobytes()


def write_torch7(path: Path, network: Network, *, filters_as_rows: bool = False) -> None:
    """Write an `nn.Sequential` whose first convolution expects BGR, as the authors' file does."""
    modules: list[tuple[str, dict]] = []
    for layer in LAYERS:
        weight, bias = network[layer]
        if layer == "conv1_1":
            weight = weight[:, ::-1]
        if layer.startswith("conv"):
            rows = weight.reshape(len(weight), -1) if filters_as_rows else weight
            kind = "nn.SpatialConvolutionMM" if filters_as_rows else "nn.SpatialConvolution"
            modules += [(kind, {"weight": rows, "bias": bias, "padW": 1}), ("nn.ReLU", {"inplace": True})]
            if layer in ("conv1_2", "conv2_2", "conv3_3", "conv4_3", "conv5_3"):
                modules.append(("nn.SpatialMaxPooling", {"kW": 2, "dW": 2, "indices": None}))
            if layer == "conv5_3":
                modules.append(("nn.View", {"numElements": 1.0}))
        else:
            modules.append(("nn.Linear", {"weight": weight, "bias": bias, "_type": "torch.FloatTensor"}))
            modules.append(("nn.Dropout", {"p": 0.5}) if layer != "fc8" else ("nn.SoftMax", {}))

    writer = Torch7Writer()
    writer.begin("nn.Sequential")
    writer.integer(3)  # its fields: a table of one entry
    writer.next_index()
    writer.integer(1)
    writer.value("modules")
    writer.integer(3)
    writer.next_index()
    writer.integer(len(modules))
    for number, (kind, fields) in enumerate(modules, start=1):
        writer.value(number)
        writer.module(kind, fields)
    path.write_bytes(writer.out)
