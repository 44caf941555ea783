"""Tests of the measures that several chapters share."""

from __future__ import annotations

import numpy as np
import pytest

from s2f_lib.chapters import measures
from s2f_lib.config import EvaluationConfig, load_config
from s2f_lib.evaluation.tables import Predictions, rank_table
from s2f_lib.sources.synthetic.people import draw_population
from tests.chapters.predictions import predictions_of

CONFIG = EvaluationConfig(n_bootstrap=50, recall_at=(1, 5))


def test_mean_face_is_one_prediction_and_at_chance():
    train, test = predictions_of(30, noise=0.1), predictions_of(10, noise=0.1, seed=1)
    guess = measures.mean_face(train.true, test)
    assert np.ptp(guess.predicted, axis=0).max() == 0
    ranks = rank_table({"test": guess})
    # one order of the faces for all queries: each rank occurs once
    assert sorted(ranks[ranks["measure"] == "cosine"]["rank"]) == list(range(1, 11))


def test_best_possible_beats_chance_or_is_unknown():
    settings = {"source.synthetic.n_train": 1, "source.synthetic.n_test": 40, "evaluation.recall_at": [1, 5]}
    config = load_config("quick", settings)
    ids = [person.clip_id for person in draw_population(config.source.synthetic) if person.split == "test"]

    def best_possible(config):
        return measures.best_possible(ids, source=config.source, evaluation=config.evaluation)

    table = best_possible(config).set_index("ranked by")
    best = table.loc["the true likelihood", "R@1, %"].split()
    assert float(best[0]) > 10 * float(table.loc["chance", "R@1, %"])
    assert len(best) == 3  # with its interval
    nothing = load_config("quick", settings | {"source.synthetic.rho": 0.0})
    table = best_possible(nothing).set_index("ranked by")
    assert table.loc["the true likelihood", "R@5, %"] == "12.5 [12.5, 12.5]"  # all tied: a guess, 5 of 40
    real = load_config("quick", {"source.kind": "avspeech"})
    assert set(best_possible(real).iloc[0]) == {"the true likelihood", "unknown"}


def test_found_faces_are_chosen_by_rank_and_marked():
    similarity = np.array([[3.0, 2, 1], [3, 1, 2], [1, 2, 3]])
    found = measures.found_faces(similarity, n_rows=3, top_k=2)
    assert found.indices.tolist() == [[0, 0, 1], [2, 2, 1], [1, 0, 2]]
    assert found.is_true.tolist() == [[False, True, False], [False, True, False], [False, False, False]]
    assert found.notes == ["rank 1 of 3", "rank 1 of 3", "rank 3 of 3"]
    assert found.headings == ["true face", "1", "2"]


def test_mean_image_does_not_wrap_around():
    black, white = np.zeros((2, 4, 4, 3), np.uint8), np.full((2, 4, 4, 3), 255, np.uint8)
    assert measures.mean_image(np.concatenate([black, white])).max() == 128


def test_tests_against_chance_separate_signal_from_noise():
    predictions = {"signal": predictions_of(40, noise=0.5), "noise": predictions_of(40, noise=1e6)}
    table = measures.tests_against_chance(predictions, CONFIG, measure="cosine").set_index("set")
    assert table.loc["signal", "p-value"] == pytest.approx(0.001)
    assert table.loc["noise", "p-value"] > 0.01
    assert table["chance"].nunique() == 1
    assert table.loc["noise", "median by guessing"] == "20.5"
    assert table.loc["signal", "median rank"].count(".") == 3  # with its interval


def test_tests_against_chance_use_each_person_once(monkeypatch):
    prediction = predictions_of(20, noise=3.0)
    twice = prediction.subset(np.repeat(np.arange(20), 2))
    grouped = Predictions(tuple(map(str, range(40))), twice.true, twice.predicted, twice.clip_ids)
    one, two = (
        measures.tests_against_chance({"a": p}, CONFIG, measure="cosine").iloc[0]
        for p in (prediction, grouped)
    )
    assert two["p-value"] == one["p-value"]
    monkeypatch.setattr(measures, "MOST_TESTED", 5)
    few = measures.tests_against_chance({"a": prediction}, CONFIG, measure="cosine").iloc[0]
    assert few["queries and faces"] == 5
