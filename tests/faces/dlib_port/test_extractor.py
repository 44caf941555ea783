"""dlib's face network, with its real weights, on synthetic faces."""

from __future__ import annotations

import cv2
import dlib
import numpy as np
import pytest

from s2f_lib.config import FeatureConfig
from s2f_lib.faces.dlib_port.weights import dlib_weights
from s2f_lib.faces.extractor import DlibResNet, make_extractor


@pytest.fixture(scope="module")
def extractor():
    return DlibResNet()


@pytest.fixture(scope="module")
def faces() -> np.ndarray:
    """Three plain faces, (3, 224, 224, 3) uint8; the last two differ only in brightness."""
    images = np.full((3, 224, 224, 3), 90, np.uint8)
    for number, (width, tone) in enumerate([(60, 150), (85, 190), (85, 180)]):
        cv2.ellipse(images[number], (112, 118), (width, 100), 0, 0, 360, (tone, tone - 40, tone - 60), -1)
        for side in (-1, 1):
            cv2.circle(images[number], (112 + side * 39, 76), 8, (40, 30, 25), -1)
        cv2.ellipse(images[number], (112, 170), (10 + width // 4, 9), 0, 0, 360, (150, 60, 60), -1)
    return images


def test_dlib_resnet_equals_dlib_at_150_px(extractor, faces):
    model = dlib.face_recognition_model_v1(str(dlib_weights("dlib_face_recognition_resnet_model_v1.dat")))
    small = cv2.resize(faces[0], (150, 150), interpolation=cv2.INTER_AREA)
    expected = np.array(model.compute_face_descriptor(small))
    np.testing.assert_allclose(extractor(faces[:1])[0], expected, atol=1e-5)


def test_dlib_resnet_batch_equals_single_faces(extractor, faces):
    together = extractor(faces)
    assert together.shape == (3, extractor.dimension)
    assert together.dtype == np.float32
    np.testing.assert_allclose(together[1:2], extractor(faces[1:2]), atol=1e-5)
    assert extractor(faces[:0]).shape == (0, 128)


def test_dlib_resnet_shape_matters_more_than_light(extractor, faces):
    narrow, wide, wide_darker = extractor(faces)
    assert np.linalg.norm(wide - wide_darker) < 0.5 * np.linalg.norm(wide - narrow)


def test_dlib_resnet_fingerprint_is_reproducible(extractor):
    assert extractor.fingerprint == make_extractor(FeatureConfig()).fingerprint
    assert len(extractor.fingerprint) == 16


@pytest.mark.parametrize("wrong", [np.zeros((224, 224, 3), np.uint8), np.zeros((1, 224, 224, 3), np.float32)])
def test_dlib_resnet_wrong_input_raises(extractor, wrong):
    with pytest.raises(ValueError, match=r"expected \(n, 224, 224, 3\) uint8"):
        extractor(wrong)
