"""The choice of the speaker's face and its aligned crop.

dlib finds five landmarks in the full frame, and its `get_face_chip` rotates and scales the face. dlib's face
network was trained on such crops. VGG-Face takes the same crop at 224 x 224 pixels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from s2f_lib.errors import ClipRefused, InputError, RefusalReason
from s2f_lib.faces.detection import Detection
from s2f_lib.faces.dlib_port.weights import dlib_weights

CROP_PX = 224  # input size of VGG-Face and output size of the decoders
CROP_MARGIN = 0.25  # margin on each side, as a share of the face box; dlib's default padding


@dataclass(frozen=True, slots=True)
class FaceCrop:
    """An aligned face.

    Attributes
    ----------
    image
        `(224, 224, 3)` uint8 RGB.
    eye_angle_deg
        Angle of the line between the eyes before the alignment, in degrees; positive is clockwise.
    """

    image: np.ndarray
    eye_angle_deg: float


def choose_face(
    found: Sequence[Sequence[Detection]],
    *,
    faces: str,
    x: float | None,
    y: float | None,
    frame_sizes: Sequence[tuple[int, int]],
) -> tuple[int, Detection]:
    """Choose the speaker's face and the frame in which its detection is most confident.

    Parameters
    ----------
    found
        Detections in each frame of a clip.
    faces
        "one": every frame must show exactly one face. "at-xy": in each frame only the face nearest to (x, y)
        counts, and frames without a face are skipped.
    x, y
        Position of the face in the clip list, as shares of the frame's width and height.
    frame_sizes
        Height and width of each frame in pixels.

    Returns
    -------
    frame_index : int
        Index of the frame.
    detection : Detection
        Most confident of the faces that count.

    Raises
    ------
    ClipRefused
        NO_FACE or SEVERAL_FACES, with the number of faces in each frame.
    InputError
        The position is not known, and `faces` is "at-xy".

    See Also
    --------
    align_face : Crops the chosen face.

    Examples
    --------
    >>> first, second = Detection(0, 0, 9, 9, confidence=0.8), Detection(1, 0, 10, 9, confidence=1.1)
    >>> index, face = choose_face(
    ...     [[first], [second]], faces="one", x=0.5, y=0.5, frame_sizes=[(20, 20), (20, 20)]
    ... )
    >>> index, face.confidence
    (1, 1.1)
    """
    if faces != "one" and (x is None or y is None):
        raise InputError("faces at-xy needs the speaker's x and y, which these clips lack: use faces one")
    centre = (0.5, 0.5) if x is None or y is None else (x, y)
    counts = [len(faces_here) for faces_here in found]
    too_many, too_few = (max(counts) > 1, min(counts) == 0) if faces == "one" else (False, max(counts) == 0)
    if too_many or too_few:
        raise ClipRefused(
            RefusalReason.SEVERAL_FACES if too_many else RefusalReason.NO_FACE,
            f"{', '.join(map(str, counts))} faces in the frames looked at; "
            f"expected {'one in each' if faces == 'one' else 'at least one'}",
        )

    def distance_px(face: Detection, size: tuple[int, int]) -> float:
        height, width = size
        return math.dist(face.centre, (centre[0] * width, centre[1] * height))

    candidates = [
        (index, min(faces_here, key=lambda face: distance_px(face, size)))
        for index, (faces_here, size) in enumerate(zip(found, frame_sizes, strict=True))
        if faces_here
    ]
    return max(candidates, key=lambda candidate: candidate[1].confidence)  # ties: earliest frame


def align_face(frame: np.ndarray, detection: Detection) -> FaceCrop:
    """Crop a face from its frame, rotated so that the eyes are level, at 224 x 224 pixels.

    Parameters
    ----------
    frame
        `(height, width, 3)` uint8 RGB at full resolution.
    detection
        The face, in pixels of the frame.

    Returns
    -------
    FaceCrop
        The crop, and the angle of the eyes in the frame.

    See Also
    --------
    make_detector : Finds the faces.
    make_extractor : Computes the features of crops.

    Examples
    --------
    >>> frame = np.full((60, 80, 3), 120, np.uint8)
    >>> align_face(frame, Detection(20, 10, 60, 50, confidence=1.0)).image.shape
    (224, 224, 3)
    """
    import dlib

    frame = np.ascontiguousarray(frame)
    box = dlib.rectangle(
        round(detection.left), round(detection.top), round(detection.right), round(detection.bottom)
    )
    landmarks = landmark_predictor()(frame, box)
    chip = dlib.get_face_chip(frame, landmarks, size=CROP_PX, padding=CROP_MARGIN)
    return FaceCrop(np.asarray(chip), eye_line(landmarks)[0])


def eye_line(landmarks: Any) -> tuple[float, float]:
    """Return angle (degrees) and length (pixels) of the line between the eye centres in dlib's landmarks."""
    points = [(landmarks.part(i).x, landmarks.part(i).y) for i in range(4)]
    # 0, 1: corners of the eye on the right of the image; 2, 3: on its left
    dx = (points[0][0] + points[1][0] - points[2][0] - points[3][0]) / 2
    dy = (points[0][1] + points[1][1] - points[2][1] - points[3][1]) / 2
    return math.degrees(math.atan2(dy, dx)), math.hypot(dx, dy)


@lru_cache(maxsize=1)
def landmark_predictor() -> Any:
    """Return dlib's predictor of five landmarks, loaded once per process."""
    import dlib

    return dlib.shape_predictor(str(dlib_weights("shape_predictor_5_face_landmarks.dat")))
