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
