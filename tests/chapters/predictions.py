"""Predictions for the tests of several chapters."""

from __future__ import annotations

import numpy as np

from s2f_lib.evaluation.tables import Predictions


def predictions_of(n: int, *, noise: float, seed: int = 0) -> Predictions:
    """Return features of `n` people, and the same features plus noise as the predictions."""
    rng = np.random.default_rng(seed)
    true = rng.normal(size=(n, 16))
    ids = tuple(f"clip{i}" for i in range(n))
    return Predictions(ids, true, true + noise * rng.normal(size=true.shape))
