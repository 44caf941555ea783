"""Intervals and tests, on scipy."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from s2f_lib.errors import InputError
from s2f_lib.evaluation.retrieval import hit_probability, reciprocal_rank

SIGN_FLIPS = 9_999  # of a paired test

_BATCH_VALUES = 16_000_000  # resampled at a time, 8 bytes each and as much for their indices
_TEST_ROWS = 512  # queries whose places among all faces are in memory at a time


@dataclass(frozen=True, slots=True)
class Interval:
    """A value and its confidence interval."""

    value: float
    low: float
    high: float

    def times(self, factor: float) -> Interval:
        """Return it in another unit, such as percent."""
        return Interval(factor * self.value, factor * self.low, factor * self.high)

    def __format__(self, spec: str) -> str:
        return f"{self.value:{spec}} [{self.low:{spec}}, {self.high:{spec}}]"


def bootstrap_interval(
    values: np.ndarray,
    statistic: Callable[..., np.ndarray] = np.mean,
    *,
    group_ids: Sequence[object] | np.ndarray | None = None,
    confidence: float = 0.95,
    n_resamples: int = 1_000,
    seed: int = 0,
) -> Interval:
    """Return a statistic of values and its percentile bootstrap interval by person.

    Parameters
    ----------
    values
        `(n,)`.
    statistic
        Takes `(..., n)` and `axis`.
    group_ids
        `n` ids of persons or videos: what is resampled, with all values of each.  By default each
        value is a person's of its own.

    Raises
    ------
    InputError
        There are fewer than two values or groups, or groups are not as many as values.
    """
    values = np.asarray(values, dtype=np.float64)
    if len(values) < 2:
        raise InputError(f"an interval needs at least 2 values, found {len(values)}")
    value = float(statistic(values))
    numbers = group_numbers(group_ids, len(values))
    if np.ptp(values) == 0:  # all alike: no spread to resample
        return Interval(value, value, value)
    if numbers is not None:
        resamples = [
            statistic(np.repeat(values, weights))
            for weights in resampled_weights(numbers, n_resamples=n_resamples, seed=seed)
        ]
        return percentile_interval(value, np.array(resamples), confidence=confidence)
    result = stats.bootstrap(
        (values,),
        statistic,
        confidence_level=confidence,
        n_resamples=n_resamples,
        method="percentile",
        vectorized=True,
        batch=max(1, _BATCH_VALUES // len(values)),  # drawn alike in any batch
        rng=np.random.default_rng(seed),
    )
    return Interval(value, float(result.confidence_interval.low), float(result.confidence_interval.high))


def hit_interval(
    hits: np.ndarray,
    *,
    group_ids: Sequence[object] | np.ndarray | None = None,
    confidence: float = 0.95,
    n_resamples: int = 1_000,
    seed: int = 0,
) -> Interval:
    """Return the share of hits and its interval: the bootstrap's, or the exact one where all or none hit.

    Where all or none hit there is nothing to resample, and still the next query may be
    another: then each person counts as one trial (Clopper and Pearson 1934).

    Parameters
    ----------
    hits
        `(n,)` true or false, or how probable a hit is, in [0, 1].
    group_ids
        As `bootstrap_interval` takes them.
    """
    interval = bootstrap_interval(
        hits, group_ids=group_ids, confidence=confidence, n_resamples=n_resamples, seed=seed
    )
    if interval.value not in (0, 1):
        return interval
    trials = len(hits) if group_ids is None else len(np.unique(np.asarray(group_ids)))
    exact = stats.binomtest(round(interval.value * trials), trials).proportion_ci(confidence)
    return Interval(interval.value, float(exact.low), float(exact.high))


def group_numbers(group_ids: Sequence[object] | np.ndarray | None, n: int) -> np.ndarray | None:
    """Return which group each of `n` rows belongs to, `(n,)` int from 0; None where each has its own.

    Raises
    ------
    InputError
        Groups are not as many as rows, or all rows are one group.
    """
    if group_ids is None:
        return None
    if len(group_ids) != n:
        raise InputError(f"{len(group_ids)} groups for {n} values: expected one each")
    known, numbers = np.unique(np.asarray(group_ids), return_inverse=True)
    if len(known) == n:
        return None
    if len(known) < 2:
        raise InputError(f"an interval needs at least 2 groups (persons or videos), found {len(known)}")
    return numbers


def resampled_weights(numbers: np.ndarray, *, n_resamples: int, seed: int) -> Iterator[np.ndarray]:
    """Draw groups with replacement, as many as there are: yield how often each row counts, `(n,)` int.

    A group that is drawn twice counts twice with all its rows.
    """
    rng = np.random.default_rng(seed)
    n_groups = int(numbers.max()) + 1
    even = np.full(n_groups, 1 / n_groups)
    for _ in range(n_resamples):
        yield rng.multinomial(n_groups, even)[numbers]


def percentile_interval(value: float, resamples: np.ndarray, *, confidence: float) -> Interval:
    """Return a value with the percentile interval of its `(resamples,)` values."""
    tail = (1 - confidence) / 2
    low, high = np.quantile(resamples, [tail, 1 - tail])
    return Interval(value, float(low), float(high))


def recall_interval(
    ranks: np.ndarray,
    k: int,
    *,
    ties: np.ndarray | None = None,
    group_ids: Sequence[object] | np.ndarray | None = None,
    confidence: float = 0.95,
    n_resamples: int = 1_000,
    seed: int = 0,
) -> Interval:
    """Return recall at k and its interval over queries, by person, as `hit_interval` has it.

    Parameters
    ----------
    ranks, ties
        As `retrieval.hit_probability` takes them.
    group_ids
        As `bootstrap_interval` takes them.
    """
    return hit_interval(
        hit_probability(ranks, k, ties),
        group_ids=group_ids,
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

    Below chance it is negative.  It fixes the two ends of the scale alone: at one K a larger gallery
    is still the harder one.
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
    pairing of queries with gallery faces is as likely as the true one.  For recall and
    reciprocal rank, `recall_test` and `reciprocal_rank_test` count ties in a drawn order.

    Parameters
    ----------
    similarity
        `(n, n)`, row i's true face in column i.
    statistic
        Of the ranks `(n,)`, ties at the mean of their places; larger is better.

    Returns
    -------
    tuple of float
        The observed statistic, and the one-sided p-value in [1/(n_permutations + 1), 1].
    """
    _refuse_unless_square(similarity)
    rng = np.random.default_rng(seed)
    ranks = stats.rankdata(-similarity, axis=1)  # (n, n): rank of every face for every query
    rows = np.arange(len(ranks))
    observed = statistic(ranks[rows, rows])
    permuted = [statistic(ranks[rows, rng.permutation(len(ranks))]) for _ in range(n_permutations)]
    return observed, _p_value(observed, permuted)


def recall_test(
    similarity: np.ndarray, k: int, *, n_permutations: int = 999, seed: int = 0
) -> tuple[float, float]:
    """Return recall at k and its p-value by permutation; ties count as `retrieval.hit_probability` has it.

    Parameters
    ----------
    similarity
        `(n, n)`, row i's true face in column i.
    """
    return _test_of_means(
        similarity, lambda ranks, ties: hit_probability(ranks, k, ties), n_permutations, seed
    )


def reciprocal_rank_test(
    similarity: np.ndarray, *, n_permutations: int = 999, seed: int = 0
) -> tuple[float, float]:
    """Return the mean reciprocal rank and its p-value by permutation; ties as in `retrieval.reciprocal_rank`.

    Parameters
    ----------
    similarity
        `(n, n)`, row i's true face in column i.
    """
    return _test_of_means(similarity, reciprocal_rank, n_permutations, seed)


def paired_test(
    first: np.ndarray, second: np.ndarray, *, n_permutations: int = SIGN_FLIPS, seed: int = 0
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


def _test_of_means(
    similarity: np.ndarray,
    value: Callable[[np.ndarray, np.ndarray], np.ndarray],
    n_permutations: int,
    seed: int,
) -> tuple[float, float]:
    """Test the mean over queries of a value of (rank, ties), a block of queries in memory at a time."""
    _refuse_unless_square(similarity)
    n = len(similarity)
    rng = np.random.default_rng(seed)
    faces = np.array(
        [np.arange(n), *(rng.permutation(n) for _ in range(n_permutations))]
    )  # first the true ones
    sums = np.zeros(len(faces))
    for start in range(0, n, _TEST_ROWS):
        block = -similarity[start : start + _TEST_ROWS]
        first, last = (stats.rankdata(block, method=method, axis=1) for method in ("min", "max"))
        values = value((first + last) / 2, last - first)  # (rows, n)
        rows = np.arange(len(block))
        sums += values[rows, faces[:, start : start + len(block)]].sum(axis=1)
    means = sums / n
    return float(means[0]), _p_value(means[0], means[1:])


def _p_value(observed: float, permuted: Sequence[float] | np.ndarray) -> float:
    at_least = sum(value >= observed - 1e-12 for value in permuted)
    return float((1 + at_least) / (len(permuted) + 1))


def _refuse_unless_square(similarity: np.ndarray) -> None:
    if similarity.ndim != 2 or similarity.shape[0] != similarity.shape[1]:
        raise InputError(
            f"the test takes a square similarity, one gallery face a query, found {similarity.shape}"
        )
