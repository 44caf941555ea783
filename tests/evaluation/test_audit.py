"""The three computations on the report's own numbers (shared design, section 4)."""

from __future__ import annotations

import math

import pytest

from s2f_lib.errors import InputError
from s2f_lib.evaluation.audit import (
    audit_recall,
    largest_mean_l2,
    query_counts_that_fit,
    recalls_that_do_not_fit,
)

KS = (1, 5, 10, 20, 50)
TEST_L1 = (0.51, 1.77, 3.03, 6.83, 14.18)
TEST_ALL = (*TEST_L1, 0.76, 2.03, 3.15, 6.33, 14.68, 0.25, 1.01, 2.53, 4.56, 14.94)
TRAIN_ALL = (
    11.96,
    29.26,
    41.73,
    55.47,
    72.26,
    11.70,
    29.52,
    41.48,
    55.72,
    73.03,
    11.20,
    27.23,
    39.44,
    54.45,
    73.03,
)


def test_audit_recall_test_set_is_within_chance():
    verdicts = audit_recall(TEST_L1, KS, gallery_size=400, n_queries=395)
    assert [verdict.chance.value for verdict in verdicts] == pytest.approx([0.25, 1.25, 2.5, 5, 12.5])
    assert all(verdict.within_chance for verdict in verdicts)


def test_audit_recall_training_set_is_above_chance():
    verdicts = audit_recall(TRAIN_ALL[:5], KS, gallery_size=393, n_queries=393)
    assert not any(verdict.within_chance for verdict in verdicts)


def test_query_counts_that_fit_finds_393_and_395():
    assert query_counts_that_fit(TRAIN_ALL, smallest=300, largest=420) == [393]
    # 14 of the 15 test recalls are counts over 395; 3.15 is a count over no n near 400
    assert query_counts_that_fit(TEST_ALL, smallest=300, largest=420) == []
    assert query_counts_that_fit(TEST_ALL, smallest=300, largest=420, misprints=1) == [395]
    assert recalls_that_do_not_fit(TEST_ALL, 395) == [3.15]


def test_query_counts_that_fit_by_hand():
    # a third and two thirds: only multiples of 1/3
    assert query_counts_that_fit([33.33, 66.67], smallest=2, largest=10) == [3, 6, 9]
    with pytest.raises(InputError, match="smallest"):
        query_counts_that_fit([1.0], smallest=5, largest=4)


def test_largest_mean_l2_by_hand():
    assert largest_mean_l2(1.0) == 0.0
    assert largest_mean_l2(-1.0) == 2.0
    assert largest_mean_l2(0.5) == pytest.approx(1.0)
    for l2, cosine, possible in [
        (0.77, 0.68, True),
        (1.42, 0.62, False),
        (1.32, 0.63, False),
        (2.35, 0.49, False),
    ]:
        assert (l2 <= largest_mean_l2(cosine)) is possible
    assert not math.isnan(largest_mean_l2(0.83))
    with pytest.raises(InputError, match=r"in \[-1, 1\]"):
        largest_mean_l2(1.1)
