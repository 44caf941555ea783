"""Chapter 03: what the report's printed losses can be, and recall over training seeds."""

from __future__ import annotations

import numpy as np
import pandas as pd

from s2f_lib.chapters.reference import LOSS_NAMES, REPORT
from s2f_lib.config import SimilarityName
from s2f_lib.evaluation.audit import largest_mean_l2
from s2f_lib.evaluation.retrieval import chance_recall, expected_hits, similarity_matrix
from s2f_lib.evaluation.statistics import hit_interval
from s2f_lib.study import Study


def loss_audit() -> pd.DataFrame:
    """Return the largest L2 distance that the report's cosine of each loss allows, and the printed one."""
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


def recall_of_losses(recall: pd.DataFrame, *, measure: SimilarityName, k: int) -> pd.DataFrame:
    """Return recall at one K for each loss, as columns label, value, low, high and chance.

    `recall` is a table of `evaluation.tables.recall_table`, with losses as names.
    """
    chosen = recall[(recall["measure"] == measure) & (recall["k"] == k)]
    labels = [LOSS_NAMES.get(name, name) for name in chosen["name"]]
    return chosen.assign(label=labels)[["label", "value", "low", "high", "chance"]].reset_index(drop=True)


def recall_over_seeds(study: Study, *, measure: SimilarityName, k: int) -> pd.DataFrame:
    """Return each loss's recall at k on the test people, over `training.seed` and `controls.more_seeds`.

    All values are shares. The interval of the mean is over people: a resampled person brings the hits of all
    seeds. The standard deviation is over seeds, and is missing if there is only one seed.
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
