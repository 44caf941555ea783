"""Retrieval of the true face by the predicted features (report, "Recall@K")."""

from __future__ import annotations

import numpy as np

from s2f_lib.config import SimilarityName
from s2f_lib.errors import InputError
from s2f_lib.evaluation.distances import unit


def similarity_matrix(queries: np.ndarray, gallery: np.ndarray, measure: SimilarityName) -> np.ndarray:
    """Return how alike each query and each gallery face are; larger is more alike.

    Parameters
    ----------
    queries
        `(n, dimension)`, predicted from voices.
    gallery
        `(m, dimension)`, of true faces.
    measure
        "cosine", or "l1"/"l2": the negative distance, all on unit vectors.

    Returns
    -------
    numpy.ndarray
        `(n, m)` float64.
    """
    queries, gallery = unit(queries), unit(gallery)
    if measure == "cosine":
        return queries @ gallery.T
    if measure == "l2":
        return -np.sqrt(np.maximum(0.0, 2.0 - 2.0 * (queries @ gallery.T)))
    if measure == "l1":
        rows = [-np.abs(gallery - query).sum(axis=1) for query in queries]  # (n, m), one row at a time
        return np.stack(rows)
    raise InputError(f"unknown similarity {measure!r}: expected cosine, l1 or l2")


def true_ranks(similarity: np.ndarray, target: np.ndarray | None = None) -> np.ndarray:
    """Return the rank of each query's true face: 1 is first.

    Ties count as the mean of the places that they take, so that an encoder
    which always says the same is at chance, not at the top.

    Parameters
    ----------
    similarity
        `(n, m)`, larger is more alike.
    target
        `(n,)` int, the column of each query's true face; by default row i's is column i.

    Returns
    -------
    numpy.ndarray
        `(n,)` float64 in [1, m].
    """
    n, m = similarity.shape
    if target is None:
        if n != m:
            raise InputError(f"{n} queries and {m} gallery faces: say which face is whose with `target`")
        target = np.arange(n)
    own = similarity[np.arange(n), target][:, None]
    better = (similarity > own).sum(axis=1)
    equal = (similarity == own).sum(axis=1) - 1  # the true face itself is one of them
    return 1.0 + better + equal / 2


def recall_at(ranks: np.ndarray, k: int) -> float:
    """Return the share of queries whose true face is among the first k, in [0, 1]."""
    return float(np.mean(np.asarray(ranks) <= k))


def expected_hits(similarity: np.ndarray, k: int) -> np.ndarray:
    """Return how probably each query's true face is among the first k, ties in a drawn order.

    Without ties this is 0 or 1.  Where a query finds all faces alike, it is k over the gallery's
    size: its mean place alone would put it below every small k.

    Parameters
    ----------
    similarity
        `(n, n)`, row i's true face in column i.

    Returns
    -------
    numpy.ndarray
        `(n,)` float64 in [0, 1].
    """
    own = np.diag(similarity)[:, None]
    better, equal = (similarity > own).sum(axis=1), (similarity == own).sum(axis=1)
    return np.clip((k - better) / equal, 0.0, 1.0)


def chance_recall(k: int, gallery_size: int) -> float:
    """Return the recall at k of a guess: k over the gallery's size, at most 1."""
    return min(1.0, k / gallery_size)


def nearest(similarity: np.ndarray, k: int) -> np.ndarray:
    """Return the columns of the k most alike gallery faces, best first: `(n, k)` int."""
    return np.argsort(-similarity, axis=1, kind="stable")[:, :k]
