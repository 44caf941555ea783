"""What the chapters measure beyond the report's tables: baselines, tests, the best possible, examples."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from s2f_lib.chapters.reference import LOSS_NAMES
from s2f_lib.config import EvaluationConfig, SimilarityName, StudyConfig
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
from s2f_lib.study import Study

#: A permutation test compares all with all: of larger sets, so many people at even steps.
MOST_TESTED = 10_000


def mean_face(train_features: np.ndarray, test: Predictions) -> Predictions:
    """Return the test people with the same guess for each: the mean direction of the training faces.

    Face features share a large mean, so distances alone flatter an encoder that says no more than this.

    Parameters
    ----------
    train_features
        `(n, dimension)`, true ones of the training people.
    """
    mean = unit(train_features).mean(axis=0)
    return Predictions(test.clip_ids, test.true, np.broadcast_to(mean, test.true.shape), test.group_ids)


def tests_against_chance(
    predictions: Mapping[str, Predictions], config: EvaluationConfig, *, measure: SimilarityName
) -> pd.DataFrame:
    """Return the mean reciprocal rank of each split, its chance, and the permutation test's p-value.

    Of a set larger than `MOST_TESTED`, so many people at even steps are taken.  Where a person
    has several clips, intervals are by person, and the test is made on the first clip of each:
    a person's clips are not independent pairings.
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
        alone = similarity if len(first) == len(prediction) else similarity[np.ix_(first, first)]
        _, p_value = reciprocal_rank_test(alone, seed=config.seed)
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


def best_possible(config: StudyConfig, clip_ids: Sequence[str]) -> pd.DataFrame:
    """Return recall of the best ranking that a generated world allows; of real people it is unknown.

    The latents that voice and face share are known, and so is how likely each face is
    given the voice's latents; nobody ranks better than by that.
    """
    ks = config.evaluation.recall_at
    if config.source.kind != "synthetic":
        return pd.DataFrame([{"ranked by": "the true likelihood"} | {f"R@{k}, %": "unknown" for k in ks}])
    from s2f_lib.sources.synthetic.people import draw_population, log_likelihood

    people = draw_population(config.source.synthetic).table().set_index("clip_id").loc[list(clip_ids)]
    scores = log_likelihood(people, people, rho=config.source.synthetic.rho)
    hits = {k: hit_interval(expected_hits(scores, k), settings=config.evaluation.interval) for k in ks}
    row = {f"R@{k}, %": f"{interval.times(100):.1f}" for k, interval in hits.items()}
    chance = {f"R@{k}, %": f"{100 * chance_recall(k, len(scores)):.1f}" for k in ks}
    return pd.DataFrame([{"ranked by": "the true likelihood"} | row, {"ranked by": "chance"} | chance])


def recall_over_seeds(study: Study, *, measure: SimilarityName, k: int) -> pd.DataFrame:
    """Return each loss's recall at k on the test people, over `training.seed` and `controls.more_seeds`.

    Returns
    -------
    pandas.DataFrame
        A row a loss: trained with, seeds, mean over the seeds with its interval over people (each
        person's hits over all seeds are drawn together), standard deviation over the seeds (missing for
        one), lowest, highest, chance; shares.
    """
    config = study.config
    seeds = (config.training.seed, *config.controls.more_seeds)
    rows = []
    for loss in config.training.losses:
        hits = []
        for seed in seeds:
            predictions = study.features("test", loss, seed=seed)
            similarity = similarity_matrix(predictions.predicted, predictions.true, measure)
            hits.append(expected_hits(similarity, k))
        values = np.array([each.mean() for each in hits])
        interval = hit_interval(
            np.mean(hits, axis=0), group_ids=predictions.group_ids, settings=config.evaluation.interval
        )
        rows.append(
            {
                "trained with": LOSS_NAMES[loss],
                "seeds": len(values),
                "mean": f"{interval:.3f}",
                "standard deviation": values.std(ddof=1) if len(values) > 1 else np.nan,
                "lowest": values.min(),
                "highest": values.max(),
                "chance": chance_recall(k, len(predictions)),
            }
        )
    return pd.DataFrame(rows)


@dataclass(frozen=True)
class FoundFaces:
    """Rows of a retrieval figure: the true face first, then what was found.

    Attributes
    ----------
    columns
        `(rows, 1 + top_k)` int, places in the gallery.
    is_true
        `(rows, 1 + top_k)` bool: a found face that is the true one.
    notes
        A text a row: the true face's rank.
    """

    columns: np.ndarray
    is_true: np.ndarray
    notes: list[str]

    @property
    def headings(self) -> list[str]:
        """A text a column: the true face, then the places."""
        return ["true face", *(str(rank) for rank in range(1, self.columns.shape[1]))]


def found_faces(similarity: np.ndarray, *, n_rows: int, top_k: int) -> FoundFaces:
    """Choose queries spread evenly from the best rank to the worst, and what was found for them.

    Parameters
    ----------
    similarity
        `(n, n)`, row i's true face in column i.
    """
    ranks = true_ranks(similarity)
    order = np.argsort(ranks, kind="stable")
    rows = order[np.linspace(0, len(order) - 1, min(n_rows, len(order))).round().astype(int)]
    found = nearest(similarity, top_k)[rows]
    columns = np.concatenate([rows[:, None], found], axis=1)
    is_true = np.concatenate([np.zeros((len(rows), 1), bool), found == rows[:, None]], axis=1)
    return FoundFaces(columns, is_true, [f"rank {ranks[row]:.0f} of {len(ranks):,}" for row in rows])


def mean_image(images: np.ndarray) -> np.ndarray:
    """Return the mean of pictures `(n, height, width, 3)` uint8, rounded."""
    return images.mean(axis=0).round().astype(np.uint8)


def _interval(
    values: np.ndarray,
    group_ids: Sequence[object] | None,
    config: EvaluationConfig,
    *,
    statistic: Callable[..., np.ndarray] = np.mean,
) -> Interval:
    return bootstrap_interval(values, statistic, group_ids=group_ids, settings=config.interval)
