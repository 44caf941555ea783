"""Read VGG-Face from Keras' HDF5 files, of which only plain datasets inside the file are read."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from s2f_lib.errors import DataError, InputError
from s2f_lib.faces.vgg_face.network import LAYERS, Tensors, VggShape, expect_names


def read_keras(path: Path, shape: VggShape) -> Tensors:
    """Read Keras' weights: kernels are (rows, columns, in, out), fully connected layers 1x1 or 7x7 ones.

    Raises
    ------
    InputError
        The package h5py is not installed.
    DataError
        The file is damaged, or holds something else.
    """
    try:
        import h5py
    except ImportError:
        raise InputError(
            f"reading {path.name} needs the package h5py: type `pip install h5py`, or give vgg_face_dag.pth"
        ) from None
    try:
        with h5py.File(path, "r") as file:
            layers = _keras_layers(file, path.name)
            return {
                layer: _from_keras(path.name, layer, *layers[layer], shape=shape) for layer in shape.weights()
            }
    except (OSError, RuntimeError, KeyError) as error:
        raise DataError(f"{path.name} is no whole HDF5 file ({error}); download it again") from None


def _keras_layers(file, name: str) -> dict[str, tuple]:
    """Return VGG16's layers of a file: kernel and bias datasets, not read yet."""
    import h5py

    root = file["model_weights"] if _is_inside(file, "model_weights") else file
    names = [
        text.decode() if isinstance(text, bytes) else str(text) for text in root.attrs.get("layer_names", [])
    ]
    found: dict[str, tuple] = {}
    for layer in names or sorted(root, key=_natural):
        group = root[layer] if _is_inside(root, layer) else None
        if not isinstance(group, h5py.Group):
            continue
        datasets: list = []
        # visititems goes by hard links alone, so never into another file
        group.visititems(
            lambda _, item, into=datasets: into.append(item) if isinstance(item, h5py.Dataset) else None
        )
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
        expect_names(name, set(found), set(LAYERS))
        return found
    if len(found) != len(LAYERS):
        raise DataError(f"{name} has {len(found)} layers with weights; expected {len(LAYERS)}, as VGG16")
    # unnamed layers (conv2d_1, ...): their order tells them apart
    return dict(zip(LAYERS, found.values(), strict=True))


def _from_keras(name: str, layer: str, kernel, bias, *, shape: VggShape) -> tuple[np.ndarray, np.ndarray]:
    """Read one layer, and put it into torch's order."""
    wanted = shape.weights()[layer]
    out = wanted[0]
    if layer.startswith("conv"):
        forms = [(3, 3, wanted[1], out)]
    else:
        side = shape.map_px if layer == "fc6" else 1
        # as a convolution over the whole map, or as a dense layer after Keras' Flatten
        forms = [(side, side, wanted[1] // side**2, out), (wanted[1], out)]
    if kernel.shape not in forms:
        raise DataError(f"{name}: {layer} has shape {kernel.shape}; expected {' or '.join(map(str, forms))}")
    values = np.asarray(kernel).reshape(forms[0])  # Keras flattens rows, columns, channels
    values = values.transpose(3, 2, 0, 1)  # out, in, rows, columns
    return values.reshape(wanted), np.asarray(bias)


def _is_inside(group, key: str) -> bool:
    """Return whether a group holds a member itself, not as a link to elsewhere."""
    import h5py

    return isinstance(group.get(key, getlink=True), h5py.HardLink)


def _natural(text: str) -> list:
    """Return a sorting key that puts conv2d_2 before conv2d_10."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", text)]
