"""Intervals and tests, on scipy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import stats

from s2f_lib.errors import InputError


@dataclass(frozen=True, slots=True)
class Interval:
    """A value and its confidence interval."""

    value: float
    low: float
    high: float

    def __format__(self, spec: str) -> str:
        return f"{self.value:{spec}} [{self.low:{spec}}, {self.high:{spec}}]"


def bootstrap_interval(
    values: np.ndarray,
    statistic: Callable[..., np.ndarray] = np.mean,
    *,
    confidence: float = 0.95,
    n_resamples: int = 1_000,
    seed: int = 0,
) -> Interval:
    """Return a statistic of independent values and its percentile bootstrap interval.

    Parameters
    ----------
    values
        `(n,)`, one a person: people are what is resampled.
    statistic
        Takes `(..., n)` and `axis`.

    Raises
    ------
    InputError
        There are fewer than two values.
    """
    values = np.asarray(values, dtype=np.float64)
    if len(values) < 2:
        raise InputError(f"an interval needs at least 2 values, found {len(values)}")
    value = float(statistic(values))
    if np.ptp(values) == 0:  # all alike: no spread to resample
        return Interval(value, value, value)
    result = stats.bootstrap(
        (values,),
        statistic,
        confidence_level=confidence,
        n_resamples=n_resamples,
        method="percentile",
        vectorized=True,
        rng=np.random.default_rng(seed),
    )
    return Interval(value, float(result.confidence_interval.low), float(result.confidence_interval.high))


def recall_interval(
    ranks: np.ndarray, k: int, *, confidence: float = 0.95, n_resamples: int = 1_000, seed: int = 0
) -> Interval:
    """Return recall at k and its bootstrap interval over queries (people)."""
    return bootstrap_interval(
        (np.asarray(ranks) <= k).astype(np.float64),
        confidence=confidence,
        n_resamples=n_resamples,
        seed=seed,
    )


def mean_reciprocal_rank(ranks: np.ndarray, axis: int = -1) -> np.ndarray:
    """Return the mean of 1/rank, in (0, 1]; an axis can be named for resampling."""
    return np.mean(1.0 / np.asarray(ranks, dtype=np.float64), axis=axis)


def chance_reciprocal_rank(gallery_size: int) -> float:
    """Return the mean reciprocal rank of a guess: the harmonic number over the gallery's size."""
    return float(np.sum(1.0 / np.arange(1, gallery_size + 1)) / gallery_size)


def normalized_recall(recall: float, chance: float) -> float:
    """Return recall above chance as a share of what is above chance: 0 is chance, 1 perfect.

    Comparable between galleries of different size; below chance it is negative.
    """
    if not 0 <= chance < 1:
        raise InputError(
            f"chance is {chance}, expected at least 0 and below 1: k must be below the gallery's size"
        )
    return (recall - chance) / (1.0 - chance)


def chance_interval(k: int, gallery_size: int, n_queries: int, *, confidence: float = 0.95) -> Interval:
    """Return recall at k of pure guessing and the range in which a run of guesses falls (binomial).

    A measured recall inside the range cannot be told from chance at that confidence.
    """
    chance = min(1.0, k / gallery_size)
    low, high = stats.binom.interval(confidence, n_queries, chance)
    return Interval(chance, float(low) / n_queries, float(high) / n_queries)


def permutation_test_against_chance(
    similarity: np.ndarray,
    statistic: Callable[[np.ndarray], float],
    *,
    n_permutations: int = 999,
    seed: int = 0,
) -> tuple[float, float]:
    """Test whether queries find their own faces better than any other people's.

    Under the null hypothesis a voice says nothing of its face, so that every
    pairing of queries with gallery faces is as likely as the true one.

    Parameters
    ----------
    similarity
        `(n, n)`, row i's true face in column i.
    statistic
        Of the ranks `(n,)`; larger is better, for example recall at 10.

    Returns
    -------
    tuple of float
        The observed statistic, and the one-sided p-value in [1/(n_permutations + 1), 1].
    """
    rng = np.random.default_rng(seed)
    ranks = _all_ranks(similarity)  # (n, n): rank of every face for every query
    rows = np.arange(len(ranks))
    observed = statistic(ranks[rows, rows])
    permuted = [statistic(ranks[rows, rng.permutation(len(ranks))]) for _ in range(n_permutations)]
    at_least = sum(value >= observed - 1e-12 for value in permuted)
    return observed, (1 + at_least) / (n_permutations + 1)


def paired_test(
    first: np.ndarray, second: np.ndarray, *, n_permutations: int = 9_999, seed: int = 0
) -> float:
    """Test whether two systems differ on the same queries, by swapping signs of the differences.

    Parameters
    ----------
    first, second
        `(n,)` values of the two systems, a query each: hits, ranks or distances.

    Returns
    -------
    float
        Two-sided p-value of the mean difference; 1 where all differences are zero.
    """
    first, second = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if first.shape != second.shape or first.ndim != 1:
        raise InputError(
            f"a paired test takes two arrays of the same queries, found {first.shape} and {second.shape}"
        )
    difference = first - second
    if not difference.any():
        return 1.0
    result = stats.permutation_test(
        (difference,),
        np.mean,
        permutation_type="samples",
        vectorized=True,
        axis=-1,
        n_resamples=n_permutations,
        batch=max(1, 10_000_000 // len(difference)),
        rng=np.random.default_rng(seed),
    )
    return float(result.pvalue)


@dataclass(frozen=True, slots=True)
class Spread:
    """Mean and standard deviation over seeds."""

    mean: float
    deviation: float
    n: int

    def __format__(self, spec: str) -> str:
        return f"{self.mean:{spec}} +- {self.deviation:{spec}} (n={self.n})"


def spread_over_seeds(values: np.ndarray) -> Spread:
    """Return the mean and the sample standard deviation of one number over several seeds."""
    values = np.asarray(values, dtype=np.float64)
    return Spread(
        float(values.mean()), float(values.std(ddof=1)) if len(values) > 1 else float("nan"), len(values)
    )


def _all_ranks(similarity: np.ndarray) -> np.ndarray:
    if similarity.ndim != 2 or similarity.shape[0] != similarity.shape[1]:
        raise InputError(
            f"the test takes a square similarity, one gallery face a query, found {similarity.shape}"
        )
    return stats.rankdata(-similarity, axis=1)  # ties get the mean of their places
