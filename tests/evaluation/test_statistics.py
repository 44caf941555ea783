"""Tests against chance and between systems: right where the answer is known."""

from __future__ import annotations

import numpy as np
import pytest

from s2f_lib.errors import InputError
from s2f_lib.evaluation.retrieval import recall_at
from s2f_lib.evaluation.statistics import (
    chance_interval,
    chance_reciprocal_rank,
    mean_reciprocal_rank,
    normalized_recall,
    paired_test,
    permutation_test_against_chance,
    spread_over_seeds,
)


def _recall_at_10(ranks):
    return recall_at(ranks, 10)


def test_permutation_finds_a_signal_and_is_calm_without_one():
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(80, 80))
    observed, p = permutation_test_against_chance(noise + 2 * np.eye(80), _recall_at_10, n_permutations=199)
    assert observed > 0.3
    assert p == 1 / 200
    p_values = [
        permutation_test_against_chance(rng.normal(size=(40, 40)), _recall_at_10, n_permutations=99, seed=s)[
            1
        ]
        for s in range(60)
    ]
    assert np.mean(np.array(p_values) <= 0.05) <= 0.15  # about 5% of pure noise
    assert np.mean(p_values) > 0.35


def test_permutation_counts_ties_at_their_mean_place():
    observed, p = permutation_test_against_chance(np.zeros((30, 30)), _recall_at_10, n_permutations=99)
    assert observed == 0.0  # everyone is at place 15.5
    assert p == 1.0


def test_paired_test_by_hand_and_by_noise():
    # three differences of one sign: 2 of 8 sign patterns are as extreme
    assert paired_test(np.array([1.0, 1.0, 1.0]), np.zeros(3)) == pytest.approx(0.25)
    assert paired_test(np.ones(5), np.ones(5)) == 1.0
    rng = np.random.default_rng(0)
    base = rng.normal(size=200)
    assert paired_test(base + 0.5 + 0.1 * rng.normal(size=200), base) < 0.001
    assert paired_test(base + 0.1 * rng.normal(size=200), base) > 0.01
    with pytest.raises(InputError, match=r"\(3,\) and \(2,\)"):
        paired_test(np.ones(3), np.ones(2))


def test_reciprocal_rank_by_hand():
    assert mean_reciprocal_rank(np.array([1, 2, 4])) == pytest.approx((1 + 0.5 + 0.25) / 3)
    assert chance_reciprocal_rank(3) == pytest.approx((1 + 1 / 2 + 1 / 3) / 3)


def test_normalized_recall_is_zero_at_chance_and_one_at_best():
    assert normalized_recall(0.1, 0.1) == 0.0
    assert normalized_recall(1.0, 0.1) == pytest.approx(1.0)
    assert normalized_recall(0.55, 0.1) == pytest.approx(0.5)
    with pytest.raises(InputError, match="chance is 1"):
        normalized_recall(1.0, 1.0)


def test_chance_interval_holds_most_runs_of_guesses():
    interval = chance_interval(10, 100, 400)
    assert interval.value == 0.1
    guesses = np.random.default_rng(0).binomial(400, 0.1, size=2000) / 400
    assert 0.93 <= np.mean((guesses >= interval.low) & (guesses <= interval.high)) <= 0.985


def test_spread():
    spread = spread_over_seeds(np.array([1.0, 2.0, 3.0]))
    assert (spread.mean, spread.deviation, spread.n) == (2.0, 1.0, 3)
    assert np.isnan(spread_over_seeds(np.array([1.0])).deviation)
