"""What a published table can and cannot be: three computations on the report's numbers.

Each takes printed numbers alone, so that any paper's table can be audited.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from s2f_lib.errors import InputError
from s2f_lib.evaluation.statistics import Interval, chance_interval


@dataclass(frozen=True, slots=True)
class RecallVerdict:
    """A printed recall beside what guessing gives.

    Attributes
    ----------
    k
        The number of retrieved faces.
    recall_percent
        As printed.
    chance
        Recall of a guess and its range, in percent.
    within_chance
        Whether the printed recall lies in that range.
    """

    k: int
    recall_percent: float
    chance: Interval
    within_chance: bool


def audit_recall(
    recall_percent: Sequence[float],
    ks: Sequence[int],
    *,
    gallery_size: int,
    n_queries: int,
    confidence: float = 0.95,
) -> list[RecallVerdict]:
    """Set printed recalls against chance with its interval."""
    verdicts = []
    for k, percent in zip(ks, recall_percent, strict=True):
        share = chance_interval(k, gallery_size, n_queries, confidence=confidence)
        chance = Interval(100 * share.value, 100 * share.low, 100 * share.high)
        half_digit = 0.005  # printed with two decimals
        inside = chance.low - half_digit <= percent <= chance.high + half_digit
        verdicts.append(RecallVerdict(k, percent, chance, inside))
    return verdicts


def recalls_that_do_not_fit(
    recall_percent: Sequence[float], n_queries: int, *, decimals: int = 2
) -> list[float]:
    """Return the printed recalls that are no count over `n_queries`; see `query_counts_that_fit`."""
    step = 10**-decimals
    return [percent for percent in recall_percent if not _is_a_share(percent, n_queries, step)]


def query_counts_that_fit(
    recall_percent: Sequence[float], *, smallest: int, largest: int, misprints: int = 0, decimals: int = 2
) -> list[int]:
    """Return the numbers of queries n for which the printed recalls can be counts over n.

    A recall is hits / n; printed with two decimals, most n are ruled out.

    Parameters
    ----------
    recall_percent
        Printed recalls of one table, in percent.
    smallest, largest
        The range of n to look at, both included.
    misprints
        How many of the recalls may fail to fit.
    decimals
        Digits behind the point in print; rounding and cutting off both count as a fit.
    """
    if smallest < 1 or largest < smallest:
        raise InputError(f"expected 1 <= smallest <= largest, found {smallest} and {largest}")
    return [
        n
        for n in range(smallest, largest + 1)
        if len(recalls_that_do_not_fit(recall_percent, n, decimals=decimals)) <= misprints
    ]


def largest_mean_l2(mean_cosine: float) -> float:
    """Return the largest mean L2 distance of unit vectors whose mean cosine similarity is given.

    For each pair |a - b| = sqrt(2 - 2 cos); the root is concave, so by Jensen's
    inequality the mean distance is at most sqrt(2 - 2 mean cos).
    """
    if not -1 <= mean_cosine <= 1:
        raise InputError(f"a mean cosine similarity lies in [-1, 1], found {mean_cosine}")
    return math.sqrt(2 - 2 * mean_cosine)


def _is_a_share(percent: float, n: int, step: float) -> bool:
    hits = percent * n / 100
    candidates = {math.floor(hits), math.ceil(hits)}
    return any(abs(100 * count / n - percent) <= step / 2 + 1e-9 for count in candidates) or any(
        0 <= 100 * count / n - percent < step - 1e-9
        for count in candidates  # cut off, not rounded
    )
