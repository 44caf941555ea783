"""Linear probes: how much of a face's attributes its features contain.

A probe is fitted on true features of training people and applied to true and predicted features of test
people. What it reads from predicted features comes from the voice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import pandas as pd
from sklearn.linear_model import LogisticRegression, RidgeCV
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from s2f_lib.config import IntervalSettings
from s2f_lib.errors import InputError
from s2f_lib.evaluation.retrieval import unit
from s2f_lib.evaluation.statistics import DEFAULT_INTERVAL, bootstrap_interval, hit_interval


@dataclass(frozen=True)
class ProbeData:
    """Features of people and their attributes.

    Attributes
    ----------
    features
        `(n, dimension)` floats.
    attributes
        Name to `(n,)` values; texts are classes, numbers are regressed.
    group_ids
        `n` ids of the people or videos that intervals resample. None: each row is another person.
    """

    features: np.ndarray
    attributes: Mapping[str, np.ndarray]
    group_ids: Sequence[object] | None = None


def fit_probe(features: np.ndarray, values: np.ndarray) -> Pipeline:
    """Fit a linear probe on unit features: logistic regression for texts, ridge regression for numbers."""
    if len(features) != len(values):
        raise InputError(
            f"{len(features)} feature vectors and {len(values)} attribute values: expected equal numbers"
        )
    is_number = np.issubdtype(np.asarray(values).dtype, np.number)
    model = RidgeCV(np.logspace(-2, 4, 13)) if is_number else LogisticRegression(max_iter=2_000, C=0.1)
    return make_pipeline(StandardScaler(), model).fit(unit(features), values)


def probe_table(
    train: ProbeData, test: Mapping[str, ProbeData], settings: IntervalSettings = DEFAULT_INTERVAL
) -> pd.DataFrame:
    """Return how well each attribute is read from features, with its interval and chance.

    Parameters
    ----------
    train
        True features and attributes of the training people.
    test
        Name ("true", "predicted") to features and attributes of the test people.
    settings
        Settings of the intervals.

    Returns
    -------
    pandas.DataFrame
        Columns attribute, name, score ("accuracy" or "mean absolute error"), n, value, low, high, chance.
        Chance is the score of the most frequent training class, or of the training median.

    Examples
    --------
    >>> people = ProbeData(np.eye(4), {"gender": np.array(["f", "f", "m", "m"])})
    >>> probe_table(people, {"true": people})[["score", "value", "chance"]].values.tolist()
    [['accuracy', 1.0, 0.5]]
    """
    rows = []
    for attribute, values in train.attributes.items():
        probe = fit_probe(train.features, values)
        for name, data in test.items():
            truth = np.asarray(data.attributes[attribute])
            guess = probe.predict(unit(data.features))
            if np.issubdtype(np.asarray(values).dtype, np.number):
                score = "mean absolute error"
                interval = bootstrap_interval(
                    np.abs(guess - truth), group_ids=data.group_ids, settings=settings
                )
                chance = float(np.abs(truth - np.median(values)).mean())
            else:
                score = "accuracy"
                interval = hit_interval(guess == truth, group_ids=data.group_ids, settings=settings)
                classes, counts = np.unique(values, return_counts=True)
                chance = float((truth == classes[counts.argmax()]).mean())
            row = {"attribute": attribute, "name": name, "score": score, "n": len(truth)}
            rows.append(row | asdict(interval) | {"chance": chance})
    return pd.DataFrame(rows)
