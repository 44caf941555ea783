"""Coverage of intervals, and the tables of predictions."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

from s2f_lib.config import EvaluationConfig, IntervalSettings
from s2f_lib.errors import InputError
from s2f_lib.evaluation.statistics import bootstrap_interval, hit_interval
from s2f_lib.evaluation.tables import (
    Predictions,
    distance_table,
    evaluate_retrieval,
    plot_recall,
    rank_table,
    recall_table,
)

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


FACES = _predictions(12, 0.5)
NAN = np.where(np.arange(72).reshape(12, 6) == 20, np.nan, FACES.true)
ZERO = FACES.true * (np.arange(12) != 4)[:, None]


def test_predictions_take_lists_tensors_and_tables():
    ids = list(FACES.clip_ids)
    expected = rank_table({"test": FACES})
    forms = {
        "lists": (FACES.true.tolist(), FACES.predicted.tolist()),
        "tensors": (torch.tensor(FACES.true), torch.tensor(FACES.predicted, requires_grad=True)),
        "tables": (pd.DataFrame(FACES.true), pd.DataFrame(FACES.predicted)),
    }
    for name, (true, predicted) in forms.items():
        predictions = Predictions(ids, true, predicted)
        pd.testing.assert_frame_equal(rank_table({"test": predictions}), expected, obj=name)
        assert predictions.subset(np.array([3])).clip_ids == ("clip3",)
        assert isinstance(predictions.predicted, np.ndarray)


@pytest.mark.parametrize(
    ("true", "predicted", "message"),
    [
        (FACES.true, FACES.predicted[:, :4], r"true and predicted: .* \(12, 6\) and \(12, 4\)"),
        (FACES.true, FACES.predicted[:9], r"true and predicted: .* \(12, 6\) and \(9, 6\)"),
        (FACES.true[0], FACES.predicted, r"true: found shape \(6,\)"),
        (FACES.true, FACES.predicted[None], r"predicted: found shape \(1, 12, 6\)"),
        (FACES.true, FACES.predicted.astype(str), "predicted: found shape .* of type <U"),
        (FACES.true, FACES.predicted * 1j, "predicted: .* complex128"),
        (FACES.true, [[1.0, 2.0], [3.0]], r"predicted: .* expected numbers of shape \(n, dimension\)"),
        (FACES.true, None, r"predicted: found shape \(\) of type object"),
        (NAN, FACES.predicted, r"true: 1 of 12 feature vectors are zero or not finite \(first: row 3\)"),
        (FACES.true, ZERO, r"predicted: 1 of 12 feature vectors are zero or not finite \(first: row 4\)"),
        (pd.DataFrame({"a": [1.0, 2.0], "name": ["x", "y"]}), np.eye(2), "true: column 'name' is of type"),
    ],
)
def test_predictions_name_the_wrong_features(true, predicted, message):
    with pytest.raises(InputError, match=message):
        Predictions(FACES.clip_ids, true, predicted)
    with pytest.raises(InputError, match=message):
        evaluate_retrieval(true, predicted)


def test_features_of_different_tables_must_belong_together():
    true = pd.DataFrame(FACES.true, index=FACES.clip_ids, columns=list("abcdef"))
    predicted = pd.DataFrame(FACES.predicted, index=FACES.clip_ids, columns=list("abcdef"))
    shuffled = predicted.sample(frac=1, random_state=0)
    with pytest.raises(
        InputError, match=r"true and predicted: the indexes differ.*predicted.loc\[true.index\]"
    ):
        evaluate_retrieval(true, shuffled)
    with pytest.raises(InputError, match=r"the order of the columns differs: use predicted\[true.columns\]"):
        evaluate_retrieval(true, predicted[list("fedcba")])
    with pytest.raises(InputError, match="true and groups: the indexes differ"):
        evaluate_retrieval(true, predicted, groups=pd.Series(FACES.clip_ids))
    table = evaluate_retrieval(true, shuffled.loc[true.index])
    pd.testing.assert_frame_equal(table, evaluate_retrieval(FACES.true, FACES.predicted))


def test_evaluate_retrieval_equals_the_tables_of_the_study():
    prediction = _repeated(_predictions(20, 2.0), 3, with_person_ids=True)
    expected = recall_table(rank_table({"test": prediction}), CONFIG).drop(columns="name")
    table = evaluate_retrieval(
        prediction.true,
        prediction.predicted,
        groups=list(prediction.group_ids),
        k=(1, 5),
        similarity=("l1", "l2", "cosine"),
        n_resamples=200,
    )
    pd.testing.assert_frame_equal(table, expected.rename(columns={"value": "recall"}))
    ungrouped = evaluate_retrieval(prediction.true, prediction.predicted, k=5)
    grouped = table[(table["measure"] == "cosine") & (table["k"] == 5)]
    assert grouped["recall"].item() == ungrouped["recall"].item()
    assert (grouped["high"] - grouped["low"]).item() > (ungrouped["high"] - ungrouped["low"]).item()


def test_evaluate_retrieval_by_hand():
    true = np.eye(4)
    predicted = true[[0, 1, 3, 2]]  # two of four find their face; the others rank it last, in a tie of three
    table = evaluate_retrieval(true, predicted, k=[1, 2, 4])
    assert table["recall"].tolist() == pytest.approx([0.5, (1 + 1 + 1 / 3 + 1 / 3) / 4, 1.0])
    assert table["chance"].tolist() == [0.25, 0.5, 1.0]
    assert table[["n", "gallery"]].values.tolist() == [[4, 4]] * 3
    assert list(table) == ["measure", "k", "n", "gallery", "recall", "low", "high", "chance"]
    assert ((table["low"] <= table["recall"]) & (table["recall"] <= table["high"])).all()


def test_evaluate_retrieval_default_k_is_below_the_gallery():
    assert evaluate_retrieval(FACES.true, FACES.predicted)["k"].tolist() == [1, 5, 10]


def test_evaluate_retrieval_repeats_with_its_seed():
    prediction = _predictions(40, 3.0)
    one, two, other = (
        evaluate_retrieval(prediction.true, prediction.predicted, k=10, n_resamples=100, seed=seed)
        for seed in (1, 1, 2)
    )
    pd.testing.assert_frame_equal(one, two)
    assert not one.equals(other)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"groups": ["a", "b"]}, "groups: found 2 ids for 12 rows"),
        ({"groups": "ab"}, "groups: found str"),
        ({"groups": 5}, "groups: found int"),
        ({"groups": [["a"]] * 12}, "groups: found list"),
        ({"groups": [None, *"abcdefghijk"]}, r"groups: 1 of 12 ids are missing \(first: row 0\)"),
        ({"groups": ["a"] * 12}, r"at least 2 groups"),
        ({"k": 0}, "k: found 0, expected whole numbers from 1 to 12"),
        ({"k": (1, 13)}, r"k: found \(1, 13\)"),
        ({"k": 2.5}, "k: found 2.5"),
        ({"k": ()}, r"k: found \(\)"),
        ({"similarity": "cos"}, "similarity: found 'cos', expected one or more of l1, l2, cosine"),
        ({"confidence": 1.5}, "confidence"),
        ({"n_resamples": 1}, "n_resamples"),
        ({"seed": -1}, "seed"),
    ],
)
def test_evaluate_retrieval_names_the_wrong_argument(arguments, message):
    with pytest.raises(InputError, match=message):
        evaluate_retrieval(FACES.true, FACES.predicted, **arguments)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_evaluate_retrieval_takes_small_floats(dtype):
    faces = torch.eye(6, dtype=dtype)
    assert evaluate_retrieval(faces, faces, k=1)["recall"].item() == 1


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_evaluate_retrieval_takes_tensors_of_a_gpu():
    true, predicted = (torch.tensor(each, device="cuda") for each in (FACES.true, FACES.predicted))
    groups = torch.arange(12, device="cuda") // 2
    table = evaluate_retrieval(true, predicted.requires_grad_(), groups=groups)
    expected = evaluate_retrieval(FACES.true, FACES.predicted, groups=np.arange(12) // 2)
    pd.testing.assert_frame_equal(table, expected)


def test_plot_recall_draws_recall_interval_and_chance():
    table = evaluate_retrieval(FACES.true, FACES.predicted, similarity=("cosine", "l1"))
    ax = plot_recall(table)
    recall, by_l1, chance = ax.get_lines()
    cosine = table[table["measure"] == "cosine"]
    np.testing.assert_array_equal(recall.get_xydata(), cosine[["k", "recall"]])
    np.testing.assert_array_equal(by_l1.get_ydata(), table.loc[table["measure"] == "l1", "recall"])
    np.testing.assert_allclose(chance.get_ydata(), [1 / 12, 5 / 12, 10 / 12])
    band = ax.collections[0].get_paths()[0].get_extents()
    assert (band.y0, band.y1) == (cosine["low"].min(), cosine["high"].max())
    assert plot_recall(cosine, ax, label="again") is ax
    names = [text.get_text() for text in ax.get_legend().get_texts()]
    assert names == ["cosine", "l1", "chance", "again, cosine"]
    with pytest.raises(InputError, match="table: no column recall, expected the table of evaluate_retrieval"):
        plot_recall(table.drop(columns="recall"))
