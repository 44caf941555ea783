"""A set of aligned faces with their features, made once from picture files and kept on disk.

It is to the decoder what prepared clips are, without voices: `training.decoder`
takes either.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from s2f_lib.errors import InputError
from s2f_lib.faces.alignment import align_face
from s2f_lib.faces.detector import Detection
from s2f_lib.faces.extractor import FaceFeatureExtractor

logger = logging.getLogger(__name__)

FORMAT_VERSION = 2  # of the files; another number makes them anew
_CHUNK = 64  # faces in work at once
_RIM = 0.25  # of a picture's side


@dataclass(frozen=True)
class FaceSet:
    """Aligned faces, 224 x 224, and their features.

    Attributes
    ----------
    clip_ids
        A name a face.
    video_ids
        What validation may not divide: for single pictures, the name again.
    features
        (n, dimension) float32.
    images
        (n, 224, 224, 3) uint8 RGB; may be mapped from disk.
    """

    clip_ids: list[str]
    video_ids: list[str]
    features: np.ndarray
    images: np.ndarray

    def __len__(self) -> int:
        return len(self.clip_ids)

    @cached_property
    def digest(self) -> str:
        """Names these faces and their features, 16 hexadecimal digits."""
        digest = hashlib.sha256("\n".join(self.clip_ids).encode())
        digest.update(np.ascontiguousarray(self.features).data)
        return digest.hexdigest()[:16]

    def crops(self, indices: Sequence[int] | np.ndarray | None = None) -> np.ndarray:
        """Return the faces at `indices`, all by default: (m, 224, 224, 3) uint8 RGB."""
        return np.array(self.images if indices is None else self.images[np.asarray(indices)])

    def subset(self, mask: np.ndarray) -> FaceSet:
        """Return the faces where a (n,) boolean mask is true, or at the given (m,) indices, in memory."""
        mask = np.asarray(mask)
        rows = np.flatnonzero(mask) if mask.dtype == bool else mask
        return FaceSet(
            [self.clip_ids[row] for row in rows],
            [self.video_ids[row] for row in rows],
            self.features[rows],
            self.images[rows],
        )


def face_set_from_files(
    files: Sequence[Path],
    extractor: FaceFeatureExtractor,
    *,
    contents: Sequence[str],
    cache: Path,
    margin: float = 0.25,
    size_px: int = 224,
    progress: Callable[..., Any] | None = None,
) -> FaceSet:
    """Align the faces of picture files and compute their features, once.

    Parameters
    ----------
    files
        Each shows one face that fills it, as UTKFace's cropped pictures do: the five-point
        landmarks are sought within the middle of the picture, and no detector is asked.
    extractor
        Gives the features.
    contents
        The files' digests: they, the extractor's fingerprint and the crop decide the folder
        in `cache` in which the result is kept.
    cache
        A folder for such results.
    margin, size_px
        Of the crop; see `faces.alignment.align_face`.
    progress
        Called with (done, total).

    Raises
    ------
    InputError
        A file is no picture.
    """
    names = [path.name for path in files]
    made_of = {
        "form": FORMAT_VERSION,
        "margin": margin,
        "size_px": size_px,
        "extractor": extractor.fingerprint,
    }
    text = json.dumps([made_of, names, list(contents)])
    folder = Path(cache) / hashlib.sha256(text.encode()).hexdigest()[:12]
    done = folder / "made.json"
    if not done.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        shape = (len(files), size_px, size_px, 3)
        images = np.lib.format.open_memmap(folder / "faces.npy", mode="w+", dtype=np.uint8, shape=shape)
        features = np.zeros((len(files), extractor.dimension), np.float32)
        for start in range(0, len(files), _CHUNK):
            rows = slice(start, start + _CHUNK)
            images[rows] = [_aligned(path, margin=margin, size_px=size_px) for path in files[rows]]
            features[rows] = extractor(np.array(images[rows]))
            if progress is not None:
                progress(min(start + _CHUNK, len(files)), len(files))
        images.flush()
        np.save(folder / "features.npy", features)
        done.write_text(json.dumps(made_of), encoding="utf-8")
    return FaceSet(
        names, names, np.load(folder / "features.npy"), np.load(folder / "faces.npy", mmap_mode="r")
    )


def _aligned(path: Path, *, margin: float, size_px: int) -> np.ndarray:
    import cv2

    image = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if image is None:
        raise InputError(f"{path} is no picture: expected a JPEG file of a face")
    image = cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
    height, width = image.shape[:2]
    near, far = margin / (1 + 2 * margin), (1 + margin) / (1 + 2 * margin)  # the face box within
    # the crop may reach beyond a picture that was cut tightly: its edge goes on, instead of black
    rim = round(_RIM * max(height, width))
    image = cv2.copyMakeBorder(image, rim, rim, rim, rim, cv2.BORDER_REPLICATE)
    left, right, top, bottom = near * width, far * width, near * height, far * height
    box = Detection(left + rim, top + rim, right + rim, bottom + rim, confidence=1.0)
    return align_face(image, box, size_px=size_px, margin=margin).image
