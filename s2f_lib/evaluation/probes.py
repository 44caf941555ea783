"""How much of a face's attributes features hold: probes with scikit-learn.

A probe is fitted on true features of the training people and read off true and
predicted features of the test people.  What the predicted ones still tell is
what the voice told.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from sklearn.linear_model import LogisticRegression, RidgeCV
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from s2f_lib.config import EvaluationConfig
from s2f_lib.errors import InputError
from s2f_lib.evaluation.distances import unit
from s2f_lib.evaluation.statistics import bootstrap_interval, hit_interval


@dataclass(frozen=True)
class ProbeData:
    """Features of people and their attributes.

    Attributes
    ----------
    features
        `(n, dimension)`.
    attributes
        Name to `(n,)`: texts are classes, numbers are regressed.
    group_ids
        `n` ids of persons or videos, which intervals resample; None: each row is another person.
    """

    features: np.ndarray
    attributes: Mapping[str, np.ndarray]
    group_ids: Sequence[object] | None = None


def fit_probe(features: np.ndarray, values: np.ndarray) -> Pipeline:
    """Fit a linear probe: logistic for texts, ridge for numbers."""
    if len(features) != len(values):
        raise InputError(
            f"{len(features)} feature vectors and {len(values)} attribute values: expected as many"
        )
    is_number = np.issubdtype(np.asarray(values).dtype, np.number)
    model = RidgeCV(np.logspace(-2, 4, 13)) if is_number else LogisticRegression(max_iter=2_000, C=0.1)
    return make_pipeline(StandardScaler(), model).fit(unit(features), values)


def probe_table(
    fit_on: ProbeData, read_from: Mapping[str, ProbeData], config: EvaluationConfig
) -> pd.DataFrame:
    """Return how well each attribute is read, with interval and the best guess without features.

    Parameters
    ----------
    fit_on
        True features and attributes of the training people.
    read_from
        Name ("true", "predicted") to features and attributes of the test people.

    Returns
    -------
    pandas.DataFrame
        Columns attribute, name, score ("accuracy" or "mean absolute error"), n, value, low, high, chance.
        Chance is the largest class of training, or the error of the training median.
    """
    rows = []
    for attribute, values in fit_on.attributes.items():
        probe = fit_probe(fit_on.features, values)
        for name, data in read_from.items():
            truth = np.asarray(data.attributes[attribute])
            guess = probe.predict(unit(data.features))
            if np.issubdtype(np.asarray(values).dtype, np.number):
                score, scores, interval_of = "mean absolute error", np.abs(guess - truth), bootstrap_interval
                chance = float(np.abs(truth - np.median(values)).mean())
            else:
                score, scores, interval_of = "accuracy", (guess == truth).astype(float), hit_interval
                classes, counts = np.unique(values, return_counts=True)
                chance = float((truth == classes[counts.argmax()]).mean())
            interval = interval_of(
                scores,
                group_ids=data.group_ids,
                settings=config.interval,
            )
            row = {"attribute": attribute, "name": name, "score": score, "n": len(truth)}
            rows.append(
                row | {"value": interval.value, "low": interval.low, "high": interval.high, "chance": chance}
            )
    return pd.DataFrame(rows)
