"""Voices and faces of the public pairs as arrays, and the features of the faces.

The published faces are crops of 224 x 224 pixels that are not aligned with one another. dlib's HOG detector
(fast, and reliable on large upright faces) finds the face again, and its five landmarks align it as in the
rest of the study. In about 1 of 20 images no face is found; then a fixed box around the middle is used.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from s2f_lib.config import SAMPLE_RATE_HZ
from s2f_lib.errors import ClipRefused, RefusalReason
from s2f_lib.faces.alignment import CROP_MARGIN, landmark_predictor
from s2f_lib.faces.extractor import DlibResNet
from s2f_lib.media import decode
from s2f_lib.storage import cached_rows, digest, file_digest
from s2f_lib.voices.embedding import DURATION_S

_THRESHOLD = -0.3  # below dlib's default of 0, because every image shows a face
_SIDE, _TOP, _BOTTOM = 0.12, 0.2, 0.9  # fixed box, as shares of the width and the height
_MIN_PX = 16
_CHIP_PX = 150  # input of dlib's network
_BATCH_SIZE = 16  # dlib is four times as fast on a batch
_METHOD = "gradients -0.3, landmarks 5, margin 0.25, 1"  # part of the cache's name


@dataclass(frozen=True)
class FaceFeatures:
    """Features of some faces."""

    upright: np.ndarray  # (n, 128) float32
    mirrored: np.ndarray  # (n, 128) float32, of the mirror images; zero if they were not computed
    found: np.ndarray  # (n,) bool, whether the detector found the face; otherwise the fixed box was used


def read_voice(path: Path, *, duration_s: float = DURATION_S) -> tuple[np.ndarray, int]:
    """Read the first `duration_s` seconds of a voice, repeated if the file is shorter.

    Returns `(samples,)` int16 mono audio at 16 kHz, and the number of samples that come from the file. A file
    that is missing, damaged, silent or shorter than half a second raises ClipRefused.
    """
    length_s = decode.probe(path).duration_s
    if length_s > 0:
        end_s = min(duration_s, length_s)
        audio = decode.read_audio(path, start_s=0.0, end_s=end_s, sample_rate_hz=SAMPLE_RATE_HZ)
    else:  # a file that was written to a pipe has no stored length
        audio = decode.read_recording(path, longest_s=duration_s, sample_rate_hz=SAMPLE_RATE_HZ)
    if len(audio) < SAMPLE_RATE_HZ / 2:
        raise ClipRefused(
            RefusalReason.TOO_SHORT,
            f"{path.name} has {len(audio) / SAMPLE_RATE_HZ:.2f} s of sound; expected at least 0.5 s",
        )
    n_samples = round(duration_s * SAMPLE_RATE_HZ)
    return decode.repeat_to(audio, n_samples), min(len(audio), n_samples)


def read_image(path: Path) -> np.ndarray:
    """Read an image, `(height, width, 3)` uint8 RGB.

    A file that is missing, not an image or too small to show a face raises ClipRefused.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as image:
            pixels = np.asarray(image.convert("RGB"))
    except FileNotFoundError:
        raise ClipRefused(RefusalReason.MEDIA_MISSING, f"no image at {path.name}") from None
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError) as error:
        raise ClipRefused(RefusalReason.NOT_MEDIA, f"{path.name} is not a readable image ({error})") from None
    if min(pixels.shape[:2]) < _MIN_PX:
        raise ClipRefused(RefusalReason.FACE_TOO_SMALL, f"{path.name} is {pixels.shape[1]} px wide")
    return pixels


def align_image(pixels: np.ndarray, *, size_px: int) -> tuple[np.ndarray, bool]:
    """Find and align the face in a published crop, `(height, width, 3)` uint8 RGB.

    Returns the aligned face, `(size_px, size_px, 3)` uint8 RGB, and whether the detector found it; otherwise
    the fixed box was used.
    """
    import dlib

    pixels = np.ascontiguousarray(pixels)
    box, found = _find_face(pixels)
    landmarks = landmark_predictor()(pixels, box)
    return np.asarray(dlib.get_face_chip(pixels, landmarks, size=size_px, padding=CROP_MARGIN)), found


def extract_faces(
    files: Sequence[Path],
    *,
    mirrored: bool = True,
    cache: Path | None = None,
    progress: Callable[[int, int], object] | None = None,
) -> FaceFeatures:
    """Compute dlib's features of published faces; each is cached under the digest of its file.

    `mirrored` adds the features of the mirror images, which takes twice the time. `cache` is the folder of
    the cached features; None: no files. A file that is not an image raises ClipRefused.
    """
    network = DlibResNet()
    dimension = network.dimension

    def compute(indices: list[int]) -> np.ndarray:
        images = [read_image(files[index]) for index in indices]
        upright, found = _align_all(images)
        rows = np.zeros((len(images), 2 * dimension + 1), np.float32)
        rows[:, :dimension] = network(upright)
        if mirrored:
            rows[:, dimension:-1] = network(_align_all([image[:, ::-1] for image in images])[0])
        rows[:, -1] = found
        return rows

    method = digest(f"{network.fingerprint} {_METHOD} {mirrored}", length=16)
    rows = cached_rows(
        cache / f"pair_faces-{method}" if cache is not None else None,
        [file_digest(file, length=32) for file in files],
        compute,
        dimension=2 * dimension + 1,
        batch_size=_BATCH_SIZE,
        progress=progress,
    )
    return FaceFeatures(rows[:, :dimension], rows[:, dimension:-1], rows[:, -1].astype(bool))


def _align_all(images: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    faces, found = zip(*(align_image(image, size_px=_CHIP_PX) for image in images), strict=True)
    return np.stack(faces), np.array(found)


def _find_face(pixels: np.ndarray) -> tuple[Any, bool]:
    """Return dlib's rectangle of the most confident face, or the fixed box, and whether it was found."""
    import dlib

    for upsampled in (0, 1):
        boxes, scores, _ = _detector().run(pixels, upsampled, _THRESHOLD)
        if len(boxes):
            return boxes[int(np.argmax(scores))], True
    height, width = pixels.shape[:2]
    side = int(_SIDE * width)
    return dlib.rectangle(side, int(_TOP * height), width - side, int(_BOTTOM * height)), False


@lru_cache(maxsize=1)
def _detector() -> Any:
    import dlib

    return dlib.get_frontal_face_detector()
