"""The port of dlib's face network against dlib itself, and its gradients."""

from __future__ import annotations

import cv2
import dlib
import numpy as np
import pytest
import torch

from s2f_lib.errors import DataError
from s2f_lib.faces.dlib_port.resnet import area_resize, dlib_face_network, load_dlib_face_network
from s2f_lib.faces.dlib_port.weights import dlib_weights

NAME = "dlib_face_recognition_resnet_model_v1.dat"


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    """Noise, blurred noise, a ramp and black: (4, 150, 150, 3) uint8."""
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (150, 150, 3), dtype=np.uint8)
    ramp = np.broadcast_to(np.linspace(0, 255, 150, dtype=np.uint8)[:, None, None], (150, 150, 3))
    return np.stack([noise, cv2.GaussianBlur(noise, (0, 0), 9), ramp, np.zeros_like(noise)])


def _tensor(images: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255


def test_resnet_equals_dlib(images):
    model = dlib.face_recognition_model_v1(str(dlib_weights(NAME)))
    expected = np.array(model.compute_face_descriptor(list(images)))
    with torch.no_grad():
        found = dlib_face_network()(_tensor(images)).numpy()
    assert np.abs(expected).max() > 0.1
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_area_resize_equals_opencv(images):
    large = cv2.resize(images[1], (224, 224), interpolation=cv2.INTER_LINEAR)
    expected = cv2.resize(large.astype(np.float32) / 255, (150, 150), interpolation=cv2.INTER_AREA)
    found = area_resize(_tensor(large[None]), 150)[0].permute(1, 2, 0).numpy()
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_resnet_gradient_matches_finite_difference(images):
    face = _tensor(images[1:2]).requires_grad_()
    network = dlib_face_network()
    direction = torch.ones(network.dimension)
    value = (network(face) * direction).sum()
    value.backward()
    step = 1e-3 * face.grad / face.grad.norm()
    with torch.no_grad():
        after = (network(face + step) * direction).sum()
    assert float(after - value) == pytest.approx(1e-3 * float(face.grad.norm()), rel=0.1)
    assert all(parameter.grad is None for parameter in network.parameters())


@pytest.mark.parametrize("kept", [20, 300, 50_000])
def test_resnet_damaged_file_raises_with_position(tmp_path, kept):
    damaged = tmp_path / NAME
    damaged.write_bytes(dlib_weights(NAME).read_bytes()[:kept])
    with pytest.raises(DataError, match="near byte"):
        load_dlib_face_network(damaged)


def test_resnet_other_network_raises(tmp_path):
    with pytest.raises(DataError, match=r"expected loss_metric_2"):
        load_dlib_face_network(dlib_weights("mmod_human_face_detector.dat"))
