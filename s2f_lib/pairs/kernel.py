"""How alike two voices are: a weighted mean of Gaussian kernels, one a block of descriptors.

Each block is standardised by the training voices, and its kernel's width is the median distance
between them; so no block outweighs another by its length or its units.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from s2f_lib.errors import InputError

_CLIPPED_AT = 5.0  # standard deviations: one odd clip must not stretch a block
_TINY = 1e-9


class VoiceKernel:
    """A kernel over blocks of voice descriptors, fitted on the training voices.

    Parameters
    ----------
    voices
        Block to `(n, d)` descriptors of the training voices.
    weights
        Block to its weight; blocks that `voices` lacks are left out.
    gamma
        Of exp(-gamma d^2 / median d^2), above 0.

    Raises
    ------
    InputError
        There is none of the blocks.
    """

    def __init__(
        self, voices: Mapping[str, np.ndarray], weights: Mapping[str, float], *, gamma: float
    ) -> None:
        self.weights = {name: weight for name, weight in weights.items() if name in voices}
        if not self.weights:
            raise InputError(f"no voice descriptor to compare by: expected one of {', '.join(weights)}")
        self.gamma = gamma
        self._fitted: dict[str, tuple[np.ndarray, np.ndarray, np.ndarray, float]] = {}
        for name in self.weights:
            block = np.asarray(voices[name], dtype=np.float64)
            mean, deviation = block.mean(axis=0), block.std(axis=0) + _TINY
            train = standardised(block, mean, deviation)
            median = float(np.median(squared_distances(train, train)))
            self._fitted[name] = (mean, deviation, train, max(median, _TINY))

    def __call__(self, voices: Mapping[str, np.ndarray]) -> np.ndarray:
        """Return `(m, n)` float64 in (0, 1]: how alike m voices are to each of the n training voices."""
        total = np.zeros(())
        for name, weight in self.weights.items():
            mean, deviation, train, median = self._fitted[name]
            block = standardised(np.asarray(voices[name], dtype=np.float64), mean, deviation)
            total = total + weight * np.exp(-self.gamma * squared_distances(block, train) / median)
        return total / sum(self.weights.values())


def squared_distances(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return the squared Euclidean distances `(n, m)` of `(n, d)` and `(m, d)`."""
    products = first @ second.T
    squares = (first**2).sum(axis=1)[:, None] + (second**2).sum(axis=1)[None]
    return np.maximum(squares - 2 * products, 0.0)


def standardised(block: np.ndarray, mean: np.ndarray, deviation: np.ndarray) -> np.ndarray:
    """Return `(n, d)` descriptors in standard deviations from the mean, at most five; undefined: 0."""
    scaled = (np.asarray(block, dtype=np.float64) - mean) / deviation
    return np.clip(np.nan_to_num(scaled), -_CLIPPED_AT, _CLIPPED_AT)
