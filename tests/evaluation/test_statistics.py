"""Intervals and tests against known answers."""

from __future__ import annotations

import numpy as np
import pytest

from s2f_lib.config import IntervalSettings
from s2f_lib.errors import InputError
from s2f_lib.evaluation import statistics
from s2f_lib.evaluation.statistics import (
    GroupBootstrap,
    bootstrap_interval,
    chance_interval,
    chance_reciprocal_rank,
    hit_interval,
    mean_reciprocal_rank,
    normalized_recall,
    paired_test,
    permutation_test_against_chance,
    recall_test,
    reciprocal_rank_test,
    weighted_median,
)


def _recall_at_10(ranks):
    return float(np.mean(ranks <= 10))


def test_permutation_test_signal_and_noise():
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


def test_hit_interval_without_hits_has_a_width():
    none = hit_interval(np.zeros(120, bool))
    assert (none.value, none.low) == (0, 0)
    assert none.high == pytest.approx(1 - 0.025 ** (1 / 120))  # 2.5% of trials
    everybody = hit_interval(np.ones(120))
    assert (everybody.low, everybody.high) == (pytest.approx(1 - none.high), 1)
    by_person = hit_interval(np.ones(120), group_ids=np.arange(120) // 3)
    assert by_person.low == pytest.approx(0.025 ** (1 / 40))  # 40 people with three clips each
    rng = np.random.default_rng(0)
    some = rng.random(120) < 0.3
    assert hit_interval(some) == bootstrap_interval(some)
    assert f"{everybody.times(100):.1f}" == "100.0 [97.0, 100.0]"


def test_tests_of_constant_similarity_are_at_chance():
    observed, p = recall_test(np.zeros((30, 30)), 10, n_permutations=99)
    assert observed == pytest.approx(10 / 30)
    assert p == 1.0
    observed, p = reciprocal_rank_test(np.zeros((30, 30)), n_permutations=99)
    assert observed == pytest.approx(chance_reciprocal_rank(30))
    assert p == 1.0


@pytest.mark.parametrize("rows_at_once", [7, 512])
def test_recall_test_equals_permutation_test(monkeypatch, rows_at_once):
    monkeypatch.setattr(statistics, "_TEST_ROWS", rows_at_once)
    similarity = np.random.default_rng(3).normal(size=(40, 40)) + 0.4 * np.eye(40)
    general = permutation_test_against_chance(similarity, _recall_at_10, n_permutations=99, seed=4)
    assert recall_test(similarity, 10, n_permutations=99, seed=4) == pytest.approx(general)
    general = permutation_test_against_chance(similarity, mean_reciprocal_rank, n_permutations=99, seed=4)
    assert reciprocal_rank_test(similarity, n_permutations=99, seed=4) == pytest.approx(general)


def test_bootstrap_interval_same_in_any_batch(monkeypatch):
    values = np.random.default_rng(0).random(50)
    whole = bootstrap_interval(values, settings=IntervalSettings(n_resamples=100))
    monkeypatch.setattr(statistics, "_BATCH_VALUES", 7 * 50)
    assert bootstrap_interval(values, settings=IntervalSettings(n_resamples=100)) == whole


def test_bootstrap_interval_resamples_people():
    values = np.random.default_rng(0).random(60)
    one_each = bootstrap_interval(values)
    assert bootstrap_interval(values, group_ids=[f"video{i}" for i in range(60)]) == one_each
    four_each, person_ids = np.repeat(values, 4), np.repeat(np.arange(60), 4)
    as_if_independent = bootstrap_interval(four_each)
    by_person = bootstrap_interval(four_each, group_ids=person_ids)
    widths = [i.high - i.low for i in (one_each, as_if_independent, by_person)]
    assert widths[1] < 0.6 * widths[0]
    assert widths[2] == pytest.approx(widths[0], rel=0.1)
    assert by_person.value == pytest.approx(one_each.value)


@pytest.mark.parametrize("statistic", [np.mean, np.median])
def test_bootstrap_interval_agrees_with_group_bootstrap(statistic):
    rng = np.random.default_rng(1)
    ranks, group_ids = rng.integers(1, 60, size=80).astype(float), rng.integers(0, 30, size=80)
    settings = IntervalSettings(n_resamples=4_000)
    bootstrap = GroupBootstrap([group_ids], settings)
    values = (ranks <= 10).astype(float) if statistic is np.mean else ranks
    other = bootstrap.means([values[:, None]])[0] if statistic is np.mean else bootstrap.median([values])
    own = bootstrap_interval(values, statistic, group_ids=group_ids, settings=settings)
    assert own.value == pytest.approx(other.value)
    tolerance = 0.02 if statistic is np.mean else 1.5
    assert own.low == pytest.approx(other.low, abs=tolerance)
    assert own.high == pytest.approx(other.high, abs=tolerance)


def test_bootstrap_interval_refuses_bad_groups():
    with pytest.raises(InputError, match="2 groups for 3 values"):
        bootstrap_interval(np.arange(3.0), group_ids=["a", "b"])
    with pytest.raises(InputError, match="at least 2 groups"):
        bootstrap_interval(np.arange(3.0), group_ids=["a", "a", "a"])


def test_paired_test_by_hand_and_on_noise():
    # three differences with the same sign: 2 of 8 sign patterns are as extreme
    assert paired_test(np.array([1.0, 1.0, 1.0]), np.zeros(3)) == pytest.approx(0.25)
    assert paired_test(np.ones(5), np.ones(5)) == 1.0
    rng = np.random.default_rng(0)
    base = rng.normal(size=200)
    assert paired_test(base + 0.5 + 0.1 * rng.normal(size=200), base) < 0.001
    assert paired_test(base + 0.1 * rng.normal(size=200), base) > 0.01
    with pytest.raises(InputError, match=r"\(3,\) and \(2,\)"):
        paired_test(np.ones(3), np.ones(2))


def test_mean_reciprocal_rank_by_hand():
    assert mean_reciprocal_rank(np.array([1, 2, 4])) == pytest.approx((1 + 0.5 + 0.25) / 3)
    assert chance_reciprocal_rank(3) == pytest.approx((1 + 1 / 2 + 1 / 3) / 3)


def test_normalized_recall_by_hand():
    assert normalized_recall(0.1, 0.1) == 0.0
    assert normalized_recall(1.0, 0.1) == pytest.approx(1.0)
    assert normalized_recall(0.55, 0.1) == pytest.approx(0.5)
    with pytest.raises(InputError, match="chance is 1"):
        normalized_recall(1.0, 1.0)


def test_chance_interval_contains_most_guesses():
    interval = chance_interval(10, 100, 400)
    assert interval.value == 0.1
    guesses = np.random.default_rng(0).binomial(400, 0.1, size=2000) / 400
    assert 0.93 <= np.mean((guesses >= interval.low) & (guesses <= interval.high)) <= 0.985


def test_weighted_median_equals_median_of_repeats():
    rng = np.random.default_rng(1)
    values = rng.integers(1, 30, 25).astype(float)
    weights = rng.multinomial(25, np.full(25, 1 / 25), size=40)
    expected = [np.median(np.repeat(values, row)) for row in weights]
    assert np.array_equal(weighted_median(values, weights), expected)
    assert np.isnan(weighted_median(values, np.zeros((1, 25), int))[0])
