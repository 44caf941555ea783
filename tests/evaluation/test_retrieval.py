"""Ranks, recall and chance."""

from __future__ import annotations

import numpy as np
import pytest

from s2f_lib.errors import InputError
from s2f_lib.evaluation.retrieval import (
    chance_recall,
    expected_hits,
    nearest,
    ranks_with_ties,
    recall_at,
    reciprocal_rank,
    similarity_matrix,
    true_ranks,
)
from s2f_lib.evaluation.statistics import chance_reciprocal_rank


def test_ranks_by_hand():
    similarity = np.array([[0.9, 0.1, 0.5], [0.9, 0.1, 0.5], [0.2, 0.3, 0.4]])
    np.testing.assert_array_equal(true_ranks(similarity), [1, 3, 1])
    np.testing.assert_array_equal(true_ranks(similarity, np.array([2, 2, 0])), [2, 2, 3])


@pytest.mark.parametrize("k", [1, 10, 50, 51, 100])
def test_saying_always_the_same_is_at_chance(k):
    ranked = ranks_with_ties(np.zeros((100, 100)))
    np.testing.assert_array_equal(ranked.ranks, 50.5)
    np.testing.assert_array_equal(ranked.ties, 99)
    assert recall_at(ranked.ranks, k, ranked.ties) == pytest.approx(chance_recall(k, 100))
    expected = chance_reciprocal_rank(100)
    np.testing.assert_allclose(reciprocal_rank(ranked.ranks, ranked.ties), expected)


def test_reciprocal_ranks_share_the_places_of_ties():
    # first; second and third alike; alone at the fourth place
    values = reciprocal_rank(np.array([1.0, 2.5, 4.0]), np.array([0, 1, 0]))
    np.testing.assert_allclose(values, [1.0, (1 / 2 + 1 / 3) / 2, 1 / 4])


@pytest.mark.parametrize("measure", ["cosine", "l1", "l2"])
def test_the_truth_finds_itself_first_by_every_measure(measure):
    faces = np.random.default_rng(0).normal(size=(40, 16))
    assert recall_at(true_ranks(similarity_matrix(3 * faces, faces, measure)), 1) == 1.0


def test_measures_by_hand():
    queries, gallery = np.array([[3.0, 4.0]]), np.array([[1.0, 0.0], [0.0, 2.0]])
    np.testing.assert_allclose(similarity_matrix(queries, gallery, "cosine"), [[0.6, 0.8]])
    np.testing.assert_allclose(similarity_matrix(queries, gallery, "l1"), [[-1.2, -0.8]])
    np.testing.assert_allclose(similarity_matrix(queries, gallery, "l2"), [[-np.sqrt(0.8), -np.sqrt(0.4)]])


def test_random_predictions_are_at_chance():
    rng = np.random.default_rng(1)
    ranks = true_ranks(similarity_matrix(rng.normal(size=(2000, 8)), rng.normal(size=(2000, 8)), "cosine"))
    for k in (20, 200, 1000):
        expected = chance_recall(k, 2000)
        spread = np.sqrt(expected * (1 - expected) / 2000)
        assert abs(recall_at(ranks, k) - expected) < 4 * spread


def test_nearest_are_best_first():
    np.testing.assert_array_equal(nearest(np.array([[0.1, 0.9, 0.5]]), 2), [[1, 2]])


def test_chance_is_k_over_the_gallery():
    assert chance_recall(10, 400) == 0.025
    assert chance_recall(50, 20) == 1.0


def test_what_does_not_fit_is_refused():
    with pytest.raises(InputError, match="2 queries and 3 gallery faces"):
        true_ranks(np.zeros((2, 3)))
    with pytest.raises(InputError, match="unknown similarity 'dot'"):
        similarity_matrix(np.ones((1, 2)), np.ones((1, 2)), "dot")


def test_expected_hits_share_the_places_of_ties():
    similarity = np.array([[3.0, 2, 1, 0], [9, 5, 5, 5], [0, 0, 0, 0], [1, 2, 3, 0]])
    # first; second to fourth of which k=2 holds one; all four alike; last
    np.testing.assert_allclose(expected_hits(similarity, 2), [1, 1 / 3, 1 / 2, 0])
    np.testing.assert_allclose(expected_hits(np.zeros((8, 8)), 2), np.full(8, 2 / 8))
