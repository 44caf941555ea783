"""Matching and verification against brute force, and strata."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from s2f_lib.config import IntervalSettings
from s2f_lib.errors import InputError
from s2f_lib.evaluation.matching import (
    matching_accuracy,
    ranks_within,
    verification_interval,
)

SETTINGS = IntervalSettings(n_resamples=300)


def _auc(similarity: np.ndarray, strata=None) -> float:
    """Return the area under the ROC curve by comparing every true score with every other score."""
    strata = np.zeros(len(similarity)) if strata is None else np.asarray(strata)
    other = (strata[:, None] == strata) & ~np.eye(len(similarity), dtype=bool)
    own, others = np.diag(similarity)[other.any(axis=1)], similarity[other]
    return float(((own[:, None] > others) + 0.5 * (own[:, None] == others)).mean())


def _similarity(n: int, signal: float) -> np.ndarray:
    return np.random.default_rng(n).normal(size=(n, n)) + signal * np.eye(n)


@pytest.mark.parametrize("n_candidates", [2, 3, 5])
def test_matching_accuracy_equals_all_draws(n_candidates):
    similarity = _similarity(8, 1.0)
    wins = matching_accuracy(similarity, n_candidates)
    for i in range(8):
        others = [j for j in range(8) if j != i]
        draws = [
            all(similarity[i, i] > similarity[i, j] for j in chosen)
            for chosen in combinations(others, n_candidates - 1)
        ]
        assert wins[i] == pytest.approx(np.mean(draws))


def test_matching_accuracy_noise_is_chance_truth_wins():
    assert np.nanmean(matching_accuracy(_similarity(300, 0.0), 5)) == pytest.approx(0.2, abs=0.05)
    assert np.nanmean(matching_accuracy(_similarity(50, 100.0), 10)) == 1.0


def test_strata_remove_the_attribute():
    labels = np.array(["f", "m"] * 100)
    rng = np.random.default_rng(0)
    same = labels[:, None] == labels[None, :]
    similarity = 3.0 * same + rng.normal(size=(200, 200))  # the voice contains only the gender
    assert np.mean(matching_accuracy(similarity, 2)) > 0.7
    assert np.mean(matching_accuracy(similarity, 2, strata=labels)) == pytest.approx(0.5, abs=0.07)
    assert verification_interval(similarity, settings=SETTINGS).value > 0.7
    area = verification_interval(similarity, strata=labels, settings=SETTINGS)
    assert area.value == pytest.approx(0.5, abs=0.07)
    ranks, sizes = ranks_within(similarity, labels)
    assert set(sizes) == {100}
    assert ranks.mean() == pytest.approx(50.5, abs=7)


def test_small_strata_give_nan_or_raise():
    labels = ["a", "a", "b"]
    wins = matching_accuracy(np.eye(3), 2, strata=labels)
    assert np.isnan(wins[2])
    assert wins[0] == 1.0
    with pytest.raises(InputError, match="two people in a stratum"):
        verification_interval(np.eye(2), strata=["a", "b"])
    with pytest.raises(InputError, match="2 strata for 3 queries"):
        ranks_within(np.eye(3), ["a", "b"])


def test_verification_interval_by_hand():
    # own 0.9 beats 0.1 and 0.5; own 0.3 beats only 0.1: 3 of 4
    assert verification_interval(np.array([[0.9, 0.1], [0.5, 0.3]])).value == pytest.approx(0.75)


def test_verification_interval_resamples_people():
    rng = np.random.default_rng(0)
    similarity = rng.normal(size=(40, 40)).round(1) + np.eye(40)  # with ties
    strata = rng.integers(0, 3, size=40).tolist()
    for labels in (None, strata):
        area = verification_interval(similarity, strata=labels, settings=SETTINGS)
        assert area.value == pytest.approx(_auc(similarity, labels))
        assert area.low < area.value < area.high
    by_voice = verification_interval(np.repeat(similarity, 3, axis=0).repeat(3, axis=1), settings=SETTINGS)
    person_ids = np.repeat(np.arange(40), 3)
    by_person = verification_interval(
        np.repeat(similarity, 3, axis=0).repeat(3, axis=1), group_ids=person_ids, settings=SETTINGS
    )
    assert by_person.high - by_person.low > 1.4 * (by_voice.high - by_voice.low)
    with pytest.raises(InputError, match="at least two people"):
        verification_interval(np.eye(3), strata=["a", "b", "c"])
