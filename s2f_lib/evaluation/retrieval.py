"""Retrieval of the true face by the predicted features (report, "Recall@K")."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.spatial.distance import cdist

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
        `(n, m)` float64; `large_gallery.ranks_in_gallery` compares what does not fit into memory.
    """
    queries, gallery = unit(queries), unit(gallery)
    if measure == "cosine":
        return queries @ gallery.T
    if measure == "l2":
        return -np.sqrt(np.maximum(0.0, 2.0 - 2.0 * (queries @ gallery.T)))
    if measure == "l1":
        return -cdist(queries, gallery, "cityblock")  # no (n, m, dimension) in between
    raise InputError(f"unknown similarity {measure!r}: expected cosine, l1 or l2")


@dataclass(frozen=True)
class Ranks:
    """Where each query's true face stands in a gallery.

    Attributes
    ----------
    better
        `(n,)` int, faces that are more alike to the query.
    ties
        `(n,)` int, other faces that are equally alike.
    """

    better: np.ndarray
    ties: np.ndarray

    @property
    def ranks(self) -> np.ndarray:
        """`(n,)` float64 from 1, which is first; ties count as the mean of the places that they take."""
        return 1.0 + self.better + self.ties / 2


def ranks_with_ties(similarity: np.ndarray, target: np.ndarray | None = None) -> Ranks:
    """Return where each query's true face stands.

    Parameters
    ----------
    similarity
        `(n, m)`, larger is more alike.
    target
        `(n,)` int, the column of each query's true face; by default row i's is column i.
    """
    n, m = similarity.shape
    if target is None:
        if n != m:
            raise InputError(f"{n} queries and {m} gallery faces: say which face is whose with `target`")
        target = np.arange(n)
    own = similarity[np.arange(n), target][:, None]
    better = (similarity > own).sum(axis=1)
    return Ranks(better, (similarity == own).sum(axis=1) - 1)  # the true face itself is one of the equal


def true_ranks(similarity: np.ndarray, target: np.ndarray | None = None) -> np.ndarray:
    """Return the rank of each query's true face: 1 is first.

    Ties count as the mean of the places that they take.

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
    return ranks_with_ties(similarity, target).ranks


def hit_probability(ranks: np.ndarray, k: int | np.ndarray, ties: np.ndarray | None = None) -> np.ndarray:
    """Return how probably each query's true face is among the first k, ties in a drawn order.

    Without ties this is 0 or 1.  Where a query finds all faces alike, it is k over the gallery's
    size, so that a guess scores as chance: its mean place alone would put it below every small k.

    Parameters
    ----------
    ranks
        From 1, ties at the mean of their places; any shape.
    k
        How many faces are looked at.
    ties
        Of the ranks' shape: how many other faces are as alike as the true one; None: there are none.
    """
    ties = 0 if ties is None else np.asarray(ties)
    better = np.asarray(ranks) - 1 - ties / 2
    return np.clip((k - better) / (ties + 1.0), 0.0, 1.0)


def reciprocal_rank(ranks: np.ndarray, ties: np.ndarray) -> np.ndarray:
    """Return the expected reciprocal rank of each query, ties in a drawn order; arguments as above."""
    ranks, ties = np.asarray(ranks, dtype=np.float64), np.asarray(ties)
    value = 1.0 / ranks
    tied = ties > 0
    if tied.any():
        first, last = ranks[tied] - ties[tied] / 2, ranks[tied] + ties[tied] / 2
        harmonic = np.concatenate([[0.0], np.cumsum(1.0 / np.arange(1, int(last.max()) + 1))])
        value[tied] = (harmonic[last.astype(int)] - harmonic[first.astype(int) - 1]) / (ties[tied] + 1)
    return value


def recall_at(ranks: np.ndarray, k: int, ties: np.ndarray | None = None) -> float:
    """Return the share of queries whose true face is among the first k, in [0, 1]; see `hit_probability`."""
    return float(np.mean(hit_probability(ranks, k, ties)))


def expected_hits(similarity: np.ndarray, k: int) -> np.ndarray:
    """Return how probably each query's true face is among the first k, as `hit_probability`.

    Parameters
    ----------
    similarity
        `(n, n)`, row i's true face in column i.

    Returns
    -------
    numpy.ndarray
        `(n,)` float64 in [0, 1].
    """
    ranked = ranks_with_ties(similarity)
    return hit_probability(ranked.ranks, k, ranked.ties)


def chance_recall(k: int, gallery_size: int) -> float:
    """Return the recall at k of a guess: k over the gallery's size, at most 1."""
    return min(1.0, k / gallery_size)


def nearest(similarity: np.ndarray, k: int) -> np.ndarray:
    """Return the columns of the k most alike gallery faces, best first: `(n, k)` int."""
    return np.argsort(-similarity, axis=1, kind="stable")[:, :k]
