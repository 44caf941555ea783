"""Matching and verification as in the voice-face literature (SVHF, DIMNet, Wen et al.).

1:N matching: a voice, its face and N - 1 others; how often the true face is the
most alike.  Verification: is this the voice's face or another's; area under the
ROC curve.  Stratified by attributes, the others share gender, group or both.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import stats

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
    """Return each query's exact probability to win a 1:N match against random others.

    The expectation over all draws of N - 1 others without replacement is
    computed, not sampled: with w of m others less alike than the true face, it
    is C(w, N-1) / C(m, N-1); ties count half.

    Parameters
    ----------
    similarity
        `(n, n)`, row i's true face in column i.
    n_candidates
        N: 2, 5 or 10 in the literature; chance is 1/N.
    strata
        `n` labels: others are drawn from the same label alone.

    Returns
    -------
    numpy.ndarray
        `(n,)` in [0, 1]; NaN where a stratum has fewer than N people.
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
        worse = float((row < similarity[i, i]).sum()) + 0.5 * float((row == similarity[i, i]).sum())
        draws = np.arange(n_candidates - 1)  # a product form of the ratio of binomials
        wins[i] = np.prod(np.clip(worse - draws, 0, None) / (len(others) - draws))
    return wins


def verification_auc(similarity: np.ndarray, *, strata: Sequence[object] | None = None) -> float:
    """Return the area under the ROC curve of own face against others' faces, in [0, 1]; 0.5 is chance.

    Scores of all queries are pooled, as a verifier with one threshold would.

    Raises
    ------
    InputError
        No stratum holds two people.
    """
    own, other = [], []
    for i, others in _others(len(similarity), strata):
        if len(others):
            own.append(similarity[i, i])
            other.append(similarity[i, others])
    if not own:
        raise InputError("verification needs at least two people in a stratum, found none")
    negatives = np.concatenate(other)
    statistic = stats.mannwhitneyu(own, negatives, method="asymptotic").statistic
    return float(statistic / (len(own) * len(negatives)))


def verification_interval(
    similarity: np.ndarray,
    *,
    strata: Sequence[object] | None = None,
    group_ids: Sequence[object] | None = None,
    settings: IntervalSettings = DEFAULT_INTERVAL,
) -> Interval:
    """Return `verification_auc` with its bootstrap interval over the people who speak; the faces stay.

    Parameters
    ----------
    group_ids
        `n` ids of whose voice each row is; None: each is another person's.

    Raises
    ------
    InputError
        Fewer than two people have others in their stratum.
    """
    others = [columns for _, columns in _others(len(similarity), strata)]
    queries = np.array([i for i, columns in enumerate(others) if len(columns)], dtype=int)
    if len(queries) < 2:
        raise InputError(f"verification needs at least two people in a stratum, found {len(queries)}")
    own = similarity[queries, queries]
    wins = np.empty(
        (len(queries), len(queries))
    )  # of voice i's own face over the others of voice j, ties half
    for column, row in enumerate(queries):
        rivals = np.sort(similarity[row, others[row]])
        wins[:, column] = (np.searchsorted(rivals, own, "left") + np.searchsorted(rivals, own, "right")) / 2
    numbers = group_numbers(None if group_ids is None else np.asarray(group_ids)[queries], len(queries))
    numbers = np.arange(len(queries)) if numbers is None else numbers
    n_others = np.array([len(others[row]) for row in queries], dtype=float)

    def area(weights: np.ndarray) -> float:
        return float(weights @ wins @ weights / (weights.sum() * (weights @ n_others)))

    resamples = resampled_weights(numbers, settings)
    value = area(np.ones(len(queries)))
    return percentile_interval(
        value, np.array([area(weights) for weights in resamples]), confidence=settings.confidence
    )


def ranks_within(similarity: np.ndarray, strata: Sequence[object]) -> tuple[np.ndarray, np.ndarray]:
    """Return each query's rank among the faces of its own stratum, and that stratum's size.

    So one sees what is left of retrieval once gender, group or age is given.

    Returns
    -------
    tuple of numpy.ndarray
        `(n,)` ranks, ties at the mean of their places, and `(n,)` gallery sizes.
    """
    n = len(similarity)
    ranks, sizes = np.ones(n), np.ones(n, dtype=int)
    for i, others in _others(n, strata):
        row = similarity[i, others]
        own = similarity[i, i]
        ranks[i] = 1 + (row > own).sum() + (row == own).sum() / 2
        sizes[i] = len(others) + 1
    return ranks, sizes


def _others(n: int, strata: Sequence[object] | None):
    labels = np.zeros(n) if strata is None else np.asarray([str(label) for label in strata])
    if len(labels) != n:
        raise InputError(f"{len(labels)} strata for {n} queries: expected one each")
    for i in range(n):
        same = np.flatnonzero(labels == labels[i])
        yield i, same[same != i]
