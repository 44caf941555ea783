"""The face space of the real pairs: dlib's 128 numbers of a published face, and of its mirror image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from s2f_lib.faces.dlib_port.extractor import DlibResNet
from s2f_lib.pairs.media import align_image, read_image
from s2f_lib.storage import cached_rows, digest, file_digest
from s2f_lib.voices.embedding import Progress

_CHIP_PX = 150  # what dlib's network takes: cut out of the picture at once, without a step between
_BATCH = 16  # dlib is four times as fast on a batch
_METHOD = "gradients -0.3, landmarks 5, margin 0.25, 1"


@dataclass(frozen=True)
class FaceFeatures:
    """Descriptors of some pictures.

    Attributes
    ----------
    upright, mirrored
        `(n, 128)` float32, of the pictures and of their mirror images (zeros where not asked for).
    found
        `(n,)` bool: a detector found the face; else a fixed box was taken.
    """

    upright: np.ndarray
    mirrored: np.ndarray
    found: np.ndarray


def extract_faces(
    files: Sequence[Path],
    *,
    mirrored: bool = True,
    cache: Path | None = None,
    progress: Progress | None = None,
) -> FaceFeatures:
    """Describe published faces, each kept under the digest of its file.

    Parameters
    ----------
    files
        Pictures of one large face each.
    mirrored
        Also their mirror images, which takes twice the time.
    cache
        Folder of what was described before; None: nothing is kept.

    Raises
    ------
    ClipRefused
        A file is no picture.
    """
    network = DlibResNet()
    dimension = network.dimension
    method = f"{network.fingerprint} {_METHOD} {mirrored}"
    vectors = cached_rows(
        cache / f"pair_faces-{digest(method, length=16)}" if cache is not None else None,
        [file_digest(file, length=32) for file in files],
        lambda indices: _extract([read_image(files[index]) for index in indices], network, mirrored=mirrored),
        dimension=2 * dimension + 1,
        batch_size=_BATCH,
        progress=progress,
    )
    return FaceFeatures(
        vectors[:, :dimension], vectors[:, dimension : 2 * dimension], vectors[:, -1].astype(bool)
    )


def _extract(images: Sequence[np.ndarray], network: DlibResNet, *, mirrored: bool) -> np.ndarray:
    """Return (n, 257): descriptors of pictures and of their mirror images, and whether a face was found."""
    upright, found = _aligned(images)
    result = np.zeros((len(images), 2 * network.dimension + 1), np.float32)
    result[:, : network.dimension] = network(upright)
    if mirrored:
        result[:, network.dimension : -1] = network(_aligned([image[:, ::-1] for image in images])[0])
    result[:, -1] = found
    return result


def _aligned(images: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    faces, found = zip(*(align_image(image, size_px=_CHIP_PX) for image in images), strict=True)
    return np.stack(faces), np.array(found)
