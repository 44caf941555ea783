"""Voices and faces of the public pairs, as arrays.

The published faces are 224 x 224 crops that are not aligned alike: so the face is
found again, by dlib's detector of oriented gradients, which is quick and does well on large
upright faces, and aligned by its five landmarks as everywhere else in the study.  Where no
face is found (about 1 in 20), a fixed box around the middle stands for it.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np

from s2f_lib.errors import ClipRefused, RefusalReason
from s2f_lib.faces.alignment import landmark_predictor
from s2f_lib.media import decode as media

_THRESHOLD = -0.3  # more lenient than dlib's 0: there is a face in each picture, the question is where
_MARGIN = 0.25  # dlib's padding, as `face_crop.align_face`
# where no face is found: shares of the picture's width, and of its height
_SIDE, _TOP, _BOTTOM = 0.12, 0.2, 0.9
_LEAST_PX = 16


def read_voice(
    path: Path, *, sample_rate_hz: int = 16_000, duration_s: float = 6.0
) -> tuple[np.ndarray, int]:
    """Read a voice: its first seconds, repeated where it is shorter.

    Returns
    -------
    audio
        (samples,) int16 mono, `duration_s` long.
    n_samples
        How many of them came from the file.

    Raises
    ------
    ClipRefused
        The file is missing, damaged, silent or shorter than half a second.
    """
    length_s = media.probe(path).duration_s
    if length_s > 0:
        end_s = min(duration_s, length_s)
        audio = media.read_audio(path, start_s=0.0, end_s=end_s, sample_rate_hz=sample_rate_hz)
    else:  # a file that was written to a pipe says nothing of its length
        audio = media.read_recording(path, longest_s=duration_s, sample_rate_hz=sample_rate_hz)
    if len(audio) < sample_rate_hz / 2:
        raise ClipRefused(
            RefusalReason.TOO_SHORT,
            f"{path.name}: {len(audio) / sample_rate_hz:.2f} s of sound; expected 0.5 s",
        )
    n_samples = round(duration_s * sample_rate_hz)
    return media.repeat_to(audio, n_samples), min(len(audio), n_samples)


def read_image(path: Path) -> np.ndarray:
    """Read a picture, (height, width, 3) uint8 RGB.

    Raises
    ------
    ClipRefused
        The file is missing or no picture, or too small to hold a face.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as image:
            pixels = np.asarray(image.convert("RGB"))
    except FileNotFoundError:
        raise ClipRefused(RefusalReason.MEDIA_MISSING, f"no picture at {path.name}") from None
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError) as error:
        raise ClipRefused(RefusalReason.NOT_MEDIA, f"{path.name} is no readable picture ({error})") from None
    if min(pixels.shape[:2]) < _LEAST_PX:
        raise ClipRefused(RefusalReason.FACE_TOO_SMALL, f"{path.name} is {pixels.shape[1]} px wide")
    return pixels


def align_image(pixels: np.ndarray, *, size_px: int) -> tuple[np.ndarray, bool]:
    """Find the face in a published crop and align it.

    Parameters
    ----------
    pixels
        (height, width, 3) uint8 RGB, one large face.
    size_px
        Side of the aligned face.

    Returns
    -------
    face
        (size_px, size_px, 3) uint8 RGB.
    found
        Whether the detector found it; else the fixed box was taken.
    """
    import dlib

    pixels = np.ascontiguousarray(pixels)
    box, found = _face_box(pixels)
    landmarks = landmark_predictor()(pixels, box)
    return np.asarray(dlib.get_face_chip(pixels, landmarks, size=size_px, padding=_MARGIN)), found


def _face_box(pixels: np.ndarray):
    import dlib

    for upsampled in (0, 1):
        boxes, scores, _ = _detector().run(pixels, upsampled, _THRESHOLD)
        if len(boxes):
            return boxes[int(np.argmax(scores))], True
    height, width = pixels.shape[:2]
    side = int(_SIDE * width)
    return dlib.rectangle(side, int(_TOP * height), width - side, int(_BOTTOM * height)), False


@lru_cache(maxsize=1)
def _detector():
    import dlib

    return dlib.get_frontal_face_detector()
