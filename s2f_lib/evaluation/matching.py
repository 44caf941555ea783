"""Matching and verification as in the voice-face literature (SVHF, DIMNet, Wen et al.).

1:N matching: how often the true face is the most similar one among N candidates. Verification: the area
under the ROC curve of true against other faces. Within strata, the other faces share attributes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from s2f_lib.config import IntervalSettings
from s2f_lib.errors import InputError
from s2f_lib.evaluation.statistics import (
    DEFAULT_INTERVAL,
    Interval,
    group_numbers,
    percentile_interval,
    resampled_weights,
)


def matching_accuracy(
    similarity: np.ndarray, n_candidates: int, *, strata: Sequence[object] | None = None
) -> np.ndarray:
    """Return each query's exact probability to find its true face among N candidates.

    The N - 1 other candidates are chosen at random without replacement. If w of the m other faces are less
    similar than the true face, the probability is C(w, N-1) / C(m, N-1); ties count half in w.

    Parameters
    ----------
    similarity
        `(n, n)`; the true face of row i is column i.
    n_candidates
        Number of candidates N: 2, 5 or 10 in the literature; chance is 1/N.
    strata
        `n` labels; the other candidates have the query's label. None: all faces can be candidates.

    Returns
    -------
    numpy.ndarray
        `(n,)` in [0, 1]; NaN if a stratum has fewer than N people.

    Examples
    --------
    >>> matching_accuracy(np.array([[0.9, 0.1, 0.2], [0.5, 0.4, 0.1], [0.0, 0.0, 1.0]]), 2)
    array([1. , 0.5, 1. ])
    """
    n = len(similarity)
    if similarity.shape != (n, n):
        raise InputError(f"matching takes a square similarity, found {similarity.shape}")
    if n_candidates < 2:
        raise InputError(f"matching needs at least 2 candidates, found {n_candidates}")
    wins = np.full(n, np.nan)
    for i, others in _others(n, strata):
        if len(others) < n_candidates - 1:
            continue
        row = similarity[i, others]
        n_worse = float((row < similarity[i, i]).sum()) + 0.5 * float((row == similarity[i, i]).sum())
        draws = np.arange(n_candidates - 1)  # C(w, N-1) / C(m, N-1) is the product of (w - j) / (m - j)
        wins[i] = np.prod(np.clip(n_worse - draws, 0, None) / (len(others) - draws))
    return wins


def verification_interval(
    similarity: np.ndarray,
    *,
    strata: Sequence[object] | None = None,
    group_ids: Sequence[object] | None = None,
    settings: IntervalSettings = DEFAULT_INTERVAL,
) -> Interval:
    """Return the area under the ROC curve of true against other faces, with its interval.

    Scores of all queries are pooled, as for a verifier with one threshold; 0.5 is chance. The bootstrap
    resamples the speakers and keeps all faces.

    Parameters
    ----------
    similarity, strata
        See `matching_accuracy`.
    group_ids
        `n` ids of the speakers. None: each row is a different person.
    settings
        Confidence level, number of resamples and seed.

    Raises
    ------
    InputError
        Fewer than two people have another face in their stratum.

    Examples
    --------
    >>> verification_interval(np.array([[0.9, 0.1], [0.5, 0.3]])).value  # only 0.3 < 0.5 is wrong
    0.75
    """
    others = [columns for _, columns in _others(len(similarity), strata)]
    queries = np.array([i for i, columns in enumerate(others) if len(columns)], dtype=int)
    if len(queries) < 2:
        raise InputError(f"verification needs at least two people in a stratum, found {len(queries)}")
    own = similarity[queries, queries]
    # wins[i, j]: how many other faces of voice j score below voice i's own face; ties count half
    wins = np.empty((len(queries), len(queries)))
    for column, row in enumerate(queries):
        scores = np.sort(similarity[row, others[row]])
        wins[:, column] = (np.searchsorted(scores, own, "left") + np.searchsorted(scores, own, "right")) / 2
    numbers = group_numbers(None if group_ids is None else np.asarray(group_ids)[queries], len(queries))
    numbers = np.arange(len(queries)) if numbers is None else numbers
    n_others = np.array([len(others[row]) for row in queries], dtype=float)

    def area(weights: np.ndarray) -> float:
        return float(weights @ wins @ weights / (weights.sum() * (weights @ n_others)))

    resamples = np.array([area(weights) for weights in resampled_weights(numbers, settings)])
    return percentile_interval(area(np.ones(len(queries))), resamples, confidence=settings.confidence)


def ranks_within(similarity: np.ndarray, strata: Sequence[object]) -> tuple[np.ndarray, np.ndarray]:
    """Return each query's rank among the faces of its own stratum, and the size of that stratum.

    Both are `(n,)`; tied faces share their mean rank. What defines the strata cannot explain these ranks.
    """
    n = len(similarity)
    ranks, sizes = np.ones(n), np.ones(n, dtype=int)
    for i, others in _others(n, strata):
        row = similarity[i, others]
        own = similarity[i, i]
        ranks[i] = 1 + (row > own).sum() + (row == own).sum() / 2
        sizes[i] = len(others) + 1
    return ranks, sizes


def _others(n: int, strata: Sequence[object] | None) -> Iterator[tuple[int, np.ndarray]]:
    """Yield each query with the indices of the other faces in its stratum."""
    labels = np.zeros(n) if strata is None else np.asarray([str(label) for label in strata])
    if len(labels) != n:
        raise InputError(f"{len(labels)} strata for {n} queries: expected one each")
    for i in range(n):
        same = np.flatnonzero(labels == labels[i])
        yield i, same[same != i]
