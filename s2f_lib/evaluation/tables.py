"""The report's tables, as long pandas tables with n, interval and chance."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from s2f_lib.config import EvaluationConfig
from s2f_lib.errors import InputError
from s2f_lib.evaluation.distances import pair_distances
from s2f_lib.evaluation.retrieval import chance_recall, similarity_matrix, true_ranks
from s2f_lib.evaluation.statistics import Interval, bootstrap_interval, recall_interval


@dataclass(frozen=True)
class FeaturePairs:
    """True and predicted features of one split; row i of both is clip i.

    Attributes
    ----------
    clip_ids
        `n` ids.
    true, predicted
        `(n, dimension)` float32, of the face and from the voice.
    """

    clip_ids: tuple[str, ...]
    true: np.ndarray
    predicted: np.ndarray

    def __post_init__(self) -> None:
        if not len(self.clip_ids) == len(self.true) == len(self.predicted):
            raise InputError(
                f"{len(self.clip_ids)} clip ids, {len(self.true)} true and {len(self.predicted)} predicted "
                "features: they must be as many"
            )

    def __len__(self) -> int:
        return len(self.clip_ids)


def distance_table(pairs: Mapping[str, FeaturePairs], config: EvaluationConfig) -> pd.DataFrame:
    """Return L1, L2 and cosine, mean and interval, for each name (a split, or a loss).

    Returns
    -------
    pandas.DataFrame
        Columns name, n, measure ("l1", "l2", "cosine"), value, low, high.
    """
    rows = []
    for name, pair in pairs.items():
        for measure, values in pair_distances(pair.true, pair.predicted).items():
            interval = bootstrap_interval(
                values, confidence=config.confidence, n_resamples=config.n_bootstrap, seed=config.seed
            )
            rows.append({"name": name, "n": len(pair), "measure": measure} | _columns(interval))
    return pd.DataFrame(rows)


def rank_table(pairs: Mapping[str, FeaturePairs], config: EvaluationConfig) -> pd.DataFrame:
    """Return the rank of each query's true face, by name and similarity.

    The gallery of a query are all true faces of its own set.

    Returns
    -------
    pandas.DataFrame
        Columns name, measure, clip_id, gallery, rank.
    """
    tables = []
    for name, pair in pairs.items():
        for measure in config.similarities:
            ranks = true_ranks(similarity_matrix(pair.predicted, pair.true, measure))
            columns = {"name": name, "measure": measure, "clip_id": pair.clip_ids}
            tables.append(pd.DataFrame(columns | {"gallery": len(pair), "rank": ranks}))
    return pd.concat(tables, ignore_index=True)


def recall_table(ranks: pd.DataFrame, config: EvaluationConfig) -> pd.DataFrame:
    """Return recall at each K with its interval and chance, out of a table of ranks.

    Returns
    -------
    pandas.DataFrame
        Columns name, measure, k, n (queries), gallery (faces), value, low, high, chance; shares in [0, 1].
    """
    rows = []
    for (name, measure, gallery), group in ranks.groupby(["name", "measure", "gallery"], sort=False):
        for k in config.recall_at:
            interval = recall_interval(
                group["rank"].to_numpy(),
                k,
                confidence=config.confidence,
                n_resamples=config.n_bootstrap,
                seed=config.seed,
            )
            key = {"name": name, "measure": measure, "k": k, "n": len(group), "gallery": gallery}
            rows.append(key | _columns(interval) | {"chance": chance_recall(k, gallery)})
    return pd.DataFrame(rows)


def _columns(interval: Interval) -> dict[str, float]:
    return {"value": interval.value, "low": interval.low, "high": interval.high}
