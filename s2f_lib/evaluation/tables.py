"""The report's tables as long pandas tables, with n, interval and chance."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass

import numpy as np
import pandas as pd

from s2f_lib.config import EvaluationConfig
from s2f_lib.errors import InputError
from s2f_lib.evaluation.retrieval import (
    SIMILARITIES,
    chance_recall,
    hit_probability,
    pair_distances,
    ranks_in_gallery,
)
from s2f_lib.evaluation.statistics import bootstrap_interval, hit_interval


@dataclass(frozen=True)
class Predictions:
    """True and predicted features of one split; row i of both is clip i.

    Attributes
    ----------
    clip_ids
        `n` ids.
    true, predicted
        `(n, dimension)` float32 features of the face, and those predicted from the voice.
    group_ids
        `n` ids of the people or videos that intervals resample: a person with several clips counts once.
        None: each clip is another person.

    Examples
    --------
    >>> predictions = Predictions(("a", "b"), np.eye(2), np.ones((2, 2)))
    >>> predictions.subset(np.array([1])).clip_ids
    ('b',)
    """

    clip_ids: tuple[str, ...]
    true: np.ndarray
    predicted: np.ndarray
    group_ids: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if self.group_ids is not None and len(self.group_ids) != len(self.clip_ids):
            raise InputError(
                f"{len(self.clip_ids)} clip ids and {len(self.group_ids)} groups: expected equal numbers"
            )
        if not len(self.clip_ids) == len(self.true) == len(self.predicted):
            raise InputError(
                f"{len(self.clip_ids)} clip ids, {len(self.true)} true and {len(self.predicted)} predicted "
                "features: expected equal numbers"
            )

    def __len__(self) -> int:
        return len(self.clip_ids)

    @property
    def person_ids(self) -> tuple[str, ...]:
        """The group ids, or the clip ids if group ids are not given."""
        return self.group_ids or self.clip_ids

    def subset(self, rows: np.ndarray) -> Predictions:
        """Return the predictions at `(m,)` indices."""
        return Predictions(
            tuple(self.clip_ids[row] for row in rows),
            self.true[rows],
            self.predicted[rows],
            None if self.group_ids is None else tuple(self.group_ids[row] for row in rows),
        )


def distance_table(predictions: Mapping[str, Predictions], config: EvaluationConfig) -> pd.DataFrame:
    """Return the mean L1 distance, L2 distance and cosine similarity of each set of predictions.

    Parameters
    ----------
    predictions
        Name of a split or a loss to its predictions.
    config
        Settings of the intervals.

    Returns
    -------
    pandas.DataFrame
        Columns name, n, measure ("l1", "l2", "cosine"), value, low, high.

    See Also
    --------
    recall_table : How often the true face is found.

    Examples
    --------
    >>> from s2f_lib.config import EvaluationConfig
    >>> perfect = Predictions(("a", "b"), np.eye(2), np.eye(2))
    >>> distance_table({"test": perfect}, EvaluationConfig())["value"].tolist()
    [0.0, 0.0, 1.0]
    """
    rows = []
    for name, prediction in predictions.items():
        for measure, values in pair_distances(prediction.true, prediction.predicted).items():
            interval = bootstrap_interval(values, group_ids=prediction.group_ids, settings=config.interval)
            rows.append({"name": name, "n": len(prediction), "measure": measure} | asdict(interval))
    return pd.DataFrame(rows)


def rank_table(predictions: Mapping[str, Predictions]) -> pd.DataFrame:
    """Return the rank of each query's true face among all true faces of its set, for each similarity.

    Returns
    -------
    pandas.DataFrame
        One row per query and similarity. Columns name, measure, clip_id, group (person or video),
        gallery, rank (tied faces share their mean rank) and ties (number of other faces that are
        equally similar).

    See Also
    --------
    retrieval.ranks_in_gallery : Says how much memory this takes.

    Examples
    --------
    >>> ranks = rank_table({"test": Predictions(("a", "b"), np.eye(2), np.eye(2))})
    >>> ranks["rank"].tolist()  # for L1, L2 and cosine
    [1.0, 1.0, 1.0, 1.0, 1.0, 1.0]
    """
    tables = []
    for name, prediction in predictions.items():
        found = ranks_in_gallery(prediction.predicted, prediction.true, measures=SIMILARITIES)
        for measure, ranked in found.items():
            columns = {
                "name": name,
                "measure": measure,
                "clip_id": prediction.clip_ids,
                "group": prediction.person_ids,
                "gallery": len(prediction),
                "rank": ranked.ranks,
                "ties": ranked.ties,
            }
            tables.append(pd.DataFrame(columns))
    return pd.concat(tables, ignore_index=True)


def recall_table(ranks: pd.DataFrame, config: EvaluationConfig) -> pd.DataFrame:
    """Return the recall at each K with its interval and chance.

    Parameters
    ----------
    ranks
        Table of `rank_table`.
    config
        Values of K, and settings of the intervals.

    Returns
    -------
    pandas.DataFrame
        Columns name, measure, k, n (queries), gallery (faces), value, low, high, chance; shares in [0, 1].

    Examples
    --------
    >>> from s2f_lib.config import EvaluationConfig
    >>> ranks = rank_table({"test": Predictions(("a", "b"), np.eye(2), np.eye(2))})
    >>> recall_table(ranks, EvaluationConfig(recall_at=(1,)))[["value", "chance"]].values.tolist()
    [[1.0, 0.5], [1.0, 0.5], [1.0, 0.5]]
    """
    rows = []
    for (name, measure, gallery), group in ranks.groupby(["name", "measure", "gallery"], sort=False):
        for k in config.recall_at:
            hits = hit_probability(group["rank"].to_numpy(), k, group["ties"].to_numpy())
            interval = hit_interval(hits, group_ids=group["group"].to_numpy(), settings=config.interval)
            key = {"name": name, "measure": measure, "k": k, "n": len(group), "gallery": gallery}
            rows.append(key | asdict(interval) | {"chance": chance_recall(k, int(group["gallery"].iloc[0]))})
    return pd.DataFrame(rows)
