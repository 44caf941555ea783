"""Coverage of intervals, and the tables of predictions."""

from __future__ import annotations

import numpy as np
import pytest

from s2f_lib.config import EvaluationConfig, IntervalSettings
from s2f_lib.errors import InputError
from s2f_lib.evaluation.statistics import bootstrap_interval, hit_interval
from s2f_lib.evaluation.tables import Predictions, distance_table, rank_table, recall_table

CONFIG = EvaluationConfig(recall_at=(1, 5), n_bootstrap=200)


def _predictions(n: int, noise: float) -> Predictions:
    rng = np.random.default_rng(n)
    true = rng.normal(size=(n, 6))
    predicted = true + noise * rng.normal(size=(n, 6))
    return Predictions(tuple(f"clip{i}" for i in range(n)), true, predicted)


def test_bootstrap_interval_has_its_coverage():
    rng = np.random.default_rng(0)
    hits = 0
    for trial in range(100):
        interval = bootstrap_interval(
            rng.normal(size=60), settings=IntervalSettings(n_resamples=200, seed=trial)
        )
        hits += interval.low <= 0 <= interval.high
    assert 87 <= hits <= 100


def test_bootstrap_interval_repeats_with_its_seed():
    values = np.random.default_rng(0).random(30)
    one, two = (bootstrap_interval(values, settings=IntervalSettings(seed=1)) for _ in range(2))
    assert one == two
    assert one.low < one.value < one.high
    assert f"{hit_interval(np.array([1, 2, 9]) <= 9):.1f}" == "1.0 [0.3, 1.0]"
    with pytest.raises(InputError, match="at least 2 values"):
        bootstrap_interval(np.array([1.0]))


def test_tables_have_all_rows_with_their_chance():
    predictions = {"train": _predictions(40, 0.1), "test": _predictions(20, 3.0)}
    distances = distance_table(predictions, CONFIG)
    assert len(distances) == 2 * 3
    recall = recall_table(rank_table(predictions), CONFIG)
    assert len(recall) == 2 * 3 * 2
    assert not recall.isna().any().any()
    at_one = recall[(recall.k == 1) & (recall.measure == "cosine")].set_index("name")
    assert at_one.loc["train", "chance"] == 1 / 40
    assert at_one.loc["test", "chance"] == 1 / 20
    assert at_one.loc["train", "value"] > at_one.loc["test", "value"]
    assert ((recall.low <= recall.value) & (recall.value <= recall.high)).all()


def _repeated(prediction: Predictions, times: int, *, with_person_ids: bool) -> Predictions:
    """Return each clip several times with a little noise, as clips of one person or of several people."""
    rows = np.repeat(np.arange(len(prediction)), times)
    noise = 1e-6 * np.random.default_rng(0).normal(size=prediction.true[rows].shape)
    ids = tuple(f"{prediction.clip_ids[row]}-{number}" for number, row in enumerate(rows))
    person_ids = tuple(prediction.clip_ids[row] for row in rows) if with_person_ids else None
    return Predictions(ids, prediction.true[rows] + noise, prediction.predicted[rows], person_ids)


def _widths(prediction: Predictions) -> np.ndarray:
    tables = (
        distance_table({"a": prediction}, CONFIG),
        recall_table(rank_table({"a": prediction}), CONFIG),
    )
    return np.concatenate([(table["high"] - table["low"]).to_numpy() for table in tables])


def test_tables_resample_people():
    prediction = _predictions(40, 3.0)
    by_video = Predictions(
        prediction.clip_ids, prediction.true, prediction.predicted, tuple(f"video{i}" for i in range(40))
    )
    np.testing.assert_array_equal(_widths(by_video), _widths(prediction))
    by_person, by_clip = (
        _widths(_repeated(prediction, 4, with_person_ids=with_person_ids))
        for with_person_ids in (True, False)
    )
    assert len(by_clip) == 3 + 3 * 2  # distances, then recall at 1 and 5 by each measure
    rows = [0, 1, 2, 4, 6, 8]  # hits at 1 are few, and hardly shared by copies of a face
    assert (by_person[rows] > 1.5 * by_clip[rows]).all()


def test_recall_table_counts_ties_by_probability():
    true = np.array([[1.0, 0], [1, 0], [1, 0], [0, 1]])
    prediction = Predictions(("a", "b", "c", "d"), true, true)
    ranks = rank_table({"test": prediction})
    assert ranks["ties"].tolist() == [2, 2, 2, 0] * 3
    recall = recall_table(ranks, CONFIG)
    assert recall.loc[recall["k"] == 1, "value"].tolist() == pytest.approx([(1 / 3 * 3 + 1) / 4] * 3)


def test_predictions_refuse_unequal_numbers():
    with pytest.raises(InputError, match="2 clip ids, 3 true and 3 predicted"):
        Predictions(("a", "b"), np.ones((3, 2)), np.ones((3, 2)))
    with pytest.raises(InputError, match="2 clip ids and 1 groups"):
        Predictions(("a", "b"), np.ones((2, 2)), np.ones((2, 2)), ("a",))
