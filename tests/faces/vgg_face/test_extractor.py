"""VGG-Face with random weights: its features, compared layer by layer, and wrong files."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from s2f_lib.config import FeatureConfig, PreparationConfig, StudyConfig
from s2f_lib.errors import DataError, MissingFileError
from s2f_lib.faces.extractor import VGGFace, make_extractor
from s2f_lib.faces.vgg_face.network import MEAN_RGB, fingerprint_of, load_vgg_face
from tests.faces_tools import random_vgg_face


@pytest.fixture(scope="module")
def network() -> torch.nn.Module:
    return random_vgg_face(0)


@pytest.fixture(scope="module")
def weights(network, tmp_path_factory):
    """File of the same network, 0.5 GB."""
    path = tmp_path_factory.mktemp("weights") / "vgg.safetensors"
    save_file(network.state_dict(), path)
    yield path
    path.unlink()


@pytest.fixture(scope="module")
def faces() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (3, 224, 224, 3), dtype=np.uint8)


def test_vgg_face_equals_fc7_layer_by_layer(network, faces):
    from torch.nn.functional import conv2d, linear, max_pool2d, relu

    state = network.state_dict()
    hidden = torch.from_numpy(faces[:1]).permute(0, 3, 1, 2).float() - torch.tensor(MEAN_RGB).view(1, 3, 1, 1)
    layer = 0
    for n_convolutions in (2, 2, 3, 3, 3):  # VGG16, configuration D
        for _ in range(n_convolutions):
            weight, bias = state[f"features.{layer}.weight"], state[f"features.{layer}.bias"]
            hidden = relu(conv2d(hidden, weight, bias, padding=1))
            layer += 2
        hidden = max_pool2d(hidden, 2)
        layer += 1
    hidden = hidden.flatten(1)
    for name in ("classifier.0", "classifier.3"):  # fc6, fc7
        hidden = relu(linear(hidden, state[f"{name}.weight"], state[f"{name}.bias"]))
    computed = VGGFace(network, batch_size=2)(faces)
    assert computed.shape == (3, 4096)
    assert computed.dtype == np.float32
    assert (computed >= 0).all()
    assert computed[0].std() > 0.1
    np.testing.assert_allclose(computed[0], hidden[0], rtol=1e-4, atol=1e-4 * float(hidden.max()))


def test_vgg_face_batch_size_and_file_change_nothing(network, weights, faces):
    expected = VGGFace(network, batch_size=3)(faces)
    from_file = make_extractor(FeatureConfig(extractor="vgg_face", weights=weights, batch_size=2))
    np.testing.assert_allclose(from_file(faces), expected, rtol=1e-4, atol=1e-4 * expected.max())
    assert from_file.fingerprint == fingerprint_of(network.state_dict())[:16]
    assert from_file(faces[:0]).shape == (0, 4096)


def test_random_vgg_face_other_seed_differs(network):
    first = next(iter(network.parameters()))
    assert torch.equal(first, next(iter(random_vgg_face(0).parameters())))
    assert not torch.equal(first, next(iter(random_vgg_face(1).parameters())))


def test_pipeline_stores_vgg_face_features(weights, tmp_path, portrait_clips):
    from s2f_lib.preparation.pipeline import prepare
    from s2f_lib.preparation.shards import read_prepared

    config = StudyConfig(
        preparation=PreparationConfig(
            detector="torch", detection_width_px=320, frame_positions=(0.5,), workers=1
        ),
        features=FeatureConfig(extractor="vgg_face", weights=weights),
    )
    summary = prepare(
        portrait_clips, tmp_path / "out", preparation=config.preparation, features=config.features
    )
    assert summary.n_done == 2
    clips = read_prepared(tmp_path / "out")
    assert clips.features.shape == (2, 4096)
    expected = VGGFace(load_vgg_face(weights))(clips.crops())
    np.testing.assert_allclose(clips.features, expected, rtol=2e-3, atol=1e-3 * expected.max())  # float16


def test_load_vgg_face_missing_weights_say_what_to_do(tmp_path):
    with pytest.raises(MissingFileError, match=r"features.weights is not set.*s2f weights import PATH"):
        make_extractor(FeatureConfig(extractor="vgg_face"))
    with pytest.raises(MissingFileError, match=r"no weights at .*none.safetensors.*s2f weights import"):
        load_vgg_face(tmp_path / "none.safetensors")


def test_load_vgg_face_wrong_file_raises(tmp_path):
    path = tmp_path / "w.safetensors"
    path.write_bytes(b"\x80\x04 a pickle, say")
    with pytest.raises(DataError, match="is not a safetensors file"):
        load_vgg_face(path)
    save_file({"features.0.weight": torch.zeros(64, 3, 5, 5)}, path)
    with pytest.raises(DataError, match=r"features.0.weight is \(64, 3, 5, 5\); expected \(64, 3, 3, 3\)"):
        load_vgg_face(path)
    save_file({"features.0.weight": torch.zeros(64, 3, 3, 3)}, path)
    with pytest.raises(DataError, match=r"features.0.bias is missing; expected \(64,\)"):
        load_vgg_face(path)
