"""Portraits: a real detector finds face and eyes, and every latent is visible."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from s2f_lib.config import SyntheticConfig
from s2f_lib.errors import InputError
from s2f_lib.sources.synthetic.people import FaceLatents, draw_population
from s2f_lib.sources.synthetic.performance import clip_scene
from s2f_lib.sources.synthetic.portrait.face import Pose, draw_portrait
from s2f_lib.sources.synthetic.portrait.geometry import FACE_CENTRE_Y
from s2f_lib.sources.synthetic.portrait.surface import skin_colour

SIZE_PX = (480, 360)


@pytest.fixture(scope="module")
def people():
    """Return some people of both genders and several groups."""
    return draw_population(SyntheticConfig(n_train=8, n_test=1))


@pytest.fixture(scope="module")
def face(people) -> FaceLatents:
    """Return a man's face without beard, glasses or curls."""
    return replace(people[3].face, beard=0, glasses=False, hair_style=1, curly=False, grey=0.0)


@pytest.fixture(scope="module")
def dlib_models() -> Path:
    """Return the folder of dlib's networks."""
    found = importlib.util.find_spec("face_recognition_models")
    return Path(found.submodule_search_locations[0]) / "models"


def test_portrait_dlib_finds_face_and_eyes(people, dlib_models: Path) -> None:
    import dlib

    detector = dlib.cnn_face_detection_model_v1(str(dlib_models / "mmod_human_face_detector.dat"))
    landmarks = dlib.shape_predictor(str(dlib_models / "shape_predictor_5_face_landmarks.dat"))
    for person, pose in zip(people, (Pose(), Pose(8, 4, 3, mouth_open=0.6), Pose(-8, -3, -3)), strict=False):
        portrait = draw_portrait(person.face, size_px=SIZE_PX, scene=clip_scene(person, seed=0))
        image = portrait.frame(pose)
        small = cv2.resize(image, (240, 180), interpolation=cv2.INTER_AREA)
        hits = detector(small, 0)
        assert len(hits) == 1, person.person_id
        box = hits[0].rect
        corners = [2 * side for side in (box.left(), box.top(), box.right(), box.bottom())]
        x, y = portrait._project(0.0, FACE_CENTRE_Y, pose)
        assert (corners[0] + corners[2]) / 2 == pytest.approx(x, abs=30)
        assert (corners[1] + corners[3]) / 2 == pytest.approx(y, abs=30)
        parts = landmarks(image, dlib.rectangle(*corners)).parts()[:4]
        found = np.array(sorted((part.x, part.y) for part in parts))
        eyes = portrait.eyes_px(pose)
        error = np.linalg.norm(found - eyes, axis=1).mean() / np.linalg.norm(eyes[3] - eyes[0])
        assert error < 0.12, person.person_id


def test_draw_portrait_equal_latents_equal_image(face: FaceLatents) -> None:
    first = draw_portrait(face, size_px=SIZE_PX).frame(Pose())
    assert first.shape == (360, 480, 3)
    assert first.dtype == np.uint8
    np.testing.assert_array_equal(first, draw_portrait(face, size_px=SIZE_PX).frame(Pose()))


@pytest.mark.parametrize(
    "change",
    [
        {"body": 2.0},
        {"gender": "f"},
        {"age_years": 78.0},
        {"skin_tone": 0.9},
        {"eye_distance": 2.0},
        {"beard": 3},
    ],
    ids=lambda change: next(iter(change)),
)
def test_draw_portrait_latent_changes_the_image(face: FaceLatents, change: dict[str, object]) -> None:
    base = replace(face, body=-1.0, age_years=25.0, skin_tone=0.2, eye_distance=-1.0)
    before, after = (
        draw_portrait(one, size_px=SIZE_PX).frame(Pose()).astype(float)
        for one in (base, replace(base, **change))
    )
    assert np.abs(before - after).mean() > 0.5


def test_portrait_body_widens_and_skin_tone_darkens(face: FaceLatents) -> None:
    narrow, wide = (
        draw_portrait(replace(face, body=body), size_px=SIZE_PX).geometry.width_at(np.array([0.3]))[0]
        for body in (-1.5, 1.5)
    )
    assert wide > 1.2 * narrow
    means = [skin_colour(tone).mean() for tone in np.linspace(0, 1, 11)]
    assert (np.diff(means) < 0).all()


def test_portrait_poses_move_head_not_background(face: FaceLatents) -> None:
    portrait = draw_portrait(face, size_px=SIZE_PX)
    rest = portrait.eyes_px(Pose())
    assert (portrait.eyes_px(Pose(yaw_deg=10))[:, 0] - rest[:, 0] > 3).all()
    assert (portrait.eyes_px(Pose(pitch_deg=8))[:, 1] - rest[:, 1] > 3).all()
    # half a head is 126 pixels at the default share of 0.7
    shifted = portrait.eyes_px(Pose(shift_x=0.1, shift_y=-0.1)) - rest
    np.testing.assert_allclose(shifted, np.broadcast_to([12.6, -12.6], (4, 2)), atol=1.5)
    tilted = portrait.eyes_px(Pose(roll_deg=6))
    slope = np.degrees(np.arctan2(*(tilted[3] - tilted[0])[::-1]))
    assert slope == pytest.approx(6, abs=1)
    # the background does not move
    np.testing.assert_array_equal(
        portrait.frame(Pose())[:20, :20], portrait.frame(Pose(yaw_deg=10))[:20, :20]
    )


def test_draw_portrait_too_small_raises(face: FaceLatents) -> None:
    with pytest.raises(InputError, match="at least 64"):
        draw_portrait(face, size_px=(480, 20))
