"""Prepared clips as batches of tensors, and the validation share of the training videos."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from s2f_lib.errors import DataError


class PairedArrays(Dataset):
    """Arrays of one length, indexed together, a batch at a time.

    Parameters
    ----------
    arrays
        `(n, ...)` each: int16 audio and float32 features, or features and uint8 faces.
    """

    def __init__(self, *arrays: np.ndarray) -> None:
        lengths = {len(array) for array in arrays}
        if len(lengths) != 1:
            raise DataError(f"paired arrays must have one length, found {sorted(lengths)}")
        self._tensors = [torch.from_numpy(np.ascontiguousarray(array)) for array in arrays]

    def __len__(self) -> int:
        return len(self._tensors[0])

    def __getitem__(self, index: int) -> tuple[Tensor, ...]:
        return tuple(tensor[index] for tensor in self._tensors)

    def __getitems__(self, indices: Sequence[int]) -> tuple[Tensor, ...]:
        return tuple(tensor[list(indices)] for tensor in self._tensors)


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
