"""Prepared clips as batches of tensors, and the validation share of the training videos."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from s2f_lib.errors import DataError
from s2f_lib.preparation.shards import MappedAudio, PreparedClips

#: Decoded faces are kept in memory up to this; above, each batch decodes its own.
FACES_IN_MEMORY_BYTES = 4 * 2**30


class PairedArrays(Dataset):
    """Arrays of one length, indexed together, a batch at a time.

    Parameters
    ----------
    arrays
        `(n, ...)` each: int16 audio and float32 features, or features and uint8 faces.
        Mapped audio stays on disk; only the rows of a batch are read.
    rows
        `(m,)` int, the rows that make up the data set; all by default.
    """

    def __init__(self, *arrays: np.ndarray | MappedAudio, rows: np.ndarray | None = None) -> None:
        lengths = {len(array) for array in arrays}
        if len(lengths) != 1:
            raise DataError(f"paired arrays must have one length, found {sorted(lengths)}")
        self._arrays = [
            array if isinstance(array, MappedAudio) else torch.from_numpy(np.ascontiguousarray(array))
            for array in arrays
        ]
        self._rows = torch.arange(lengths.pop()) if rows is None else torch.from_numpy(np.asarray(rows))

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> tuple[Tensor, ...]:
        return tuple(values[0] for values in self.__getitems__([index]))

    def __getitems__(self, indices: Sequence[int]) -> tuple[Tensor, ...]:
        rows = self._rows[list(indices)]
        # index_select and mapped audio let other threads run meanwhile, unlike numpy's indexing
        return tuple(
            torch.from_numpy(array[rows.numpy()])
            if isinstance(array, MappedAudio)
            else array.index_select(0, rows)
            for array in self._arrays
        )


class FeaturesAndFaces(Dataset):
    """Features and faces of some clips, the faces decoded once or, where they are many, a batch at a time.

    Parameters
    ----------
    clips
        The prepared clips.
    rows
        `(m,)` int, those that make up the data set.
    """

    def __init__(self, clips: PreparedClips, rows: np.ndarray) -> None:
        self._clips = clips
        self._rows = rows
        side = clips.crops(rows[:1]).shape[1] if len(rows) else 0
        fits = len(rows) * side * side * 3 <= FACES_IN_MEMORY_BYTES
        self._faces = torch.from_numpy(clips.crops(rows)) if fits else None

    def __len__(self) -> int:
        return len(self._rows)

    def __getitems__(self, indices: Sequence[int]) -> tuple[Tensor, Tensor]:
        rows = self._rows[list(indices)]
        features = torch.from_numpy(np.ascontiguousarray(self._clips.features[rows]))
        if self._faces is not None:
            return features, self._faces.index_select(0, torch.as_tensor(indices))
        return features, torch.from_numpy(self._clips.crops(rows))


def validation_mask(video_ids: Sequence[str], *, share: float, seed: int) -> np.ndarray:
    """Choose whole videos for validation.

    The choice hangs on each video's id alone, so that more clips do not move
    the ones that were chosen before.

    Parameters
    ----------
    video_ids
        Of the training clips.
    share
        Expected share of the videos, in [0, 1).

    Returns
    -------
    numpy.ndarray
        `(n,)` bool, true for validation.
    """
    limit = int(share * 2**32)
    hashes = (hashlib.sha256(f"validation-{seed}-{video}".encode()).digest()[:4] for video in video_ids)
    return np.array([int.from_bytes(value, "big") < limit for value in hashes], dtype=bool)


def mean_direction(features: np.ndarray, rows: np.ndarray, *, chunk: int = 4096) -> np.ndarray:
    """Return the mean of the unit features at `rows`, `(dimension,)` float32, a chunk in memory at a time."""
    total = np.zeros(features.shape[1])
    for some in _directions(features, rows, chunk):
        total += some.sum(axis=0)
    return (total / max(1, len(rows))).astype(np.float32)


def covariance_of_directions(features: np.ndarray, rows: np.ndarray, *, chunk: int = 4096) -> np.ndarray:
    """Return the covariance of the unit features at `rows`, `(dimension, dimension)` float64."""
    mean = mean_direction(features, rows, chunk=chunk).astype(np.float64)
    total = np.zeros((features.shape[1], features.shape[1]))
    for some in _directions(features, rows, chunk):
        total += (some - mean).T @ (some - mean)
    return total / max(1, len(rows))


def _directions(features: np.ndarray, rows: np.ndarray, chunk: int) -> Iterator[np.ndarray]:
    for start in range(0, len(rows), chunk):
        some = np.asarray(features[rows[start : start + chunk]], dtype=np.float64)
        yield some / np.maximum(np.linalg.norm(some, axis=1, keepdims=True), 1e-12)
