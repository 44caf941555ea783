"""Which face, and its aligned crop.

The five-point landmarks of dlib are found on the full frame, and the face is
turned and scaled as dlib's `get_face_chip` does, which is what its face
descriptor was trained on; VGG-Face takes the same crop at 224 x 224.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from s2f_lib.errors import ClipRefused, RefusalReason
from s2f_lib.faces.detector import Detection, dlib_weights


@dataclass(frozen=True, slots=True)
class FaceCrop:
    """An aligned face.

    Attributes
    ----------
    image
        (size_px, size_px, 3) uint8 RGB.
    eye_angle_deg
        How far the line from the left to the right eye (of the picture) sloped down
        before it was levelled, in degrees.
    """

    image: np.ndarray
    eye_angle_deg: float


@dataclass(frozen=True, slots=True)
class EyeGeometry:
    """Where the eyes are in a crop: a check that the face fills it, upright.

    Attributes
    ----------
    angle_deg
        Slope of the line between the eyes; 0 is level.
    distance_share
        Distance between the eyes as a share of the crop's width; dlib's mean face
        with its usual margin gives 0.35.
    """

    angle_deg: float
    distance_share: float


def choose_face(
    found: Sequence[Sequence[Detection]],
    *,
    faces: str,
    x: float,
    y: float,
    frame_sizes: Sequence[tuple[int, int]],
) -> tuple[int, Detection]:
    """Choose the speaker's face, and the frame that shows it best.

    Parameters
    ----------
    found
        The detections of each frame looked at.
    faces
        "one": every frame must show exactly one face.  "at-xy": in each frame the face
        nearest (x, y) counts; frames without a face are passed over.
    x, y
        The clip list's place of the face, as shares of the frame.
    frame_sizes
        (height, width) of each frame, pixels.

    Returns
    -------
    frame_index, detection
        The most confident of the faces that count.

    Raises
    ------
    ClipRefused
        NO_FACE or SEVERAL_FACES, with the number of faces in each frame.
    """
    counts = [len(faces_here) for faces_here in found]
    shown = ", ".join(map(str, counts))
    if faces == "one":
        if max(counts) > 1:
            raise ClipRefused(
                RefusalReason.SEVERAL_FACES, f"{shown} faces in the frames looked at; expected one in each"
            )
        if min(counts) == 0:
            raise ClipRefused(
                RefusalReason.NO_FACE, f"{shown} faces in the frames looked at; expected one in each"
            )
    elif max(counts) == 0:
        raise ClipRefused(
            RefusalReason.NO_FACE, f"{shown} faces in the frames looked at; expected at least one"
        )

    def distance(face: Detection, size: tuple[int, int]) -> float:
        height, width = size
        return math.dist(face.centre, (x * width, y * height))

    candidates = [
        (index, min(faces_here, key=lambda face: distance(face, size)))
        for index, (faces_here, size) in enumerate(zip(found, frame_sizes, strict=True))
        if faces_here
    ]
    return max(candidates, key=lambda candidate: candidate[1].confidence)  # the first of equals


def align_face(
    frame: np.ndarray, detection: Detection, *, size_px: int = 224, margin: float = 0.25
) -> FaceCrop:
    """Cut a face out of its frame, eyes level, at one size.

    Parameters
    ----------
    frame
        (height, width, 3) uint8 RGB, full resolution.
    detection
        The face, in the frame's pixels.
    size_px
        Side of the crop.
    margin
        Share of the face box added on each side (dlib's padding).
    """
    import dlib

    frame = np.ascontiguousarray(frame)
    landmarks = _landmarks(frame, detection.left, detection.top, detection.right, detection.bottom)
    chip = dlib.get_face_chip(frame, landmarks, size=size_px, padding=margin)
    return FaceCrop(np.asarray(chip), _eyes(landmarks)[0])


def measure_eyes(crop: np.ndarray, *, margin: float = 0.25) -> EyeGeometry:
    """Find the landmarks again on an aligned crop, and say how the eyes lie.

    Parameters
    ----------
    crop
        (size, size, 3) uint8 RGB, from `align_face` with the same margin.
    """
    size = crop.shape[1]
    near, far = (
        size * margin / (1 + 2 * margin),
        size * (1 + margin) / (1 + 2 * margin),
    )  # the face box within
    angle_deg, distance_px = _eyes(_landmarks(np.ascontiguousarray(crop), near, near, far, far))
    return EyeGeometry(angle_deg, distance_px / size)


def _landmarks(frame: np.ndarray, left: float, top: float, right: float, bottom: float):
    import dlib

    box = dlib.rectangle(round(left), round(top), round(right), round(bottom))
    return landmark_predictor()(frame, box)


def _eyes(landmarks) -> tuple[float, float]:
    """Return the slope in degrees and the distance in pixels between the eyes' centres."""
    points = [(landmarks.part(i).x, landmarks.part(i).y) for i in range(4)]
    # 0, 1: corners of the eye on the picture's right; 2, 3: on its left
    dx = (points[0][0] + points[1][0] - points[2][0] - points[3][0]) / 2
    dy = (points[0][1] + points[1][1] - points[2][1] - points[3][1]) / 2
    return math.degrees(math.atan2(dy, dx)), math.hypot(dx, dy)


@lru_cache(maxsize=1)
def landmark_predictor():
    """Return dlib's predictor of five landmarks, loaded once."""
    import dlib

    return dlib.shape_predictor(str(dlib_weights("shape_predictor_5_face_landmarks.dat")))
