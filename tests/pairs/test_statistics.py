"""Intervals by person over splits that share people, and paired comparisons."""

from __future__ import annotations

import numpy as np
import pytest

from s2f_lib.config import IntervalSettings
from s2f_lib.errors import InputError
from s2f_lib.pairs.statistics import RankBootstrap, SplitRanks, compare_ranks


def test_numbers_are_means_over_splits_whatever_their_sizes():
    splits = [
        SplitRanks(np.array([0, 1]), 2, {"a": np.array([1.0, 2.0])}),
        SplitRanks(np.array([0, 2, 3, 4]), 4, {"a": np.array([1.0, 1.0, 1.0, 4.0])}),
    ]
    bootstrap = RankBootstrap(splits, IntervalSettings(n_resamples=50))
    assert bootstrap.recall("a", [1, 2, 4])[0].value == pytest.approx((0.5 + 0.75) / 2)
    assert bootstrap.recall("a", [1, 2, 4])[1].value == pytest.approx((1 + 0.75) / 2)
    assert bootstrap.median_rank("a").value == pytest.approx((1.5 + 1.0) / 2)
    assert bootstrap.reciprocal_rank("a").value == pytest.approx((0.75 + 3.25 / 4) / 2)


def test_clips_of_one_person_are_drawn_together():
    """Ten persons with ten equal clips each: the interval is that of 10 values, not of 100."""
    hits = np.array([1, 1, 1, 1, 1, 0, 0, 0, 0, 0])
    ranks = np.where(np.repeat(hits, 10), 1.0, 50.0)
    clustered = SplitRanks(np.repeat(np.arange(10), 10), 100, {"a": ranks})
    alone = SplitRanks(np.arange(100), 100, {"a": ranks})
    wide = RankBootstrap([clustered], IntervalSettings(n_resamples=4_000)).recall("a", [1])[0]
    narrow = RankBootstrap([alone], IntervalSettings(n_resamples=4_000)).recall("a", [1])[0]
    assert wide.value == narrow.value == 0.5
    assert wide.high - wide.low == pytest.approx(4 * np.sqrt(0.25 / 10), rel=0.1)
    assert narrow.high - narrow.low == pytest.approx(4 * np.sqrt(0.25 / 100), rel=0.1)


def test_several_splits_of_the_same_people_do_not_narrow_an_interval():
    rng = np.random.default_rng(0)
    ranks = rng.integers(1, 40, 60).astype(float)
    one = SplitRanks(np.arange(60), 60, {"a": ranks})
    once = RankBootstrap([one], IntervalSettings(n_resamples=500)).recall("a", [10])[0]
    often = RankBootstrap([one] * 5, IntervalSettings(n_resamples=500)).recall("a", [10])[0]
    assert (once.value, once.low, once.high) == pytest.approx((often.value, often.low, often.high))


def test_ratio_compares_systems_on_the_same_resamples():
    ranks = np.array([1.0, 1.0, 9.0, 9.0, 9.0, 9.0])
    split = SplitRanks(np.arange(6), 9, {"a": ranks, "b": ranks, "c": np.array([1.0, 9, 9, 9, 9, 9])})
    bootstrap = RankBootstrap([split], IntervalSettings(n_resamples=200))
    same = bootstrap.recall_ratio("a", "b", [1])[0]
    assert (same.value, same.low, same.high) == (1.0, 1.0, 1.0)
    assert bootstrap.recall_ratio("a", "c", [1])[0].value == 2.0


def test_too_few_pairs_have_no_interval():
    with pytest.raises(InputError, match="at least 2 videos or persons"):
        RankBootstrap([SplitRanks(np.array([0]), 1, {"a": np.array([1.0])})], IntervalSettings())


def test_comparison_has_one_value_a_person():
    n = 12
    better, worse = np.full(2 * n, 1.0), np.full(2 * n, np.e)
    split = SplitRanks(np.repeat(np.arange(n), 2), 2 * n, {"ours": better, "other": worse, "same": better})
    found = compare_ranks([split, split], "ours", "other")
    assert found["log_rank_difference"] == pytest.approx(-1)
    # all twelve signs alike: two of 2^12 assignments are as extreme
    assert found["p_log_rank"] == pytest.approx(2 / 2**12, abs=3e-4)
    assert found["p_recall@10"] == 1.0  # both find all
    assert compare_ranks([split], "ours", "same")["p_log_rank"] == 1.0
