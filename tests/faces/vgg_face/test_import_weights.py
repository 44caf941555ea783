"""The three public formats of VGG-Face give the same features; damaged files raise."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import pickle
import struct
import sys
from pathlib import Path

import numpy as np
import pytest

from s2f_lib.errors import DataError, InputError, MissingFileError
from s2f_lib.faces.vgg_face.formats import detect_format
from s2f_lib.faces.vgg_face.import_weights import card_path, import_vgg_face
from s2f_lib.faces.vgg_face.network import CANONICAL_NAMES, MEAN_RGB, VGG_FACE_SHAPE
from s2f_lib.faces.vgg_face.torch7 import read_torch7


def _load_writers():
    """Import the writers in the same folder."""
    spec = importlib.util.spec_from_file_location(
        "vgg_face_files", Path(__file__).with_name("vgg_face_files.py")
    )
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


files = _load_writers()
NARROW = files.NARROW


@pytest.fixture(scope="module")
def network():
    return files.random_network(3)


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    """Two coloured images, (2, 224, 224, 3), RGB from 0 to 255."""
    rng = np.random.default_rng(0)
    coarse = rng.uniform(0, 255, (2, 8, 8, 3)) * np.array([1.0, 0.7, 0.4])  # reddish: swapped channels differ
    return np.kron(coarse, np.ones((1, 28, 28, 1))).astype(np.float32)


def write(form: str, path: Path, network) -> None:
    """Write one network in one format."""
    if form == "pytorch":
        files.write_pytorch(path, network)
    elif form == "pytorch-legacy":
        files.write_pytorch(path, network, legacy=True)
    elif form == "torch7":
        files.write_torch7(path, network)
    elif form == "torch7-rows":
        files.write_torch7(path, network, filters_as_rows=True)
    else:
        files.write_keras(path, network, named="named" in form, dense="dense" in form)


FORMS = ["pytorch", "pytorch-legacy", "torch7", "torch7-rows", "keras-named", "keras", "keras-dense"]


def features_of_canonical(path: Path, images: np.ndarray) -> np.ndarray:
    """Return the rectified fc7 of a converted file, with torchvision's names of VGG16."""
    import torch
    from safetensors.torch import load_file
    from torch.nn import functional

    state = load_file(path)
    x = (torch.tensor(images) - torch.tensor(MEAN_RGB)).permute(0, 3, 1, 2)
    return _features(
        x,
        lambda layer: (state[f"{CANONICAL_NAMES[layer]}.weight"], state[f"{CANONICAL_NAMES[layer]}.bias"]),
        functional,
    )


def _features(x, tensors, functional) -> np.ndarray:
    for block in ("1_1 1_2", "2_1 2_2", "3_1 3_2 3_3", "4_1 4_2 4_3", "5_1 5_2 5_3"):
        for position in block.split():
            x = functional.conv2d(x, *tensors(f"conv{position}"), padding=1).relu()
        x = functional.max_pool2d(x, 2)
    x = functional.linear(x.flatten(1), *tensors("fc6")).relu()
    return functional.linear(x, *tensors("fc7")).relu().numpy()


def features_of_keras_file(path: Path, images: np.ndarray) -> np.ndarray:
    """Return the rectified fc7 of a Keras file, in NumPy and in Keras' order (rows, columns, channels)."""
    import h5py

    with h5py.File(path) as file:

        def layer(name: str):
            return np.asarray(file[f"{name}/{name}/kernel:0"]), np.asarray(file[f"{name}/{name}/bias:0"])

        x = images - np.array(MEAN_RGB, np.float32)  # (n, rows, columns, RGB)
        for block in ("1_1 1_2", "2_1 2_2", "3_1 3_2 3_3", "4_1 4_2 4_3", "5_1 5_2 5_3"):
            for position in block.split():
                kernel, bias = layer(f"conv{position}")
                padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
                windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(1, 2))
                x = np.maximum(np.einsum("nyxcij,ijco->nyxo", windows, kernel, optimize=True) + bias, 0)
            n, rows, columns, channels = x.shape
            x = x.reshape(n, rows // 2, 2, columns // 2, 2, channels).max((2, 4))
        kernel, bias = layer("fc6")
        x = np.maximum(np.einsum("nyxc,yxco->no", x, kernel) + bias, 0)  # the whole 7x7 map
        kernel, bias = layer("fc7")
        return np.maximum(x @ kernel[0, 0] + bias, 0)


# equal features for all formats


def test_import_all_formats_give_the_same_features(tmp_path: Path, network, images):
    features, fingerprints = {}, set()
    for form in FORMS:
        source = tmp_path / f"{form}.bin"  # the suffix does not tell the format
        write(form, source, network)
        out = tmp_path / f"{form}.safetensors"
        card = import_vgg_face(source, out, shape=NARROW)
        assert card.source_form == form.partition("-")[0]
        features[form] = features_of_canonical(out, images)
        fingerprints.add(card.fingerprint)
    assert len(fingerprints) == 1
    for form in FORMS[1:]:
        np.testing.assert_allclose(features[form], features["pytorch"], atol=1e-4, rtol=0)
    assert features["pytorch"].shape == (2, 256)
    assert (features["pytorch"] > 0).mean() > 0.1  # activations do not vanish


def test_import_features_equal_those_of_the_source(tmp_path: Path, network, images):
    import torch
    from torch.nn import functional

    out = tmp_path / "converted.safetensors"
    # Keras: rows, columns, channels throughout, RGB
    files.write_keras(tmp_path / "k", network, named=True)
    import_vgg_face(tmp_path / "k", out, shape=NARROW)
    theirs = features_of_keras_file(tmp_path / "k", images)
    np.testing.assert_allclose(features_of_canonical(out, images), theirs, atol=1e-3, rtol=1e-4)

    # torch7: the same images in BGR, minus the mean in BGR, with the file's own tensors
    files.write_torch7(tmp_path / "t", network)
    import_vgg_face(tmp_path / "t", out, shape=NARROW)
    modules = read_torch7(tmp_path / "t").fields["modules"].values()
    weighted = [module.fields for module in modules if "weight" in module.fields]
    own = {
        layer: (torch.tensor(fields["weight"].copy()), torch.tensor(fields["bias"].copy()))
        for layer, fields in zip(CANONICAL_NAMES, weighted, strict=True)
    }
    bgr = (images - np.array(MEAN_RGB, np.float32))[..., ::-1].copy()
    theirs = _features(torch.tensor(bgr).permute(0, 3, 1, 2), own.__getitem__, functional)
    np.testing.assert_allclose(features_of_canonical(out, images), theirs, atol=1e-4, rtol=1e-5)


def test_import_wrong_order_changes_the_features(tmp_path: Path, network, images):
    """A wrong order of channels or of rows changes the features far more than the tolerance of 1e-4."""
    files.write_torch7(tmp_path / "t", network)
    import_vgg_face(tmp_path / "t", tmp_path / "right.safetensors", shape=NARROW)
    right = features_of_canonical(tmp_path / "right.safetensors", images)
    import_vgg_face(tmp_path / "t", tmp_path / "swapped.safetensors", shape=NARROW, channel_order="rgb")
    swapped = features_of_canonical(tmp_path / "swapped.safetensors", images)
    assert np.abs(swapped - right).max() > 1

    weight, bias = network["fc6"]
    rows_first = weight.reshape(256, 32, 7, 7).transpose(0, 2, 3, 1).reshape(256, -1)
    files.write_pytorch(tmp_path / "p", {**network, "fc6": (rows_first, bias)})
    import_vgg_face(tmp_path / "p", tmp_path / "flat.safetensors", shape=NARROW)
    assert np.abs(features_of_canonical(tmp_path / "flat.safetensors", images) - right).max() > 1


def test_vgg_shape_equals_torchvision():
    import torch
    import torchvision

    with torch.device("meta"):
        wanted = torchvision.models.vgg16(weights=None, num_classes=2622).state_dict()
    ours = {f"{CANONICAL_NAMES[layer]}.weight": shape for layer, shape in VGG_FACE_SHAPE.weights().items()}
    assert ours == {name: tuple(tensor.shape) for name, tensor in wanted.items() if name.endswith("weight")}
    biases = sum(shape[0] for shape in ours.values())
    # VGG16 has 138,357,544 parameters with 1,000 classes; each of the other 1,622 classes adds 4,097
    assert sum(int(np.prod(shape)) for shape in ours.values()) + biases == 138_357_544 + 1_622 * 4_097


# the converted file and its card


def test_card_describes_the_source(tmp_path: Path, network):
    source = tmp_path / "VGG_FACE.t7"
    files.write_torch7(source, network)
    card = import_vgg_face(source, shape=NARROW)
    weights = tmp_path / "VGG_FACE.safetensors"
    values = json.loads(card_path(weights).read_text())
    assert values == {**dataclasses.asdict(card), "mean_rgb": list(card.mean_rgb)}
    assert (values["source_form"], values["source_channel_order"], values["channel_order"]) == (
        "torch7",
        "bgr",
        "rgb",
    )
    assert values["mean_rgb"] == [129.1863, 104.7624, 93.594]
    assert "non-commercial" in values["licence"]
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "VGG_FACE.json",
        "VGG_FACE.safetensors",
        "VGG_FACE.t7",
    ]


def test_fingerprint_equals_that_of_the_converted_file(tmp_path: Path, network):
    from safetensors.torch import load_file

    from s2f_lib.faces.vgg_face.network import fingerprint_of

    files.write_pytorch(tmp_path / "a.pth", network)
    card = import_vgg_face(tmp_path / "a.pth", shape=NARROW)
    assert card.fingerprint == fingerprint_of(load_file(tmp_path / "a.safetensors"))


def test_fingerprint_unexpected_raises(tmp_path: Path, network):
    files.write_pytorch(tmp_path / "a.pth", network)
    card = import_vgg_face(tmp_path / "a.pth", shape=NARROW)
    import_vgg_face(tmp_path / "a.pth", shape=NARROW, expected_fingerprint=card.fingerprint[:12].upper())
    out = tmp_path / "b.safetensors"
    with pytest.raises(DataError, match=card.fingerprint[:16]):
        import_vgg_face(tmp_path / "a.pth", out, shape=NARROW, expected_fingerprint="0" * 16)
    assert not out.exists()
    with pytest.raises(InputError, match="at least 8"):
        import_vgg_face(tmp_path / "a.pth", out, shape=NARROW, expected_fingerprint="0")


def test_fingerprint_other_weights_differs(tmp_path: Path):
    prints = []
    for seed in (1, 1, 2):
        files.write_pytorch(tmp_path / "a.pth", files.random_network(seed))
        prints.append(import_vgg_face(tmp_path / "a.pth", shape=NARROW).fingerprint)
    assert prints[0] == prints[1] != prints[2]


def test_import_other_width_raises(tmp_path: Path, network):
    for form in ("pytorch", "torch7", "torch7-rows", "keras"):
        write(form, tmp_path / "narrow", network)
        with pytest.raises(DataError, match=r"conv1_1 has shape \(.*4.*\); expected \("):
            import_vgg_face(tmp_path / "narrow", tmp_path / "out.safetensors")
    assert not (tmp_path / "out.safetensors").exists()


# bad files


def test_import_missing_file_says_where_to_get_it(tmp_path: Path):
    with pytest.raises(MissingFileError) as caught:
        import_vgg_face(tmp_path / "vgg_face_dag.pth")
    for part in ("vgg_face_dag.pth", "pytorch-mcn", "VGG_FACE.t7", "DeepFace", "s2f weights import PATH"):
        assert part in str(caught.value)


class Malicious:
    """An object whose pickle creates a file when `pickle.loads` reads it."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self):
        return Path.touch, (self.target,)


@pytest.mark.parametrize("how", ["plain pickle", "torch zip", "torch legacy"])
def test_import_pickled_code_is_not_run(tmp_path: Path, how: str):
    import torch

    touched = tmp_path / "touched"
    source = tmp_path / "vgg_face_dag.pth"
    content = {"conv1_1.weight": Malicious(touched)}
    if how == "plain pickle":
        source.write_bytes(pickle.dumps(content, protocol=2))
    else:
        torch.save(content, source, _use_new_zipfile_serialization=how == "torch zip")
    # an unsafe reader runs the code
    torch.load(source, weights_only=False) if how != "plain pickle" else pickle.loads(source.read_bytes())
    assert touched.exists()
    touched.unlink()

    with pytest.raises(DataError, match="nothing in it was run"):
        import_vgg_face(source, shape=NARROW)
    assert not touched.exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "it is empty"),
        (b"<!DOCTYPE html><html>", "web page"),
        (b"4\n1\n3\nV 1\n13\nnn.Sequential\n", "ASCII torch7"),
        (struct.pack("<Q", 2) + b"{}", "safetensors file already"),
        (b"GIF89a..........", "GIF89a"),
    ],
)
def test_import_other_files_raise(tmp_path: Path, content: bytes, message: str):
    source = tmp_path / "vgg_face_weights.h5"
    source.write_bytes(content)
    with pytest.raises(InputError, match=message):
        import_vgg_face(source, shape=NARROW)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("share", [0.001, 0.3, 0.99])
def test_import_truncated_file_raises(tmp_path: Path, network, form: str, share: float):
    source = tmp_path / "cut"
    write(form, source, network)
    data = source.read_bytes()
    source.write_bytes(data[: max(16, int(share * len(data)))])
    with pytest.raises(DataError, match="cut"):
        import_vgg_face(source, shape=NARROW)
    assert [path.name for path in tmp_path.iterdir()] == ["cut"]


def test_import_legacy_file_cut_at_any_byte_raises(tmp_path: Path, network):
    source = tmp_path / "cut"
    write("pytorch-legacy", source, network)
    data = source.read_bytes()
    for length in range(16, 1_000):
        source.write_bytes(data[:length])
        with pytest.raises(DataError, match="cut"):
            import_vgg_face(source, shape=NARROW)


def test_import_missing_or_unknown_layer_is_named(tmp_path: Path, network):
    fewer = {name: tensors for name, tensors in network.items() if name != "fc7"}
    files.write_pytorch(tmp_path / "p", fewer)
    with pytest.raises(DataError, match=r"lacks fc7\.bias, fc7\.weight"):
        import_vgg_face(tmp_path / "p", shape=NARROW)
    files.write_pytorch(tmp_path / "p", {**network, "fc9": network["fc8"]})
    with pytest.raises(DataError, match=r"unknown fc9\.bias"):
        import_vgg_face(tmp_path / "p", shape=NARROW)


def test_import_numbers_not_finite_raise(tmp_path: Path, network):
    weight, bias = network["conv3_2"]
    broken = weight.copy()
    broken[0, 0, 0, 0] = np.nan
    files.write_torch7(tmp_path / "t", {**network, "conv3_2": (broken, bias)})
    with pytest.raises(DataError, match="weight of conv3_2 holds numbers that are not finite"):
        import_vgg_face(tmp_path / "t", shape=NARROW)


def test_import_module_instead_of_state_dict_raises(tmp_path: Path):
    import torch

    torch.save(torch.nn.Linear(2, 2), tmp_path / "module.pth")
    with pytest.raises(DataError, match="more than tensors"):
        import_vgg_face(tmp_path / "module.pth", shape=NARROW)
    torch.save([torch.zeros(2)], tmp_path / "list.pth")
    with pytest.raises(DataError, match="holds a list"):
        import_vgg_face(tmp_path / "list.pth", shape=NARROW)


def test_keras_external_links_are_not_followed(tmp_path: Path, network):
    import h5py

    files.write_keras(tmp_path / "whole.h5", network, named=True)
    with h5py.File(tmp_path / "links.h5", "w") as file:
        file.attrs["layer_names"] = [layer.encode() for layer in CANONICAL_NAMES]
        for layer in CANONICAL_NAMES:
            file[layer] = h5py.ExternalLink("whole.h5", layer)
    with pytest.raises(DataError, match="0 layers with weights"):
        import_vgg_face(tmp_path / "links.h5", shape=NARROW)


@pytest.mark.parametrize("out", ["weights.bin", "nowhere/weights.safetensors"])
def test_import_invalid_target_raises(tmp_path: Path, network, out: str):
    files.write_pytorch(tmp_path / "a.pth", network)
    with pytest.raises(InputError, match=Path(out).name):
        import_vgg_face(tmp_path / "a.pth", tmp_path / out, shape=NARROW)


def test_import_does_not_overwrite_its_source(tmp_path: Path, network):
    source = tmp_path / "a.safetensors"
    files.write_pytorch(source, network)
    before = source.read_bytes()
    with pytest.raises(InputError, match="another name"):
        import_vgg_face(source, shape=NARROW)
    assert source.read_bytes() == before


# torch7


def _t7(*values: object) -> bytes:
    writer = files.Torch7Writer()
    for value in values:
        writer.value(value)
    return bytes(writer.out)


def test_torch7_round_trip(tmp_path: Path):
    values = {
        "a": 1.5,
        "b": "text",
        1.0: True,
        "none": None,
        "t": np.arange(6, dtype=np.float64).reshape(2, 3),
    }
    path = tmp_path / "table.t7"
    path.write_bytes(_t7(values))
    found = read_torch7(path)
    np.testing.assert_array_equal(found.pop("t"), values["t"])
    assert found == {"a": 1.5, "b": "text", 1.0: True, "none": None}
    assert detect_format(path).name == "torch7"


def test_torch7_strides_and_shared_storages(tmp_path: Path):
    # a 2x3 view, column by column, of a storage to which two tensors refer
    storage = (
        struct.pack("<ii", 4, 3)
        + struct.pack("<i", 3)
        + b"V 1"
        + struct.pack("<i", 18)
        + b"torch.FloatStorage"
    )
    storage += struct.pack("<q", 6) + np.arange(6, dtype="<f4").tobytes()
    again = struct.pack("<ii", 4, 3)

    def tensor(index: int, shape, strides, offset: int, rest: bytes) -> bytes:
        head = (
            struct.pack("<ii", 4, index)
            + struct.pack("<i", 3)
            + b"V 1"
            + struct.pack("<i", 17)
            + b"torch.FloatTensor"
        )
        sizes = struct.pack(f"<{len(shape)}q", *shape) + struct.pack(f"<{len(strides)}q", *strides)
        return head + struct.pack("<i", len(shape)) + sizes + struct.pack("<q", offset) + rest

    def key(text: bytes) -> bytes:
        return struct.pack("<ii", 2, len(text)) + text

    data = struct.pack("<iii", 3, 1, 2)
    data += key(b"x") + tensor(2, (2, 3), (1, 2), 1, storage)
    data += key(b"y") + tensor(4, (2,), (1,), 5, again)
    (tmp_path / "views.t7").write_bytes(data)
    found = read_torch7(tmp_path / "views.t7")
    assert found["x"].tolist() == [[0, 2, 4], [1, 3, 5]]
    assert found["y"].tolist() == [4, 5]

    beyond = data.replace(struct.pack("<qq", 1, 5), struct.pack("<qq", 1, 6))
    (tmp_path / "beyond.t7").write_bytes(beyond)
    with pytest.raises(DataError, match=r"shape \(2,\) beyond its 6 numbers"):
        read_torch7(tmp_path / "beyond.t7")


def test_torch7_functions_are_skipped_as_bytes(tmp_path: Path):
    code = b"\x1bLua os.execute('touch x')"
    function = struct.pack("<iii", 8, 2, len(code)) + code + struct.pack("<i", 0)
    data = struct.pack("<iii", 3, 1, 2) + struct.pack("<ii", 2, 1) + b"f" + function + _t7("k") + _t7(2.0)
    (tmp_path / "f.t7").write_bytes(data)
    assert read_torch7(tmp_path / "f.t7") == {"f": None, "k": 2.0}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (struct.pack("<i", 99), "unknown kind of object 99"),
        (struct.pack("<iii", 3, 1, 2**30), "table of 1073741824 entries"),
        (struct.pack("<iii", 3, 1, -1), "table of -1 entries"),
        (struct.pack("<ii", 2, 2**31 - 1), "ends early"),
        (struct.pack("<ii", 2, -5), "ends early"),
        (b"".join(struct.pack("<iiii", 3, depth, 1, 0) for depth in range(1, 200)), "nested more than 100"),
        (struct.pack("<iii", 4, 1, 5000), "class name of 5000 bytes"),
        (struct.pack("<iii", 4, 1, 18) + b"torch.FloatStorage" + struct.pack("<q", 2**60), "storage of"),
        (struct.pack("<iii", 4, 1, 17) + b"torch.FloatTensor" + struct.pack("<i", 64), "64 dimensions"),
        (struct.pack("<iii", 4, 1, 9) + b"nn.Linear" + struct.pack("<i", 0), "without fields"),
    ],
)
def test_torch7_damaged_file_raises(tmp_path: Path, data: bytes, message: str):
    (tmp_path / "bad.t7").write_bytes(data)
    with pytest.raises(DataError, match=rf"bad\.t7: .*{message}"):
        read_torch7(tmp_path / "bad.t7")


def test_torch7_other_network_raises(tmp_path: Path):
    writer = files.Torch7Writer()
    writer.module("nn.SpatialBatchNormalization", {"weight": np.ones(2, np.float32)})
    (tmp_path / "other.t7").write_bytes(writer.out)
    with pytest.raises(DataError, match="SpatialBatchNormalization, which VGG-Face does not have"):
        import_vgg_face(tmp_path / "other.t7", shape=NARROW)
