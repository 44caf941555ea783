"""The report's tables as long pandas tables, with n, interval and chance, and the plot of recall."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from s2f_lib.config import RECALL_AT, EvaluationConfig, IntervalSettings, SimilarityName
from s2f_lib.errors import InputError
from s2f_lib.evaluation.retrieval import (
    SIMILARITIES,
    chance_recall,
    check_same_index,
    feature_pair,
    hit_probability,
    pair_distances,
    ranks_in_gallery,
)
from s2f_lib.evaluation.statistics import bootstrap_interval, hit_interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_SHARES = ("recall", "low", "high", "chance")


@dataclass(frozen=True)
class Predictions:
    """True and predicted features of one split; row i of both is clip i.

    Attributes
    ----------
    clip_ids
        `n` ids.
    true, predicted
        `(n, dimension)` features of the face, and those predicted from the voice. Torch tensors, pandas
        DataFrames and lists become NumPy arrays.
    group_ids
        `n` ids of the people or videos that intervals resample: a person with several clips counts once.
        None: each clip is another person.

    Raises
    ------
    InputError
        Numbers or dimensions differ, or a row of features is zero or not finite; the message names the
        argument.

    See Also
    --------
    evaluate_retrieval : Takes features without ids.

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
        true, predicted = feature_pair(self.true, self.predicted)
        clip_ids = _ids(self.clip_ids, "clip_ids")
        group_ids = None if self.group_ids is None else _ids(self.group_ids, "group_ids")
        if group_ids is not None and len(group_ids) != len(clip_ids):
            raise InputError(f"{len(clip_ids)} clip ids and {len(group_ids)} groups: expected equal numbers")
        if not len(clip_ids) == len(true) == len(predicted):
            raise InputError(
                f"{len(clip_ids)} clip ids, {len(true)} true and {len(predicted)} predicted "
                "features: expected equal numbers"
            )
        checked = {"clip_ids": clip_ids, "true": true, "predicted": predicted, "group_ids": group_ids}
        for name, value in checked.items():
            object.__setattr__(self, name, value)

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


def rank_table(
    predictions: Mapping[str, Predictions], *, measures: Sequence[SimilarityName] = SIMILARITIES
) -> pd.DataFrame:
    """Return the rank of each query's true face among all true faces of its set, for each similarity.

    Parameters
    ----------
    predictions
        Name of a split or a loss to its predictions.
    measures
        Names of similarities.

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
        found = ranks_in_gallery(prediction.predicted, prediction.true, measures=measures)
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


def evaluate_retrieval(
    true: ArrayLike,
    predicted: ArrayLike,
    *,
    groups: Iterable[object] | None = None,
    k: int | Sequence[int] | None = None,
    similarity: SimilarityName | Sequence[SimilarityName] = "cosine",
    confidence: float = 0.95,
    n_resamples: int = 1_000,
    seed: int = 0,
) -> pd.DataFrame:
    """Return how often each prediction finds its true face among the true faces of all rows.

    Parameters
    ----------
    true, predicted
        `(n, dimension)` features of the faces, and those that any model predicted; row i of both is one
        clip. NumPy arrays, torch tensors (on any device), pandas DataFrames or lists. Rows are scaled to
        length one.
    groups
        `n` ids of people or videos. Intervals resample whole groups; the other clips of a person stay in
        the gallery. None: each row is its own group.
    k
        Numbers of retrieved faces, from 1 to n. None: those of 1, 5, 10, 20 and 50 that are below n.
    similarity
        "cosine", "l1" or "l2", or several of them.
    confidence, n_resamples, seed
        Confidence level of the intervals, and number and seed of the bootstrap resamples.

    Returns
    -------
    pandas.DataFrame
        One row per similarity and k. Columns measure (name of the similarity), k, n (queries), gallery
        (faces), recall (share of queries whose true face is among the first k; ties are broken at random),
        low and high (ends of its interval), and chance (recall of guessing); shares in [0, 1].

    Raises
    ------
    InputError
        A shape, a type, a length or a value is wrong; the message names the argument.

    See Also
    --------
    plot_recall : Draws the table.
    recall_table : The same for several sets of predictions.

    Examples
    --------
    >>> faces = np.eye(8)
    >>> table = evaluate_retrieval(faces, faces, k=(1, 5))
    >>> table[["k", "n", "gallery", "recall", "chance"]].values.tolist()
    [[1.0, 8.0, 8.0, 1.0, 0.125], [5.0, 8.0, 8.0, 1.0, 0.625]]
    """
    check_same_index(true=true, predicted=predicted, groups=groups)
    true, predicted = feature_pair(true, predicted)
    n = len(true)
    if n < 2:
        raise InputError(f"true and predicted: found {n} rows, expected at least 2")
    if groups is not None:
        groups = _ids(groups, "groups")
        if len(groups) != n:
            raise InputError(f"groups: found {len(groups)} ids for {n} rows of features, expected one each")
    measures = (similarity,) if isinstance(similarity, str) else tuple(similarity)
    if not measures or set(measures) - set(SIMILARITIES):
        raise InputError(
            f"similarity: found {similarity!r}, expected one or more of {', '.join(SIMILARITIES)}"
        )
    interval = IntervalSettings().with_(confidence=confidence, n_resamples=n_resamples, seed=seed)
    settings = EvaluationConfig(
        recall_at=_values_of_k(k, n), confidence=interval.confidence, n_bootstrap=n_resamples, seed=seed
    )
    rows = Predictions(tuple(str(row) for row in range(n)), true, predicted, groups)
    table = recall_table(rank_table({"": rows}, measures=measures), settings)
    return table.drop(columns="name").rename(columns={"value": "recall"})


def plot_recall(table: pd.DataFrame, ax: Axes | None = None, *, label: str | None = None) -> Axes:
    """Draw recall with its interval over k, and chance.

    Parameters
    ----------
    table
        Table of `evaluate_retrieval`.
    ax
        Axes to draw into. None: those of a new figure.
    label
        Name of the model in the legend, where several tables are drawn into the same axes.

    Returns
    -------
    matplotlib.axes.Axes
        The axes; `ax.figure.savefig(...)` writes the figure.

    Raises
    ------
    InputError
        The table lacks a column.

    Examples
    --------
    >>> ax = plot_recall(evaluate_retrieval(np.eye(8), np.eye(8)))
    >>> ax.get_xlabel()
    'k, faces retrieved of 8'
    """
    missing = [name for name in ("measure", "k", "gallery", *_SHARES) if name not in table]
    if missing:
        raise InputError(f"table: no column {', '.join(missing)}, expected the table of evaluate_retrieval")
    if ax is None:
        from matplotlib import pyplot

        ax = pyplot.figure(layout="constrained").subplots()
    for measure, rows in table.sort_values("k").groupby("measure", sort=False):
        name = str(measure) if label is None else f"{label}, {measure}"
        (line,) = ax.plot(rows["k"], rows["recall"], marker="o", label=name)
        ax.fill_between(rows["k"], rows["low"], rows["high"], color=line.get_color(), alpha=0.2, lw=0)
    if "chance" not in ax.get_legend_handles_labels()[1]:
        chance = table.drop_duplicates("k").sort_values("k")
        ax.plot(chance["k"], chance["chance"], color="black", ls=":", label="chance")
    sizes = " or ".join(f"{size:,}" for size in table["gallery"].unique())
    ax.set(xlabel=f"k, faces retrieved of {sizes}", ylabel="recall, share of queries", ylim=(0, 1.02))
    ax.legend()
    return ax


def _ids(values: Iterable[object], name: str) -> tuple:
    """Return ids as a checked tuple."""
    try:
        ids = tuple(values.tolist() if hasattr(values, "tolist") else values)
    except TypeError:
        ids = None
    if ids is None or isinstance(values, str | pd.DataFrame) or any(np.ndim(each) for each in ids):
        raise InputError(
            f"{name}: found {type(values).__name__}, expected a list of ids, one per row of features"
        )
    missing = [row for row, each in enumerate(ids) if pd.isna(each)]
    if missing:
        raise InputError(f"{name}: {len(missing)} of {len(ids)} ids are missing (first: row {missing[0]})")
    return ids


def _values_of_k(k: int | Sequence[int] | None, gallery: int) -> tuple[int, ...]:
    if k is None:
        return tuple(each for each in RECALL_AT if each < gallery)
    values = np.atleast_1d(np.asarray(k))
    if values.dtype.kind not in "iu" or values.size == 0 or values.min() < 1 or values.max() > gallery:
        raise InputError(
            f"k: found {k!r}, expected whole numbers from 1 to {gallery}, the number of faces in the gallery"
        )
    return tuple(values.tolist())
