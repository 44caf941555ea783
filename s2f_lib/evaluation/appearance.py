"""What a face looks like, judged without any network: a second opinion on drawn faces.

A decoder that was trained against an extractor may learn what pleases that
extractor.  Histograms of oriented gradients (Dalal and Triggs 2005) know
nothing of it: they see where edges run.
"""

from __future__ import annotations

import cv2
import numpy as np
from sklearn.decomposition import PCA

_SIDE_PX, _CELL_PX, _BINS = 112, 14, 9  # 8 x 8 cells, blocks of 2 x 2, steps of 20 degrees


class AppearanceFeatures:
    """Oriented gradients of aligned faces, their main directions of change made equally important.

    Parameters
    ----------
    faces
        `(n, height, width, 3)` uint8 RGB: training faces, for mean and directions.
    components
        Directions kept, at most n - 1.
    """

    def __init__(self, faces: np.ndarray, *, components: int = 128) -> None:
        self._pca = PCA(min(components, len(faces) - 1), whiten=True, svd_solver="randomized", random_state=0)
        self._pca.fit(oriented_gradients(faces))

    def __call__(self, faces: np.ndarray) -> np.ndarray:
        """Return `(n, components)` float; compare them by cosine."""
        return self._pca.transform(oriented_gradients(faces))


def oriented_gradients(faces: np.ndarray) -> np.ndarray:
    """Return histograms of oriented gradients, blocks normalised.

    Parameters
    ----------
    faces
        `(n, height, width, 3)` uint8 RGB, square.

    Returns
    -------
    numpy.ndarray
        `(n, 1764)` float32: 7 x 7 blocks of 2 x 2 cells of 9 directions.
    """
    return np.stack([_gradients_of_face(face) for face in faces])


def _gradients_of_face(face: np.ndarray) -> np.ndarray:
    small = cv2.resize(np.ascontiguousarray(face), (_SIDE_PX, _SIDE_PX), interpolation=cv2.INTER_AREA)
    grey = cv2.cvtColor(small, cv2.COLOR_RGB2GRAY).astype(np.float32)
    along_y, along_x = np.gradient(grey)
    strength = np.hypot(along_x, along_y)
    bins = ((np.arctan2(along_y, along_x) % np.pi) / np.pi * _BINS).astype(int) % _BINS
    cells = _SIDE_PX // _CELL_PX
    rows, columns = np.indices(grey.shape) // _CELL_PX
    bin_index = (rows * cells + columns) * _BINS + bins
    counts = np.bincount(bin_index.ravel(), strength.ravel(), minlength=cells * cells * _BINS)
    counts = counts.reshape(cells, cells, _BINS)
    blocks = np.concatenate(
        [counts[:-1, :-1], counts[1:, :-1], counts[:-1, 1:], counts[1:, 1:]], axis=2
    )  # (7, 7, 36)
    length = np.linalg.norm(blocks, axis=2, keepdims=True)
    return (blocks / np.maximum(length, 1e-6)).astype(np.float32).ravel()
