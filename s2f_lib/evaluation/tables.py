"""The report's tables, as long pandas tables with n, interval and chance."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from s2f_lib.config import EvaluationConfig
from s2f_lib.errors import InputError
from s2f_lib.evaluation.distances import pair_distances
from s2f_lib.evaluation.retrieval import chance_recall, hit_probability
from s2f_lib.evaluation.statistics import Interval, bootstrap_interval, hit_interval


@dataclass(frozen=True)
class Predictions:
    """True and predicted features of one split; row i of both is clip i.

    Attributes
    ----------
    clip_ids
        `n` ids.
    true, predicted
        `(n, dimension)` float32, of the face and from the voice.
    group_ids
        `n` ids of persons or videos, which intervals resample: a person with several clips
        counts once.  None: each clip is a person's of its own.
    """

    clip_ids: tuple[str, ...]
    true: np.ndarray
    predicted: np.ndarray
    group_ids: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if self.group_ids is not None and len(self.group_ids) != len(self.clip_ids):
            raise InputError(
                f"{len(self.clip_ids)} clip ids and {len(self.group_ids)} groups: they must be as many"
            )
        if not len(self.clip_ids) == len(self.true) == len(self.predicted):
            raise InputError(
                f"{len(self.clip_ids)} clip ids, {len(self.true)} true and {len(self.predicted)} predicted "
                "features: they must be as many"
            )

    def __len__(self) -> int:
        return len(self.clip_ids)

    @property
    def person_ids(self) -> tuple[str, ...]:
        """`n` ids of whom each clip is: the groups, or where there are none the clips' own ids."""
        return self.group_ids or self.clip_ids

    def subset(self, rows: np.ndarray) -> Predictions:
        """Return the pairs at some `(m,)` indices."""
        return Predictions(
            tuple(self.clip_ids[row] for row in rows),
            self.true[rows],
            self.predicted[rows],
            None if self.group_ids is None else tuple(self.group_ids[row] for row in rows),
        )


def distance_table(predictions: Mapping[str, Predictions], config: EvaluationConfig) -> pd.DataFrame:
    """Return L1, L2 and cosine, mean and interval, for each name (a split, or a loss).

    Returns
    -------
    pandas.DataFrame
        Columns name, n, measure ("l1", "l2", "cosine"), value, low, high.
    """
    rows = []
    for name, prediction in predictions.items():
        for measure, values in pair_distances(prediction.true, prediction.predicted).items():
            interval = bootstrap_interval(
                values,
                group_ids=prediction.group_ids,
                settings=config.interval,
            )
            rows.append({"name": name, "n": len(prediction), "measure": measure} | _columns(interval))
    return pd.DataFrame(rows)


def rank_table(predictions: Mapping[str, Predictions], config: EvaluationConfig) -> pd.DataFrame:
    """Return the rank of each query's true face, by name and similarity.

    The gallery of a query are all true faces of its own set.  Compared in chunks, on a GPU where
    there is one; memory as `large_gallery.ranks_in_gallery` says, and a row of the table for each
    query and similarity: no similarity of all with all is kept.

    Returns
    -------
    pandas.DataFrame
        Columns name, measure, clip_id, group (person or video), gallery, rank (ties at the mean of
        their places) and ties (how many other faces are as alike as the true one).
    """
    from s2f_lib.evaluation.large_gallery import ranks_in_gallery  # torch, which tables else do without

    tables = []
    for name, prediction in predictions.items():
        found = ranks_in_gallery(prediction.predicted, prediction.true, measures=config.similarities)
        for measure, ranked in found.items():
            columns = {
                "name": name,
                "measure": measure,
                "clip_id": prediction.clip_ids,
                "group": prediction.person_ids,
            }
            columns |= {"gallery": len(prediction), "rank": ranked.ranks, "ties": ranked.ties}
            tables.append(pd.DataFrame(columns))
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
            hits = hit_probability(group["rank"].to_numpy(), k, group["ties"].to_numpy())
            interval = hit_interval(hits, group_ids=group["group"].to_numpy(), settings=config.interval)
            key = {"name": name, "measure": measure, "k": k, "n": len(group), "gallery": gallery}
            rows.append(key | _columns(interval) | {"chance": chance_recall(k, gallery)})
    return pd.DataFrame(rows)


def _columns(interval: Interval) -> dict[str, float]:
    return {"value": interval.value, "low": interval.low, "high": interval.high}
