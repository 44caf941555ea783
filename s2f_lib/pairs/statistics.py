"""Numbers of the real pairs, over one split or several, with intervals by person.

Several splits share people, and a video can have two clips.  So what is resampled are
groups (videos or persons): a group that is drawn twice counts twice in every split in
which it is tested.  Each split has one vote: numbers are means over splits.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from s2f_lib.errors import InputError
from s2f_lib.evaluation.statistics import Interval, paired_test


@dataclass(frozen=True)
class SplitRanks:
    """Ranks of one split's test queries.

    Attributes
    ----------
    group_ids
        `(n,)` int, the same number for the same video or person in all splits.
    gallery
        Faces among which each query's own was looked for.
    ranks
        System to `(n,)` ranks in [1, gallery].
    """

    group_ids: np.ndarray
    gallery: int
    ranks: dict[str, np.ndarray]


class GroupBootstrap:
    """Resamples of the groups of some splits, drawn once, so that systems are compared on the same ones.

    Parameters
    ----------
    splits
        One or several.
    n_resamples, confidence, seed
        Of the percentile intervals.
    """

    def __init__(
        self,
        splits: Sequence[SplitRanks],
        *,
        n_resamples: int = 1_000,
        confidence: float = 0.95,
        seed: int = 0,
    ) -> None:
        if not splits or min(len(set(split.group_ids.tolist())) for split in splits) < 2:
            raise InputError("intervals need at least 2 videos or persons to test in each split")
        self._splits = list(splits)
        self._confidence = confidence
        known, numbers = np.unique(np.concatenate([s.group_ids for s in splits]), return_inverse=True)
        rng = np.random.default_rng(seed)
        counts = rng.multinomial(len(known), np.full(len(known), 1 / len(known)), size=n_resamples)
        bounds = np.cumsum([0, *(len(s.group_ids) for s in splits)])
        # (resamples + 1, n) a split; the first row is the sample itself
        self._weights = [
            np.vstack([np.ones(b - a, dtype=int), counts[:, numbers[a:b]]])
            for a, b in itertools.pairwise(bounds)
        ]

    def recall(self, system: str, ks: Sequence[int]) -> list[Interval]:
        """Return recall at each K, in [0, 1]."""
        return self._intervals(self._mean_of(system, lambda ranks: ranks[:, None] <= np.asarray(ks)))

    def reciprocal_rank(self, system: str) -> Interval:
        """Return the mean reciprocal rank."""
        return self._intervals(self._mean_of(system, lambda ranks: 1 / ranks[:, None]))[0]

    def median_rank(self, system: str) -> Interval:
        """Return the median rank, the mean of it over splits."""
        medians = [
            _weighted_median(split.ranks[system], weights)
            for split, weights in zip(self._splits, self._weights, strict=True)
        ]
        return self._intervals(_mean_over_splits(medians)[:, None])[0]

    def recall_ratio(self, first: str, second: str, ks: Sequence[int]) -> list[Interval]:
        """Return how many times the second system's recall the first one's is, at each K."""
        over, under = (
            self._mean_of(name, lambda r: r[:, None] <= np.asarray(ks)) for name in (first, second)
        )
        with np.errstate(divide="ignore", invalid="ignore"):
            return self._intervals(np.where(under > 0, over / under, np.nan))

    def _mean_of(self, system: str, values_of) -> np.ndarray:
        """Return (resamples + 1, columns): weighted means of values (n, columns), averaged over splits."""
        means = []
        for split, weights in zip(self._splits, self._weights, strict=True):
            values = values_of(np.asarray(split.ranks[system], np.float64)).astype(np.float64)
            total = weights.sum(axis=1, keepdims=True)
            with np.errstate(invalid="ignore"):
                means.append(np.where(total > 0, weights @ values / np.maximum(total, 1), np.nan))
        return _mean_over_splits(means)

    def _intervals(self, table: np.ndarray) -> list[Interval]:
        tail = (1 - self._confidence) / 2
        low, high = np.nanquantile(table[1:], [tail, 1 - tail], axis=0)
        return [Interval(float(v), float(a), float(b)) for v, a, b in zip(table[0], low, high, strict=True)]


def compare_ranks(
    splits: Sequence[SplitRanks], first: str, second: str, *, seed: int = 0
) -> dict[str, float]:
    """Test two systems on the same queries: one value a group, signs swapped.

    Returns
    -------
    dict of float
        "log_rank_difference" (negative: the first ranks better), "p_log_rank" and, at 10 and
        20, "p_recall@K"; two-sided, not corrected for choices made before.
    """
    group_ids = np.concatenate([split.group_ids for split in splits])
    ranks = [np.concatenate([split.ranks[name] for split in splits]) for name in (first, second)]

    def by_group(values: np.ndarray) -> np.ndarray:
        numbers = np.unique(group_ids, return_inverse=True)[1]
        return np.bincount(numbers, values) / np.bincount(numbers)

    logs = [by_group(np.log(r)) for r in ranks]
    result = {
        "log_rank_difference": float(np.mean(logs[0] - logs[1])),
        "p_log_rank": paired_test(*logs, seed=seed),
    }
    for k in (10, 20):
        hits = [by_group((r <= k).astype(np.float64)) for r in ranks]
        result[f"p_recall@{k}"] = paired_test(*hits, seed=seed)
    return result


def _mean_over_splits(tables: Sequence[np.ndarray]) -> np.ndarray:
    """Return the mean, leaving out splits of which a resample drew nobody."""
    stacked = np.stack(tables)
    n = np.isfinite(stacked).sum(axis=0)
    return np.where(n > 0, np.nansum(stacked, axis=0) / np.maximum(n, 1), np.nan)


def _weighted_median(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the median of `(n,)` values, each repeated as often as `(resamples, n)` weights say."""
    order = np.argsort(values, kind="stable")
    values, cumulated = np.asarray(values, np.float64)[order], np.cumsum(weights[:, order], axis=1)
    total = cumulated[:, -1:]
    lower = values[np.argmax(cumulated >= (total + 1) // 2, axis=1)]
    upper = values[np.argmax(cumulated >= total // 2 + 1, axis=1)]
    return np.where(total[:, 0] > 0, (lower + upper) / 2, np.nan)
