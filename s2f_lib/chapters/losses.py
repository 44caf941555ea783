"""The report's printed numbers, checked by computation: what they can be, and what guessing gives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from s2f_lib.chapters.reference import LOSS_NAMES, MEASURE_NAMES, REPORT
from s2f_lib.config import RECALL_AT
from s2f_lib.evaluation.audit import audit_recall, largest_mean_l2, query_counts_that_fit
from s2f_lib.evaluation.statistics import chance_interval

_WITHIN = 20  # queries more or fewer than the gallery has faces


@dataclass(frozen=True)
class Fit:
    """Numbers of queries that printed recalls fit.

    Attributes
    ----------
    counts
        The numbers; none where nothing fits.
    misprints
        How many recalls have to be misprints for that: as few as possible.
    """

    counts: list[int]
    misprints: int


def queries_near_gallery() -> dict[str, int]:
    """Return the "smallest" and the "largest" number of queries that is looked at."""
    return {"smallest": REPORT.gallery - _WITHIN, "largest": REPORT.gallery + _WITHIN}


def fitting_queries(split: str) -> Fit:
    """Return the numbers of queries, near the gallery's size, that the recalls of a split fit.

    Where none fits all of them, one misprint is allowed, then two, and so on.
    """
    percents = [percent for row in REPORT.recall_percent[split].values() for percent in row]
    for misprints in range(len(percents)):
        counts = query_counts_that_fit(percents, misprints=misprints, **queries_near_gallery())
        if counts:
            return Fit(counts, misprints)
    return Fit([], len(percents))


def format_counts(counts: Sequence[int]) -> str:
    """Return numbers as a phrase: `393`, or `393 or 395`."""
    return " or ".join(str(count) for count in counts)


def recall_audit(split: str = "test", *, n_queries: int, confidence: float = 0.95) -> pd.DataFrame:
    """Return the report's recalls of a split beside what guessing gives among 400 faces."""
    rows = []
    for measure, percents in REPORT.recall_percent[split].items():
        verdicts = audit_recall(
            percents, RECALL_AT, gallery_size=REPORT.gallery, n_queries=n_queries, confidence=confidence
        )
        for verdict in verdicts:
            rows.append(
                {
                    "similarity": MEASURE_NAMES[measure],
                    "K": verdict.k,
                    "the report, %": f"{verdict.recall_percent:.2f}",
                    "guessing, %": f"{verdict.chance:.2f}",
                    "within guessing": verdict.within_chance,
                }
            )
    return pd.DataFrame(rows)


def loss_audit() -> pd.DataFrame:
    """Return the largest L2 distance that the report's cosine of each loss allows, beside the printed one."""
    rows = []
    for loss, values in REPORT.losses.items():
        largest = largest_mean_l2(values["cosine"] - 0.005)  # printed with two decimals
        rows.append(
            {
                "trained with": LOSS_NAMES[loss],
                "cosine similarity, printed": f"{values['cosine']:.2f}",
                "largest mean L2 distance": f"{largest:.2f}",
                "L2 distance, printed": f"{values['l2']:.2f}",
                "can be": values["l2"] <= largest + 0.005,
            }
        )
    return pd.DataFrame(rows)


def chance_band(gallery: int, n_queries: int, k_max: int, *, confidence: float = 0.95) -> pd.DataFrame:
    """Return recall of guessing and its range for K = 1 to `k_max`: columns k, value, low, high."""
    rows = []
    for k in range(1, k_max + 1):
        interval = chance_interval(k, gallery, n_queries, confidence=confidence)
        rows.append({"k": k, "value": interval.value, "low": interval.low, "high": interval.high})
    return pd.DataFrame(rows)
