"""The face space of the real pairs: dlib's 128 numbers of a published face, and of its mirror image."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from s2f_lib.features.cache import VectorCache
from s2f_lib.features.dlib_resnet import DlibResNet
from s2f_lib.features.voice import Progress
from s2f_lib.preparation.pair_media import align_picture, read_picture

_CHIP_PX = 150  # what dlib's network takes: cut out of the picture at once, without a step between
_METHOD = "gradients -0.3, landmarks 5, margin 0.25, 1"


@dataclass(frozen=True)
class FaceDescriptors:
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


def describe_faces(
    files: Sequence[Path],
    *,
    mirrored: bool = True,
    cache: Path | None = None,
    progress: Progress | None = None,
) -> FaceDescriptors:
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
    name = f"pair_faces-{hashlib.sha256(method.encode()).hexdigest()[:16]}"
    store = VectorCache(cache / name if cache is not None else None, 2 * dimension + 1)
    vectors = np.zeros((len(files), 2 * dimension + 1), np.float32)
    for place, file in enumerate(files):
        digest = hashlib.sha256(Path(file).read_bytes()).hexdigest()
        kept = store.get(digest)
        if kept is None:
            kept = _describe(read_picture(file), network, mirrored=mirrored)
            store.put(digest, kept)
        vectors[place] = kept
        if progress:
            progress(place + 1, len(files))
    return FaceDescriptors(
        vectors[:, :dimension], vectors[:, dimension : 2 * dimension], vectors[:, -1].astype(bool)
    )


def _describe(picture: np.ndarray, network: DlibResNet, *, mirrored: bool) -> np.ndarray:
    """Return (257,): the picture's descriptor, its mirror image's, and whether the face was found."""
    upright, found = align_picture(picture, size_px=_CHIP_PX)
    result = np.zeros(2 * network.dimension + 1, np.float32)
    result[: network.dimension] = network(upright[None])[0]
    if mirrored:
        mirror, _ = align_picture(picture[:, ::-1], size_px=_CHIP_PX)
        result[network.dimension : -1] = network(mirror[None])[0]
    result[-1] = found
    return result
