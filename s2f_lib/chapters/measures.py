"""What chapters measure beyond the report's tables: baselines, tests, the best possible, examples."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from s2f_lib.config import EvaluationConfig, SimilarityName, SourceConfig
from s2f_lib.evaluation.retrieval import (
    chance_recall,
    expected_hits,
    nearest,
    ranks_with_ties,
    reciprocal_rank,
    similarity_matrix,
    true_ranks,
    unit,
)
from s2f_lib.evaluation.statistics import (
    Interval,
    bootstrap_interval,
    chance_reciprocal_rank,
    hit_interval,
    reciprocal_rank_test,
)
from s2f_lib.evaluation.tables import Predictions

#: Larger sets are subsampled to this number of people, because the permutation test compares all with all.
MOST_TESTED = 10_000


def mean_face(train_features: np.ndarray, test: Predictions) -> Predictions:
    """Return the test people with the same prediction for all: the mean direction of the training faces.

    Face features share a large mean, so even this baseline has small distances.

    Parameters
    ----------
    train_features
        `(n, dimension)` true features of the training people.
    test
        True features of the test people.
    """
    mean = unit(train_features).mean(axis=0)
    return Predictions(test.clip_ids, test.true, np.broadcast_to(mean, test.true.shape), test.group_ids)


def tests_against_chance(
    predictions: Mapping[str, Predictions], config: EvaluationConfig, *, measure: SimilarityName
) -> pd.DataFrame:
    """Return the mean reciprocal rank of each set, its chance, and the p-value of a permutation test.

    A set larger than `MOST_TESTED` is subsampled at even steps. Intervals are by person. The test uses the
    first clip of each person, because the clips of a person are not independent pairings.
    """
    rows = []
    for name, whole in predictions.items():
        prediction = whole
        if len(whole) > MOST_TESTED:
            prediction = whole.subset(np.linspace(0, len(whole) - 1, MOST_TESTED).round().astype(int))
        similarity = similarity_matrix(prediction.predicted, prediction.true, measure)
        ranked = ranks_with_ties(similarity)
        interval = _interval(reciprocal_rank(ranked.ranks, ranked.ties), prediction.group_ids, config)
        median = _interval(ranked.ranks, prediction.group_ids, config, statistic=np.median)
        _, first = np.unique(prediction.person_ids, return_index=True)
        first.sort()
        tested = similarity if len(first) == len(prediction) else similarity[np.ix_(first, first)]
        _, p_value = reciprocal_rank_test(tested, seed=config.seed)
        rows.append(
            {
                "set": name,
                "queries and faces": len(prediction),
                "mean reciprocal rank": f"{interval:.3f}",
                "chance": chance_reciprocal_rank(len(prediction)),
                "median rank": f"{median:.1f}",
                "median by guessing": f"{(len(prediction) + 1) / 2:.1f}",
                "p-value": p_value,
            }
        )
    return pd.DataFrame(rows)


def best_possible(
    clip_ids: Sequence[str], *, source: SourceConfig, evaluation: EvaluationConfig
) -> pd.DataFrame:
    """Return the recall of the best possible ranking of generated people; for real people it is unknown.

    In a generated world the likelihood of each face given the voice's latents is known. No other score
    ranks better.
    """
    ks = evaluation.recall_at
    if source.kind != "synthetic":
        return pd.DataFrame([{"ranked by": "the true likelihood"} | {f"R@{k}, %": "unknown" for k in ks}])
    from s2f_lib.sources.synthetic.people import draw_population, log_likelihood

    people = draw_population(source.synthetic).table().set_index("clip_id").loc[list(clip_ids)]
    scores = log_likelihood(people, people, rho=source.synthetic.rho)
    hits = {k: hit_interval(expected_hits(scores, k), settings=evaluation.interval) for k in ks}
    row = {f"R@{k}, %": f"{interval.times(100):.1f}" for k, interval in hits.items()}
    chance = {f"R@{k}, %": f"{100 * chance_recall(k, len(scores)):.1f}" for k in ks}
    return pd.DataFrame([{"ranked by": "the true likelihood"} | row, {"ranked by": "chance"} | chance])


@dataclass(frozen=True)
class FoundFaces:
    """Rows of a retrieval figure: the true face first, then the retrieved faces.

    Attributes
    ----------
    indices
        `(rows, 1 + top_k)` int, indices into the gallery.
    is_true
        `(rows, 1 + top_k)` bool, True for a retrieved face that is the true one.
    notes
        One text per row: the true face's rank.
    """

    indices: np.ndarray
    is_true: np.ndarray
    notes: list[str]

    @property
    def headings(self) -> list[str]:
        """One text per column: the true face, then the ranks."""
        return ["true face", *(str(rank) for rank in range(1, self.indices.shape[1]))]


def found_faces(similarity: np.ndarray, *, n_rows: int, top_k: int) -> FoundFaces:
    """Choose queries at even steps from the best rank to the worst, and return their nearest faces.

    Parameters
    ----------
    similarity
        `(n, n)` similarity of each voice to each face; row i's true face is in column i.

    Examples
    --------
    >>> found = found_faces(np.array([[3.0, 2.0], [3.0, 1.0]]), n_rows=2, top_k=1)
    >>> found.notes
    ['rank 1 of 2', 'rank 2 of 2']
    """
    ranks = true_ranks(similarity)
    order = np.argsort(ranks, kind="stable")
    rows = order[np.linspace(0, len(order) - 1, min(n_rows, len(order))).round().astype(int)]
    found = nearest(similarity, top_k)[rows]
    indices = np.concatenate([rows[:, None], found], axis=1)
    is_true = np.concatenate([np.zeros((len(rows), 1), bool), found == rows[:, None]], axis=1)
    return FoundFaces(indices, is_true, [f"rank {ranks[row]:.0f} of {len(ranks):,}" for row in rows])


def mean_image(images: np.ndarray) -> np.ndarray:
    """Return the mean of images `(n, height, width, 3)` uint8, rounded to uint8."""
    return images.mean(axis=0).round().astype(np.uint8)


def _interval(
    values: np.ndarray,
    group_ids: Sequence[object] | None,
    config: EvaluationConfig,
    *,
    statistic: Callable[..., np.ndarray] = np.mean,
) -> Interval:
    return bootstrap_interval(values, statistic, group_ids=group_ids, settings=config.interval)
