"""Choice and alignment of a face."""

from __future__ import annotations

import numpy as np
import pytest

from s2f_lib.errors import ClipRefused, InputError, RefusalReason
from s2f_lib.faces.alignment import align_face, choose_face
from s2f_lib.faces.detection import Detection, scale_to_width
from s2f_lib.faces.detector import DlibFaceDetector, make_detector
from s2f_lib.faces.dlib_port.weights import dlib_weights
from tests.faces_tools import measure_eyes
from tests.media_files import draw_portraits


def _face(x: float, y: float, confidence: float = 1.0) -> Detection:
    return Detection(x - 10, y - 10, x + 10, y + 10, confidence)


SIZES = [(100, 200)] * 3  # height, width
ANYWHERE = {"x": 0.5, "y": 0.5}


def test_choose_face_one_returns_the_most_confident():
    found = [[_face(50, 50, 0.9)], [_face(52, 50, 1.1)], [_face(54, 50, 1.0)]]
    assert choose_face(found, faces="one", frame_sizes=SIZES, **ANYWHERE) == (1, found[1][0])


@pytest.mark.parametrize(
    ("counts", "reason"),
    [
        ((1, 0, 1), RefusalReason.NO_FACE),
        ((0, 0, 0), RefusalReason.NO_FACE),
        ((1, 2, 1), RefusalReason.SEVERAL_FACES),
        ((0, 2, 1), RefusalReason.SEVERAL_FACES),
    ],
)
def test_choose_face_one_refuses_other_counts(counts, reason):
    found = [[_face(50 + 40 * i, 50) for i in range(count)] for count in counts]
    with pytest.raises(ClipRefused, match=", ".join(map(str, counts))) as caught:
        choose_face(found, faces="one", frame_sizes=SIZES, **ANYWHERE)
    assert caught.value.reason == reason


def test_choose_face_at_xy_nearest_then_most_confident():
    # (0.75, 0.5) of 200 x 100 is (150, 50)
    found = [
        [_face(50, 50, 1.5), _face(140, 50, 0.7)],
        [],
        [_face(145, 50, 0.8), _face(60, 50, 1.4)],
    ]
    assert choose_face(found, faces="at-xy", x=0.75, y=0.5, frame_sizes=SIZES) == (2, found[2][0])
    assert choose_face(found, faces="at-xy", x=0.25, y=0.5, frame_sizes=SIZES) == (0, found[0][0])


def test_choose_face_at_xy_measures_in_pixels():
    # from (100, 20): 50 px down (0.50 of the height) is nearer than 60 px to the right (0.30 of the width)
    found = [[_face(160, 20), _face(100, 70)]]
    assert choose_face(found, faces="at-xy", x=0.5, y=0.2, frame_sizes=[(100, 200)])[1] == found[0][1]


def test_choose_face_at_xy_without_faces_is_refused():
    with pytest.raises(ClipRefused) as caught:
        choose_face([[], [], []], faces="at-xy", frame_sizes=SIZES, **ANYWHERE)
    assert caught.value.reason == RefusalReason.NO_FACE


def test_scale_to_width_keeps_aspect_and_boxes():
    frame = np.zeros((300, 400, 3), np.uint8)
    scaled, factor = scale_to_width(frame, 100)
    assert scaled.shape == (75, 100, 3)
    assert factor == 0.25
    assert Detection(1, 2, 3, 4, 0.5).scaled(1 / factor) == Detection(4, 8, 12, 16, 0.5)


def test_dlib_detector_finds_a_synthetic_face(portrait):
    large = np.ascontiguousarray(portrait.repeat(2, 0).repeat(2, 1))  # 640 x 480, scaled to 320 x 240
    ((face,),) = DlibFaceDetector(width_px=320).detect([large])
    assert face.centre == pytest.approx((320, 240), abs=16)
    assert 140 < face.right - face.left < 220
    assert face.confidence > 0.5


def test_detector_unknown_name_or_file_raises():
    with pytest.raises(InputError, match="unknown face detector 'haar'"):
        make_detector("haar")
    with pytest.raises(FileNotFoundError, match="pip install face_recognition_models"):
        dlib_weights("no_such_model.dat")


@pytest.mark.parametrize("tilt_deg", [-20, 0, 20])
def test_align_face_tilted_face_is_level_and_fills_the_crop(tilt_deg):
    frame = draw_portraits(((160, 120),), tilt_deg=tilt_deg)
    ((face,),) = make_detector("torch", width_px=320).detect([frame])
    crop = align_face(frame, face)
    assert crop.image.shape == (224, 224, 3)
    assert crop.eye_angle_deg == pytest.approx(tilt_deg, abs=6)  # positive is clockwise
    eyes = measure_eyes(crop.image)
    assert abs(eyes.angle_deg) < 6
    assert 0.28 < eyes.distance_share < 0.42  # 0.35 for dlib's mean face
