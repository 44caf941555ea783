"""Confidence intervals (bootstrap and binomial) and permutation tests."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from s2f_lib.config import IntervalSettings
from s2f_lib.errors import InputError
from s2f_lib.evaluation.retrieval import hit_probability, reciprocal_rank

SIGN_FLIPS = 9_999  # random sign patterns of a paired test
DEFAULT_INTERVAL = IntervalSettings()
_BATCH_VALUES = 16_000_000  # values resampled at once; each takes 8 bytes, and 8 for its index
_TEST_ROWS = 512  # queries per block: the ranks of all faces for a block are in memory at once


@dataclass(frozen=True, slots=True)
class Interval:
    """A value and the two ends of its confidence interval.

    Examples
    --------
    >>> print(f"{Interval(0.25, 0.125, 0.5).times(100):.1f} %")
    25.0 [12.5, 50.0] %
    """

    value: float
    low: float
    high: float

    def times(self, factor: float) -> Interval:
        """Return the interval in another unit, such as percent."""
        return Interval(factor * self.value, factor * self.low, factor * self.high)

    def __format__(self, spec: str) -> str:
        return f"{self.value:{spec}} [{self.low:{spec}}, {self.high:{spec}}]"


def bootstrap_interval(
    values: np.ndarray,
    statistic: Callable[..., np.ndarray] = np.mean,
    *,
    group_ids: Sequence[object] | np.ndarray | None = None,
    settings: IntervalSettings = DEFAULT_INTERVAL,
) -> Interval:
    """Return a statistic of some values with its percentile bootstrap interval.

    Parameters
    ----------
    values
        `(n,)` numbers.
    statistic
        NumPy function of `(..., n)` values that takes `axis`.
    group_ids
        `n` ids of people or videos. Whole groups are resampled. None: each value is its own group.
    settings
        Confidence level, number of resamples and seed.

    Raises
    ------
    InputError
        There are fewer than two values or groups, or the numbers of group ids and values differ.

    See Also
    --------
    hit_interval : For shares; its width is not zero even if all queries hit.
    GroupBootstrap : The same resamples for several systems and splits.

    Examples
    --------
    >>> bootstrap_interval(np.array([1.0, 2.0, 3.0, 4.0])).value
    2.5
    >>> f"{bootstrap_interval(np.ones(4)):.1f}"
    '1.0 [1.0, 1.0]'
    """
    values = np.asarray(values, dtype=np.float64)
    if len(values) < 2:
        raise InputError(f"an interval needs at least 2 values, found {len(values)}")
    value = float(statistic(values))
    numbers = group_numbers(group_ids, len(values))
    if np.ptp(values) == 0:  # all resamples are equal
        return Interval(value, value, value)
    if numbers is not None:
        resamples = [
            statistic(np.repeat(values, weights)) for weights in resampled_weights(numbers, settings)
        ]
        return percentile_interval(value, np.array(resamples), confidence=settings.confidence)
    result = stats.bootstrap(
        (values,),
        statistic,
        confidence_level=settings.confidence,
        n_resamples=settings.n_resamples,
        method="percentile",
        vectorized=True,
        batch=max(1, _BATCH_VALUES // len(values)),  # the resamples are the same in any batch
        rng=np.random.default_rng(settings.seed),
    )
    return Interval(value, float(result.confidence_interval.low), float(result.confidence_interval.high))


def hit_interval(
    hits: np.ndarray,
    *,
    group_ids: Sequence[object] | np.ndarray | None = None,
    settings: IntervalSettings = DEFAULT_INTERVAL,
) -> Interval:
    """Return the share of hits with its interval: bootstrap, or exact if all or no queries hit.

    If all or no queries hit, all resamples are equal, and a bootstrap interval has zero width. The exact
    binomial interval (Clopper and Pearson 1934) replaces it, with one trial per group.

    Parameters
    ----------
    hits
        `(n,)` booleans, or probabilities of a hit in [0, 1].
    group_ids, settings
        See `bootstrap_interval`.

    Examples
    --------
    >>> f"{hit_interval(np.zeros(120)):.3f}"
    '0.000 [0.000, 0.030]'
    """
    interval = bootstrap_interval(hits, group_ids=group_ids, settings=settings)
    if interval.value not in (0, 1):
        return interval
    trials = len(hits) if group_ids is None else len(np.unique(np.asarray(group_ids)))
    exact = stats.binomtest(round(interval.value * trials), trials).proportion_ci(settings.confidence)
    return Interval(interval.value, float(exact.low), float(exact.high))


class GroupBootstrap:
    """Bootstrap over several splits that share people, with the same resamples for all systems.

    A group (person or video) that is drawn twice counts twice, with all its rows in every split. Each result
    is the mean over the splits, with equal weights.

    Parameters
    ----------
    group_ids
        One `(n,)` array per split; equal ids mean the same group in all splits.
    settings
        Confidence level, number of resamples and seed.

    Raises
    ------
    InputError
        A split has fewer than two groups.

    Examples
    --------
    >>> first, second = np.array([0, 1]), np.array([0, 2, 3, 4])
    >>> hits = [np.array([1.0, 0.0]), np.array([1.0, 1.0, 1.0, 0.0])]
    >>> GroupBootstrap([first, second]).means([each[:, None] for each in hits])[0].value
    0.625
    """

    def __init__(
        self, group_ids: Sequence[np.ndarray], settings: IntervalSettings = DEFAULT_INTERVAL
    ) -> None:
        if not group_ids or min(len(np.unique(ids)) for ids in group_ids) < 2:
            raise InputError("intervals need at least 2 videos or people to test in each split")
        self._confidence = settings.confidence
        numbers = np.unique(np.concatenate(list(group_ids)), return_inverse=True)[1]
        weights = np.array([np.ones_like(numbers), *resampled_weights(numbers, settings)])
        bounds = np.cumsum([0, *map(len, group_ids)])
        # one (resamples + 1, n) array per split; the first row is the sample itself
        self._weights = [np.ascontiguousarray(weights[:, a:b]) for a, b in itertools.pairwise(bounds)]

    def means(self, values: Sequence[np.ndarray]) -> list[Interval]:
        """Return the mean of each column; `values` has one `(n, columns)` array per split."""
        return self._intervals(self._resampled_means(values))

    def ratios(self, first: Sequence[np.ndarray], second: Sequence[np.ndarray]) -> list[Interval]:
        """Return the mean of `first` divided by that of `second`, for each column; NaN for division by 0."""
        numerator, denominator = self._resampled_means(first), self._resampled_means(second)
        with np.errstate(divide="ignore", invalid="ignore"):
            return self._intervals(np.where(denominator > 0, numerator / denominator, np.nan))

    def median(self, values: Sequence[np.ndarray]) -> Interval:
        """Return the mean over splits of the median; `values` has one `(n,)` array per split."""
        medians = [weighted_median(*split) for split in zip(values, self._weights, strict=True)]
        return self._intervals(_mean_over_splits(medians)[:, None])[0]

    def _resampled_means(self, values: Sequence[np.ndarray]) -> np.ndarray:
        """Return `(resamples + 1, columns)` weighted means, averaged over splits."""
        means = []
        for each, weights in zip(values, self._weights, strict=True):
            total = weights.sum(axis=1, keepdims=True)
            with np.errstate(invalid="ignore"):
                mean = weights @ each.astype(np.float64) / np.maximum(total, 1)
                means.append(np.where(total > 0, mean, np.nan))
        return _mean_over_splits(means)

    def _intervals(self, table: np.ndarray) -> list[Interval]:
        return [
            percentile_interval(float(column[0]), column[1:], confidence=self._confidence)
            for column in table.T
        ]


def group_numbers(group_ids: Sequence[object] | np.ndarray | None, n: int) -> np.ndarray | None:
    """Return the group of each of `n` rows as `(n,)` int from 0; None if each row is its own group."""
    if group_ids is None:
        return None
    if len(group_ids) != n:
        raise InputError(f"{len(group_ids)} groups for {n} values: expected one each")
    known, numbers = np.unique(np.asarray(group_ids), return_inverse=True)
    if len(known) == n:
        return None
    if len(known) < 2:
        raise InputError(f"an interval needs at least 2 groups (people or videos), found {len(known)}")
    return numbers


def resampled_weights(numbers: np.ndarray, settings: IntervalSettings) -> Iterator[np.ndarray]:
    """Yield the `(n,)` int counts of rows in each resample of groups; `numbers`: see `group_numbers`."""
    rng = np.random.default_rng(settings.seed)
    n_groups = int(numbers.max()) + 1
    uniform = np.full(n_groups, 1 / n_groups)
    for _ in range(settings.n_resamples):
        yield rng.multinomial(n_groups, uniform)[numbers]


def percentile_interval(value: float, resamples: np.ndarray, *, confidence: float) -> Interval:
    """Return a value with the percentile interval of its `(resamples,)` values; NaNs are ignored."""
    tail = (1 - confidence) / 2
    low, high = np.nanquantile(resamples, [tail, 1 - tail])
    return Interval(value, float(low), float(high))


def weighted_median(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the `(resamples,)` medians of `(n,)` values; `weights` are their `(resamples, n)` int counts."""
    order = np.argsort(values, kind="stable")
    values, cumulated = np.asarray(values, np.float64)[order], np.cumsum(weights[:, order], axis=1)
    total = cumulated[:, -1:]
    lower = values[np.argmax(cumulated >= (total + 1) // 2, axis=1)]
    upper = values[np.argmax(cumulated >= total // 2 + 1, axis=1)]
    return np.where(total[:, 0] > 0, (lower + upper) / 2, np.nan)


def mean_reciprocal_rank(ranks: np.ndarray) -> float:
    """Return the mean of 1/rank, in (0, 1]."""
    return float(np.mean(1.0 / np.asarray(ranks, dtype=np.float64)))


def chance_reciprocal_rank(gallery_size: int) -> float:
    """Return the mean reciprocal rank of guessing: the harmonic number divided by the gallery's size."""
    return float(np.sum(1.0 / np.arange(1, gallery_size + 1)) / gallery_size)


def normalized_recall(recall: float, chance: float) -> float:
    """Return recall on a scale from 0 (chance) to 1 (perfect); it is negative below chance.

    Only the ends of the scale are the same for all gallery sizes: for one k, a larger gallery is harder.
    """
    if not 0 <= chance < 1:
        raise InputError(
            f"chance is {chance}, expected at least 0 and below 1: k must be below the gallery's size"
        )
    return (recall - chance) / (1.0 - chance)


def chance_interval(k: int, gallery_size: int, n_queries: int, *, confidence: float = 0.95) -> Interval:
    """Return the recall at k of guessing, and the binomial range of `n_queries` guesses.

    A recall inside this range does not differ significantly from chance at that confidence level.
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
    """Test whether queries find their own faces better than other people's faces.

    Under the null hypothesis the voice does not depend on the face, so every pairing of queries with
    gallery faces is as likely as the true one.

    Parameters
    ----------
    similarity
        `(n, n)`; the true face of row i is column i.
    statistic
        Function of the `(n,)` ranks (ties count as their mean rank); larger is better.
    n_permutations, seed
        Number of random pairings, and their seed.

    Returns
    -------
    tuple of float
        The observed statistic, and the one-sided p-value in [1/(n_permutations + 1), 1].

    See Also
    --------
    recall_test, reciprocal_rank_test : Break ties at random, as `retrieval.hit_probability` does.

    Examples
    --------
    >>> permutation_test_against_chance(np.eye(8), mean_reciprocal_rank, n_permutations=99)
    (1.0, 0.01)
    """
    _check_square(similarity)
    rng = np.random.default_rng(seed)
    ranks = stats.rankdata(-similarity, axis=1)  # (n, n): rank of every face for every query
    rows = np.arange(len(ranks))
    observed = statistic(ranks[rows, rows])
    permuted = [statistic(ranks[rows, rng.permutation(len(ranks))]) for _ in range(n_permutations)]
    return observed, _p_value(observed, permuted)


def recall_test(
    similarity: np.ndarray, k: int, *, n_permutations: int = 999, seed: int = 0
) -> tuple[float, float]:
    """Return recall at k and its p-value by `permutation_test_against_chance`, with ties broken at random."""
    return _test_of_means(
        similarity, lambda ranks, ties: hit_probability(ranks, k, ties), n_permutations, seed
    )


def reciprocal_rank_test(
    similarity: np.ndarray, *, n_permutations: int = 999, seed: int = 0
) -> tuple[float, float]:
    """Return the mean reciprocal rank and its p-value, computed as in `recall_test`."""
    return _test_of_means(similarity, reciprocal_rank, n_permutations, seed)


def paired_test(
    first: np.ndarray, second: np.ndarray, *, n_permutations: int = SIGN_FLIPS, seed: int = 0
) -> float:
    """Test whether two systems differ on the same queries, by flipping the signs of the differences.

    Parameters
    ----------
    first, second
        `(n,)` values of the two systems, one per query: hits, ranks or distances.
    n_permutations, seed
        Number of random sign patterns, and their seed.

    Returns
    -------
    float
        Two-sided p-value of the mean difference; 1 if all differences are zero.

    Examples
    --------
    >>> paired_test(np.ones(3), np.zeros(3))  # 2 of 8 sign patterns are as extreme
    0.25
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


def _test_of_means(
    similarity: np.ndarray,
    value: Callable[[np.ndarray, np.ndarray], np.ndarray],
    n_permutations: int,
    seed: int,
) -> tuple[float, float]:
    """Test the mean over queries of a function of (rank, ties), one block of queries at a time."""
    _check_square(similarity)
    n = len(similarity)
    rng = np.random.default_rng(seed)
    faces = np.array([np.arange(n), *(rng.permutation(n) for _ in range(n_permutations))])  # 0: true pairs
    sums = np.zeros(len(faces))
    for start in range(0, n, _TEST_ROWS):
        block = -similarity[start : start + _TEST_ROWS]
        first, last = (stats.rankdata(block, method=method, axis=1) for method in ("min", "max"))
        values = value((first + last) / 2, last - first)  # (rows, n)
        rows = np.arange(len(block))
        sums += values[rows, faces[:, start : start + len(block)]].sum(axis=1)
    means = sums / n
    return float(means[0]), _p_value(float(means[0]), means[1:])


def _p_value(observed: float, permuted: Sequence[float] | np.ndarray) -> float:
    n_at_least = sum(value >= observed - 1e-12 for value in permuted)  # 1e-12 allows for rounding
    return float((1 + n_at_least) / (len(permuted) + 1))


def _check_square(similarity: np.ndarray) -> None:
    if similarity.ndim != 2 or similarity.shape[0] != similarity.shape[1]:
        raise InputError(
            f"expected a square similarity, one gallery face per query, found {similarity.shape}"
        )


def _mean_over_splits(tables: Sequence[np.ndarray]) -> np.ndarray:
    """Return the mean over splits; NaN marks a split without any drawn group, and is ignored."""
    stacked = np.stack(tables)
    n = np.isfinite(stacked).sum(axis=0)
    return np.where(n > 0, np.nansum(stacked, axis=0) / np.maximum(n, 1), np.nan)
