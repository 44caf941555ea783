"""Numbers of the real pairs, over one split or several, with intervals by person.

Several splits share people, and a video can have two clips.  So what is resampled are
groups (videos or persons): a group that is drawn twice counts twice in every split in
which it is tested.  Each split has one vote: numbers are means over splits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from s2f_lib.config import IntervalSettings
from s2f_lib.evaluation.statistics import GroupBootstrap, Interval, paired_test


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


class RankBootstrap:
    """Intervals of systems over some splits, with the same resamples for all systems.

    Parameters
    ----------
    splits
        One or several.
    settings
        Confidence level, number of resamples and seed.
    """

    def __init__(self, splits: Sequence[SplitRanks], settings: IntervalSettings) -> None:
        self._splits = list(splits)
        self._bootstrap = GroupBootstrap([split.group_ids for split in splits], settings)

    def recall(self, system: str, ks: Sequence[int]) -> list[Interval]:
        """Return recall at each K, in [0, 1]."""
        return self._bootstrap.means(self._hits(system, ks))

    def reciprocal_rank(self, system: str) -> Interval:
        """Return the mean reciprocal rank."""
        return self._bootstrap.means([1 / ranks[:, None] for ranks in self._ranks(system)])[0]

    def median_rank(self, system: str) -> Interval:
        """Return the median rank, averaged over splits."""
        return self._bootstrap.median(self._ranks(system))

    def recall_ratio(self, first: str, second: str, ks: Sequence[int]) -> list[Interval]:
        """Return the recall of the first system divided by that of the second, at each K."""
        return self._bootstrap.ratios(self._hits(first, ks), self._hits(second, ks))

    def _ranks(self, system: str) -> list[np.ndarray]:
        return [np.asarray(split.ranks[system], np.float64) for split in self._splits]

    def _hits(self, system: str, ks: Sequence[int]) -> list[np.ndarray]:
        return [ranks[:, None] <= np.asarray(ks) for ranks in self._ranks(system)]


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
