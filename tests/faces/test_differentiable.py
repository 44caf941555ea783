"""Extractors with gradients: the same features as without, and a device of their own."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from s2f_lib.config import FeatureConfig
from s2f_lib.faces.extractor import VGGFace, differentiable, make_extractor
from s2f_lib.training.vgg_face import make_vgg16

NAMES = ("vgg_face", "dlib_resnet")


@pytest.fixture(scope="module")
def faces() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (2, 224, 224, 3), dtype=np.uint8)


def _extractor(name: str):
    if name == "dlib_resnet":
        return make_extractor(FeatureConfig())
    torch.manual_seed(0)
    return VGGFace(make_vgg16(classes=2, width=1 / 64))  # one channel, 4096 units


def _tensor(faces: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(faces).permute(0, 3, 1, 2).float() / 255


@pytest.mark.parametrize("name", NAMES)
def test_differentiable_equals_extractor_and_has_gradients(faces, name):
    extractor, pixels = _extractor(name), _tensor(faces).requires_grad_()
    found, expected = differentiable(extractor)(pixels), extractor(faces)
    # the extractor scales dlib's faces as bytes, the network as floating point numbers
    np.testing.assert_allclose(found.detach(), expected, rtol=1e-3, atol=1e-2 * np.abs(expected).max())
    found.sum().backward()
    assert pixels.grad.abs().max() > 0


@pytest.mark.parametrize("name", NAMES)
def test_differentiable_moved_leaves_the_extractor(faces, name):
    extractor = _extractor(name)
    before, network = extractor(faces), differentiable(extractor)
    own = {tensor.data_ptr() for tensor in network.parameters()}
    assert len(own) > 10
    assert own <= {tensor.data_ptr() for tensor in extractor.network.parameters()}  # no second copy
    network.to("meta")  # every machine has this device; training moves the network to a GPU
    assert {tensor.device.type for tensor in [*network.parameters(), *network.buffers()]} == {"meta"}
    np.testing.assert_array_equal(extractor(faces), before)


def test_vgg_face_device_follows_its_network():
    extractor = VGGFace(make_vgg16(classes=2, width=1 / 64, hidden=8))
    assert extractor.device.type == "cpu"
    extractor.network.to("meta")
    assert extractor.device.type == "meta"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", NAMES)
def test_differentiable_on_gpu_leaves_the_extractor_usable(faces, name):
    extractor = _extractor(name)
    before = extractor(faces)
    on_gpu = differentiable(extractor).to("cuda")(_tensor(faces).cuda()).cpu()
    np.testing.assert_allclose(on_gpu, before, rtol=1e-2, atol=1e-2 * np.abs(before).max())
    np.testing.assert_array_equal(extractor(faces), before)
