"""How well a face fits what a voice predicts: three scores, each made comparable, and their sum.

With p the face that is predicted (less the training mean), g a gallery face (less the
training mean), all fitted on the training pairs:

cosine
    p.g / |p||g|.
gaussian
    log N(g; s p, R) - log N(g; 0, C): how much likelier the face is given the voice than without it
    (pointwise mutual information); R is the covariance of what the prediction leaves over, C that
    of faces, each shrunk to a multiple of the identity, s a scale for the ridge's shrinkage.
canonical
    The same for jointly Gaussian canonical variates of predictions and faces (regularised CCA).

Each score is normalised against the training pairs as a cohort, by the query's and by the face's
mean and deviation ("s-norm" of speaker verification).  So the score of a voice and a face
depends on no other query and no other face of the gallery.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

SCORES = ("cosine", "gaussian", "canonical")
_MOST_CORRELATED = 0.97  # a correlation of 1 would make a likelihood infinite
_TINY = 1e-12


@dataclass(frozen=True, slots=True)
class ScoreSettings:
    """Of the scores.

    Attributes
    ----------
    shrink
        Share of the identity in the shrunk covariances, in [0, 1].
    scale
        s, of the prediction.
    cca_dims
        Pairs of canonical variates.
    cca_ridge
        Added to the covariances before whitening, in units of their mean eigenvalue.
    """

    shrink: float = 0.9
    scale: float = 1.3
    cca_dims: int = 6
    cca_ridge: float = 5.0


class PairScores:
    """Scores of predicted faces against gallery faces, fitted on the training pairs.

    Parameters
    ----------
    predicted
        `(n, d)`, of each training voice, by a model that was *not* fitted on its pair
        (out of fold), less the mean.
    targets
        `(n, d)`, what was regressed on, less its mean.
    cohort
        `(n, d)`, the training faces, less their mean.
    """

    def __init__(
        self, predicted: np.ndarray, targets: np.ndarray, cohort: np.ndarray, settings: ScoreSettings
    ) -> None:
        self._settings, self._predicted, self._cohort = settings, predicted, cohort
        n = len(targets)
        of_faces = targets.T @ targets / n
        left_over = targets - settings.scale * predicted
        self._inverse_left_over = np.linalg.inv(_shrunk(left_over.T @ left_over / n, settings.shrink))
        self._inverse_of_faces = np.linalg.inv(_shrunk(of_faces, settings.shrink))
        self._fit_canonical(predicted, targets, of_faces)

    def __call__(
        self, predicted: np.ndarray, gallery: np.ndarray, *, scores: Sequence[str] = SCORES
    ) -> np.ndarray:
        """Return `(q, m)` float64 of q predictions and m faces, both centred; larger fits better."""
        total = np.zeros((len(predicted), len(gallery)))
        for name in scores:
            score = getattr(self, f"_{name}")
            by_query, by_face = score(predicted, self._cohort), score(self._predicted, gallery)
            total += cohort_normalized(score(predicted, gallery), by_query, by_face)
        return total

    def _cosine(self, predicted: np.ndarray, gallery: np.ndarray) -> np.ndarray:
        return _unit(predicted) @ _unit(gallery).T

    def _gaussian(self, predicted: np.ndarray, gallery: np.ndarray) -> np.ndarray:
        given = gallery @ self._inverse_left_over
        without = gallery @ self._inverse_of_faces
        of_face = 0.5 * ((given * gallery).sum(axis=1) - (without * gallery).sum(axis=1))
        # what depends on the query alone is left out: the normalisation takes it away
        return self._settings.scale * predicted @ given.T - of_face[None]

    def _canonical(self, predicted: np.ndarray, gallery: np.ndarray) -> np.ndarray:
        voice, face = predicted @ self._voice_axes, gallery @ self._face_axes
        correlation, rest = self._correlations, 1 - self._correlations**2
        return (voice * correlation / rest) @ face.T - 0.5 * (face**2) @ (correlation**2 / rest)

    def _fit_canonical(self, predicted: np.ndarray, targets: np.ndarray, of_faces: np.ndarray) -> None:
        n, k = len(targets), self._settings.cca_dims
        white_voice = _whitening(predicted.T @ predicted / n, self._settings.cca_ridge)
        white_face = _whitening(of_faces, self._settings.cca_ridge)
        left, values, right = np.linalg.svd((predicted @ white_voice).T @ (targets @ white_face) / n)
        self._correlations = np.clip(values[:k], 0.0, _MOST_CORRELATED)
        voice_axes, face_axes = white_voice @ left[:, :k], white_face @ right[:k].T
        self._voice_axes = voice_axes / _spread(predicted @ voice_axes, axis=0)
        self._face_axes = face_axes / _spread(targets @ face_axes, axis=0)


def _unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), _TINY)


def cohort_normalized(score: np.ndarray, by_query: np.ndarray, by_face: np.ndarray) -> np.ndarray:
    """Return a score in standard deviations above a cohort's, by the query plus by the face (s-norm).

    As in speaker verification: a voice that is like everybody's face, or a face like
    everybody's voice, gains nothing by it.

    Parameters
    ----------
    score
        `(q, m)` of queries and gallery faces.
    by_query
        `(q, c)` of the queries and the cohort's faces.
    by_face
        `(c, m)` of the cohort's queries and the gallery faces.
    """
    of_query = (score - by_query.mean(axis=1, keepdims=True)) / _spread(by_query, axis=1)
    return of_query + (score - by_face.mean(axis=0, keepdims=True)) / _spread(by_face, axis=0)


def _spread(values: np.ndarray, *, axis: int) -> np.ndarray:
    return np.maximum(values.std(axis=axis, keepdims=True), _TINY)


def _shrunk(covariance: np.ndarray, share: float) -> np.ndarray:
    d = len(covariance)
    return (1 - share) * covariance + (share * np.trace(covariance) / d + _TINY) * np.eye(d)


def _whitening(covariance: np.ndarray, ridge: float) -> np.ndarray:
    values, vectors = np.linalg.eigh(covariance)
    return vectors / np.sqrt(np.maximum(values, 0.0) + ridge * values.mean() + _TINY)
