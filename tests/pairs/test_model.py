"""Kernel, scores and model of the system `ours`: values, invariants and the negative control."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from scipy.stats import multivariate_normal

from s2f_lib.errors import InputError
from s2f_lib.evaluation.retrieval import true_ranks
from s2f_lib.evaluation.statistics import mean_reciprocal_rank, permutation_test_against_chance
from s2f_lib.pairs.model import (
    GRID,
    PairScores,
    TrainingPairs,
    VoiceKernel,
    VoiceToFace,
    VoiceToFaceSettings,
    group_folds,
    mean_recall,
    solve_ridge,
    squared_distances,
)


def world(n: int, *, seed: int = 0, dimension: int = 12) -> TrainingPairs:
    """Return pairs whose voice and face share three latents; every tenth group has two clips."""
    rng = np.random.default_rng(seed)
    mixing = np.random.default_rng(99)  # the same mixing for train and test
    latents = rng.standard_normal((n, 3))

    def seen(width: int, noise: float) -> np.ndarray:
        own = latents @ mixing.standard_normal((3, width))
        return (own + noise * rng.standard_normal((n, width))).astype(np.float32)

    voices = {"encoder2": seen(30, 0.8), "speaker": seen(20, 0.8)}
    faces = 3 + seen(dimension, 0.8)
    mirrored = faces + 0.1 * rng.standard_normal(faces.shape).astype(np.float32)
    group_ids = np.arange(n) - (np.arange(n) % 10 == 9)  # every tenth clip belongs to the group before it
    return TrainingPairs(voices, faces, mirrored, group_ids)


def test_voice_kernel_weighted_mean_of_gaussians_by_hand():
    voices = {"a": np.array([[0.0], [2.0], [4.0]]), "b": np.array([[1.0], [1.0], [4.0]])}
    kernel = VoiceKernel(voices, {"a": 1.0, "b": 3.0, "absent": 9.0}, gamma=0.5)
    # a, standardised by mean 2 and deviation sqrt(8/3): squared distances 1.5 and 6, their median is 1.5
    # b, mean 2 and deviation sqrt(2): squared distances 0 and 4.5, their median is 0, taken as tiny
    a = np.exp(-0.5 * np.array([[0, 1.5, 6], [1.5, 0, 1.5], [6, 1.5, 0]]) / 1.5)
    b = np.array([[1.0, 1, 0], [1, 1, 0], [0, 0, 1]])
    assert np.allclose(kernel(voices), (a + 3 * b) / 4, atol=1e-8)
    assert kernel.weights == {"a": 1.0, "b": 3.0}
    with pytest.raises(InputError, match="no voice embedding"):
        VoiceKernel(voices, {"absent": 1.0}, gamma=0.5)


def test_squared_distances_and_ridge_by_hand():
    assert squared_distances(np.array([[0.0, 0.0]]), np.array([[3.0, 4.0]])) == 25
    # (K + 1 I) c = t with K = [[1, 0], [0, 3]]
    assert np.allclose(solve_ridge(np.diag([1.0, 3.0]), np.array([[2.0], [2.0]]), 1.0), [[1.0], [0.5]])


def test_voice_kernel_outlier_is_clipped():
    rng = np.random.default_rng(0)
    block = rng.standard_normal((20, 4))
    kernel = VoiceKernel({"a": block}, {"a": 1.0}, gamma=0.3)
    odd = block[:1].copy()
    odd[0, 0] = 1e9
    odd[0, 1] = np.nan
    assert np.isfinite(kernel({"a": odd})).all()
    assert kernel({"a": odd}).max() > 1e-4


def _scores(shrink=0.0, **others):
    rng = np.random.default_rng(1)
    n, d = 400, 5
    targets = rng.standard_normal((n, d)) @ np.diag([2.0, 1, 1, 0.5, 0.5])
    predicted = 0.6 * targets + 0.6 * rng.standard_normal((n, d))
    targets, predicted = targets - targets.mean(axis=0), predicted - predicted.mean(axis=0)
    settings = VoiceToFaceSettings(shrink=shrink, scale=1.1, cca_dims=3, cca_ridge=0.0, **others)
    return PairScores(predicted, targets, targets, settings), predicted, targets


def test_gaussian_score_is_a_log_likelihood_ratio():
    scores, predicted, targets = _scores()
    residuals = targets - 1.1 * predicted
    given = multivariate_normal(np.zeros(5), residuals.T @ residuals / 400)
    without = multivariate_normal(np.zeros(5), targets.T @ targets / 400)
    query, gallery = predicted[:3], targets[:7]
    expected = np.array([[given.logpdf(g - 1.1 * p) - without.logpdf(g) for g in gallery] for p in query])
    found = scores._gaussian(query, gallery)
    query_part = expected - found
    assert np.allclose(query_part, query_part[:, :1])  # they differ only by a term of the query


def test_canonical_score_matches_correlated_normal_pairs():
    scores, predicted, targets = _scores()
    voice, face = predicted[:4] @ scores._voice_axes, targets[:6] @ scores._face_axes
    expected = np.zeros((4, 6))
    for k, rho in enumerate(scores._correlations):
        pair = multivariate_normal([0, 0], [[1, rho], [rho, 1]])
        for i in range(4):
            for j in range(6):
                expected[i, j] += pair.logpdf([voice[i, k], face[j, k]])
                expected[i, j] -= multivariate_normal(0, 1).logpdf(voice[i, k])
                expected[i, j] -= multivariate_normal(0, 1).logpdf(face[j, k])
    difference = expected - scores._canonical(predicted[:4], targets[:6])
    assert np.allclose(difference, difference[:, :1])
    assert (np.diff(scores._correlations) <= 1e-12).all()  # the strongest first
    # whitened variates of different rank are uncorrelated
    cross = (predicted @ scores._voice_axes).T @ (targets @ scores._face_axes) / 400
    assert np.allclose(cross, np.diag(scores._correlations), atol=1e-6)


def test_score_is_independent_of_other_queries_and_faces():
    train, test = world(80), world(20, seed=5)
    model = VoiceToFace(train, grid=[VoiceToFaceSettings()])
    whole = model.score(test.voices, test.faces)
    order = np.random.default_rng(0).permutation(20)
    shuffled = model.score({name: block[order] for name, block in test.voices.items()}, test.faces)
    assert np.allclose(shuffled, whole[order])
    assert np.allclose(model.score(test.voices, test.faces[order]), whole[:, order])
    assert np.allclose(model.score(test.voices, test.faces[3:5]), whole[:, 3:5])
    parts = sum(
        model.score(test.voices, test.faces, scores=[name]) for name in ("cosine", "gaussian", "canonical")
    )
    assert np.allclose(parts, whole)


def test_model_finds_a_link_and_control_finds_none():
    train, test = world(150), world(60, seed=5)
    model = VoiceToFace(train)
    similarity = model.score(test.voices, test.faces)
    assert np.median(true_ranks(similarity)) <= 6
    assert permutation_test_against_chance(similarity, mean_reciprocal_rank)[1] == 0.001
    control = VoiceToFace(train.with_faces_of(np.random.default_rng(3).permutation(150)))
    nothing = control.score(test.voices, test.faces)
    assert permutation_test_against_chance(nothing, mean_reciprocal_rank)[1] > 0.01
    assert 15 < np.median(true_ranks(nothing)) < 46


def test_model_settings_come_from_cross_validation():
    train = world(100)
    model = VoiceToFace(train)
    assert set(model.objective) == set(GRID)
    assert model.objective[model.settings] == max(model.objective.values())
    again = VoiceToFace(train)
    assert again.settings == model.settings
    assert np.array_equal(
        again.score(train.voices, train.faces[:5]), model.score(train.voices, train.faces[:5])
    )
    fixed = VoiceToFace(train, grid=[dataclasses.replace(GRID[0], ridge=7.0)])
    assert (fixed.objective, fixed.settings.ridge) == ({}, 7.0)


def test_group_folds_divide_no_group_and_few_groups_refused():
    pairs = world(40)
    for train, test in group_folds(pairs.group_ids, 5):
        assert not set(pairs.group_ids[train]) & set(pairs.group_ids[test])
    few = world(7)
    with pytest.raises(InputError, match="7 training pairs of 7 videos or people"):
        VoiceToFace(few)


def test_mean_recall_by_hand():
    # galleries of 100: K = 4.4, 8.8, 17.5, 30, 44; of the ranks 1, 10, 20, 100, these hit 1, 1, 2, 3, 3 times
    assert mean_recall(np.array([1, 10, 20, 100]), 100) == pytest.approx(
        (0.25 + 0.25 + 0.5 + 0.75 + 0.75) / 5
    )
