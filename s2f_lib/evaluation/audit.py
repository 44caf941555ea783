"""Checks of published tables: recall against chance, possible numbers of queries, distances.

Each check takes only the printed numbers, so it works for the tables of any paper.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from s2f_lib.errors import InputError
from s2f_lib.evaluation.statistics import Interval, chance_interval

_HALF_DIGIT = 0.005  # rounding error of a recall in percent with two decimals


@dataclass(frozen=True, slots=True)
class RecallVerdict:
    """A printed recall at k, compared with random guessing."""

    k: int
    recall_percent: float
    chance: Interval  # expected recall of guessing and its binomial range, in percent
    within_chance: bool  # whether the printed recall lies in that range


def audit_recall(
    recall_percent: Sequence[float],
    ks: Sequence[int],
    *,
    gallery_size: int,
    n_queries: int,
    confidence: float = 0.95,
) -> list[RecallVerdict]:
    """Compare printed recalls, one per k, with the range that random guessing gives.

    Examples
    --------
    >>> verdicts = audit_recall([2.5, 9.0], [10, 10], gallery_size=400, n_queries=400)
    >>> [verdict.within_chance for verdict in verdicts]
    [True, False]
    """
    verdicts = []
    for k, percent in zip(ks, recall_percent, strict=True):
        chance = chance_interval(k, gallery_size, n_queries, confidence=confidence).times(100)
        inside = chance.low - _HALF_DIGIT <= percent <= chance.high + _HALF_DIGIT
        verdicts.append(RecallVerdict(k, percent, chance, inside))
    return verdicts


def recalls_that_do_not_fit(
    recall_percent: Sequence[float], n_queries: int, *, decimals: int = 2
) -> list[float]:
    """Return the printed recalls that cannot be hits / `n_queries`; see `query_counts_that_fit`."""
    step = 10**-decimals
    return [percent for percent in recall_percent if not _is_a_share(percent, n_queries, step)]


def query_counts_that_fit(
    recall_percent: Sequence[float], *, smallest: int, largest: int, misprints: int = 0, decimals: int = 2
) -> list[int]:
    """Return the numbers of queries n for which the printed recalls can be hits / n.

    A count of hits is a whole number, so two printed decimals exclude most n.

    Parameters
    ----------
    recall_percent
        Printed recalls of one table, in percent.
    smallest, largest
        Range of n, both included.
    misprints
        Number of recalls that may be misprints and need not fit.
    decimals
        Number of printed decimals. The recalls may be rounded or truncated.

    Examples
    --------
    >>> query_counts_that_fit([33.33, 66.67], smallest=2, largest=10)
    [3, 6, 9]
    """
    if smallest < 1 or largest < smallest:
        raise InputError(f"expected 1 <= smallest <= largest, found {smallest} and {largest}")
    return [
        n
        for n in range(smallest, largest + 1)
        if len(recalls_that_do_not_fit(recall_percent, n, decimals=decimals)) <= misprints
    ]


def largest_mean_l2(mean_cosine: float) -> float:
    """Return the largest mean L2 distance of unit vectors with a given mean cosine similarity.

    For each pair |a - b| = sqrt(2 - 2 cos). The root is concave, so by Jensen's inequality the mean
    distance is at most sqrt(2 - 2 mean cos).

    Examples
    --------
    >>> largest_mean_l2(0.5)
    1.0
    """
    if not -1 <= mean_cosine <= 1:
        raise InputError(f"a mean cosine similarity lies in [-1, 1], found {mean_cosine}")
    return math.sqrt(2 - 2 * mean_cosine)


def _is_a_share(percent: float, n: int, step: float) -> bool:
    hits = percent * n / 100
    shares = [100 * count / n for count in (math.floor(hits), math.ceil(hits))]
    rounded = any(abs(share - percent) <= step / 2 + 1e-9 for share in shares)
    return rounded or any(0 <= share - percent < step - 1e-9 for share in shares)  # or truncated
