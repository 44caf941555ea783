"""Distances between true and predicted features (report, "Evaluation Metric (Encoder)")."""

from __future__ import annotations

import numpy as np

from s2f_lib.errors import InputError


def unit(features: np.ndarray) -> np.ndarray:
    """Return features of length one.

    Parameters
    ----------
    features
        `(n, dimension)` float.

    Raises
    ------
    InputError
        A row is zero or not finite: it has no direction.
    """
    features = np.asarray(features, dtype=np.float64)
    length = np.linalg.norm(features, axis=1, keepdims=True)
    bad = ~np.isfinite(length[:, 0]) | (length[:, 0] == 0)
    if bad.any():
        raise InputError(
            f"{int(bad.sum())} of {len(features)} feature vectors are zero or not finite "
            f"(first: row {int(np.flatnonzero(bad)[0])}): they have no direction to compare"
        )
    return features / length


def pair_distances(true: np.ndarray, predicted: np.ndarray) -> dict[str, np.ndarray]:
    """Return each pair's L1 and L2 distance and cosine similarity, on unit vectors.

    Parameters
    ----------
    true, predicted
        `(n, dimension)` float, row i of one belonging to row i of the other.

    Returns
    -------
    dict of numpy.ndarray
        "l1" in [0, 2 sqrt(dimension)], "l2" in [0, 2], "cosine" in [-1, 1]; `(n,)` each.
    """
    if np.shape(true) != np.shape(predicted):
        raise InputError(
            "true and predicted features must have one shape, "
            f"found {np.shape(true)} and {np.shape(predicted)}"
        )
    true, predicted = unit(true), unit(predicted)
    difference = true - predicted
    return {
        "l1": np.abs(difference).sum(axis=1),
        "l2": np.linalg.norm(difference, axis=1),
        "cosine": np.clip((true * predicted).sum(axis=1), -1.0, 1.0),
    }
