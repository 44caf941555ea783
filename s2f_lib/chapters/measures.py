"""What chapters measure beyond the report's tables: baselines, tests, the best possible, examples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

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

    `train_features` are true features, `(n, dimension)`. Face features share a large mean, so even this
    baseline has small distances.
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
    for name, everybody in predictions.items():
        prediction = everybody
        if len(everybody) > MOST_TESTED:
            prediction = everybody.subset(even_steps(len(everybody), MOST_TESTED))
        similarity = similarity_matrix(prediction.predicted, prediction.true, measure)
        ranked = ranks_with_ties(similarity)
        by_group: Any = {"group_ids": prediction.group_ids, "settings": config.interval}
        interval = bootstrap_interval(reciprocal_rank(ranked.ranks, ranked.ties), **by_group)
        median = bootstrap_interval(ranked.ranks, np.median, **by_group)
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

    `indices` into the gallery are `(rows, 1 + top_k)`. `is_true` has the same shape and marks retrieved faces
    that are the true one. `notes` hold the true face's rank, one text per row.
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

    `similarity` of each voice to each face is `(n, n)`; row i's true face is in column i.
    """
    ranks = true_ranks(similarity)
    order = np.argsort(ranks, kind="stable")
    rows = order[even_steps(len(order), n_rows)]
    found = nearest(similarity, top_k)[rows]
    indices = np.concatenate([rows[:, None], found], axis=1)
    is_true = np.concatenate([np.zeros((len(rows), 1), bool), found == rows[:, None]], axis=1)
    return FoundFaces(indices, is_true, [f"rank {ranks[row]:.0f} of {len(ranks):,}" for row in rows])


def mean_image(images: np.ndarray) -> np.ndarray:
    """Return the mean of images `(n, height, width, 3)` uint8, rounded to uint8."""
    return images.mean(axis=0).round().astype(np.uint8)


def even_steps(n: int, wanted: int) -> np.ndarray:
    """Return up to `wanted` indices at even steps from 0 to `n - 1`."""
    return np.linspace(0, n - 1, min(n, wanted)).round().astype(int)
