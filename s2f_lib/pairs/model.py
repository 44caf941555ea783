"""The system "ours": from a voice to how well each face fits it.

Kernel ridge regression predicts the features of a face from voice embeddings. Three scores say how well a
gallery face fits the prediction, and their sum ranks the faces. The regression target is the mean of the
features of a face and of its mirror image, which differ only by the pose. Settings are chosen by
cross-validation on the training pairs, in folds that divide no group (video or person); everything is fitted
again in each fold.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from s2f_lib.errors import InputError
from s2f_lib.evaluation.retrieval import true_ranks
from s2f_lib.faces.extractor import unit_rows

#: Weight of each block of voice embeddings: some of Whisper's layers, and the speaker embedding.
BLOCK_WEIGHTS: Mapping[str, float] = {
    **dict.fromkeys(("encoder2", "encoder3", "encoder4", "encoder5"), 1.0),
    **dict.fromkeys(("decoder3", "decoder4", "decoder5", "language4"), 0.5),
    "speaker": 2.0,
    "acoustic": 1.0,  # exists only where no pretrained network is installed
}
#: Recall is averaged at these shares of the gallery: 5, 10, 20, 34 and 50 of 114 faces.
GALLERY_SHARES = (0.044, 0.088, 0.175, 0.3, 0.44)
SCORES = ("cosine", "gaussian", "canonical")
MIN_GROUPS = 8  # cross-validation has folds inside folds

_GAMMA = 0.3
_FOLDS = 5
_INNER_FOLDS = 6
_CLIP_AT = 5.0  # standard deviations: an outlier must not dominate a block
_MAX_CORRELATION = 0.97  # a correlation of 1 makes a likelihood infinite
_TINY_DEVIATION = 1e-9
_TINY = 1e-12


@dataclass(frozen=True, slots=True)
class VoiceToFaceSettings:
    """Settings of the model that cross-validation chooses from.

    Attributes
    ----------
    ridge
        Value added to the diagonal of the kernel matrix.
    shrink
        Weight of the identity matrix in the shrunk covariances, in [0, 1].
    scale
        Factor s of the prediction in the Gaussian score; it undoes the shrinkage of ridge regression.
    cca_dims
        Number of pairs of canonical variates.
    cca_ridge
        Value added to the covariances before whitening, in units of their mean eigenvalue.
    """

    ridge: float = 1.0
    shrink: float = 0.9
    scale: float = 1.3
    cca_dims: int = 6
    cca_ridge: float = 5.0


#: The settings that cross-validation tries.
GRID: tuple[VoiceToFaceSettings, ...] = tuple(
    VoiceToFaceSettings(ridge, shrink=shrink, cca_dims=dims)
    for ridge, shrink, dims in itertools.product((0.5, 1.0, 2.0), (0.8, 0.9), (4, 6))
)


@dataclass(frozen=True)
class TrainingPairs:
    """Voices and faces that the model is fitted on.

    Attributes
    ----------
    voices
        Block name to embeddings, `(n, d)`.
    faces
        Features of the faces, `(n, 128)`.
    mirrored
        Features of the mirror images, `(n, 128)`.
    group_ids
        Video or person of each pair, `(n,)` int. No fold divides a group.

    Examples
    --------
    >>> faces = np.eye(3)
    >>> pairs = TrainingPairs({"speaker": faces}, faces, faces, np.arange(3))
    >>> pairs.with_faces_of(np.array([1, 2, 0])).faces[0]
    array([0., 1., 0.])
    """

    voices: Mapping[str, np.ndarray]
    faces: np.ndarray
    mirrored: np.ndarray
    group_ids: np.ndarray

    def __len__(self) -> int:
        return len(self.faces)

    @property
    def targets(self) -> np.ndarray:
        """Mean of the features of each face and of its mirror image, `(n, 128)` float64."""
        return (np.asarray(self.faces, np.float64) + np.asarray(self.mirrored, np.float64)) / 2

    def with_faces_of(self, order: np.ndarray) -> TrainingPairs:
        """Return the same voices with the faces of other clips, as a control."""
        return TrainingPairs(self.voices, self.faces[order], self.mirrored[order], self.group_ids)


class VoiceToFace:
    """The fitted model.

    Parameters
    ----------
    pairs
        Training pairs.
    grid
        Settings to choose from; cross-validation runs if there are several.
    weights
        Block name to weight. Blocks that the pairs lack are left out.

    Attributes
    ----------
    settings
        Chosen settings.
    objective
        Settings to mean recall in cross-validation; empty if there was no choice.
    blocks
        Names of the blocks in use.

    Raises
    ------
    InputError
        There are fewer than eight groups, or none of the blocks.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> faces = rng.standard_normal((40, 6))
    >>> voices = {"speaker": faces @ rng.standard_normal((6, 10))}
    >>> model = VoiceToFace(TrainingPairs(voices, faces, faces, np.arange(40)), grid=[VoiceToFaceSettings()])
    >>> scores = model.score({"speaker": voices["speaker"][:3]}, faces[:3])
    >>> scores.argmax(axis=1)
    array([0, 1, 2])
    """

    def __init__(
        self,
        pairs: TrainingPairs,
        *,
        grid: Sequence[VoiceToFaceSettings] = GRID,
        weights: Mapping[str, float] = BLOCK_WEIGHTS,
    ) -> None:
        n_groups = len(np.unique(pairs.group_ids))
        if n_groups < MIN_GROUPS:
            raise InputError(
                f"{len(pairs)} training pairs of {n_groups} videos or people: "
                f"expected at least {MIN_GROUPS} of them"
            )
        self._kernel = VoiceKernel(pairs.voices, weights, gamma=_GAMMA)
        kernel = self._kernel(pairs.voices)
        self.objective = _cross_validate(kernel, pairs, grid) if len(grid) > 1 else {}
        self.settings = max(self.objective, key=self.objective.__getitem__) if self.objective else grid[0]
        self.blocks = tuple(self._kernel.weights)
        targets = pairs.targets
        self._mean_face = np.asarray(pairs.faces, np.float64).mean(axis=0)
        centred = targets - targets.mean(axis=0)
        self._coefficients = solve_ridge(kernel, centred, self.settings.ridge)
        out_of_fold = _predict_out_of_fold(kernel, centred, self.settings.ridge, pairs.group_ids)
        self._scores = PairScores(out_of_fold, centred, pairs.faces - self._mean_face, self.settings)

    def score(
        self, voices: Mapping[str, np.ndarray], gallery: np.ndarray, *, scores: Sequence[str] = SCORES
    ) -> np.ndarray:
        """Return how well each face fits each voice.

        Parameters
        ----------
        voices
            Block name to embeddings, `(q, d)`.
        gallery
            Features of faces, `(m, 128)`.
        scores
            Names of the scores that are summed.

        Returns
        -------
        numpy.ndarray
            Scores, `(q, m)` float64; higher fits better.
        """
        predicted = self._kernel(voices) @ self._coefficients
        return self._scores(predicted, np.asarray(gallery, np.float64) - self._mean_face, scores=scores)


class VoiceKernel:
    """Similarity of voices: a weighted mean of Gaussian kernels exp(-gamma d^2 / median d^2), one per block.

    Each block of embeddings, `(n, d)`, is standardized with the training voices, and the width of its kernel
    is their median distance, so that neither the length nor the unit of a block decides its influence. Blocks
    that the voices lack are left out; if none exists, an InputError is raised.
    """

    def __init__(
        self, voices: Mapping[str, np.ndarray], weights: Mapping[str, float], *, gamma: float
    ) -> None:
        self.weights = {name: weight for name, weight in weights.items() if name in voices}
        if not self.weights:
            raise InputError(f"no voice embedding to compare: expected one of {', '.join(weights)}")
        self.gamma = gamma
        self._fitted: dict[str, tuple[np.ndarray, np.ndarray, np.ndarray, float]] = {}
        for name in self.weights:
            block = np.asarray(voices[name], dtype=np.float64)
            mean, deviation = block.mean(axis=0), block.std(axis=0) + _TINY_DEVIATION
            train = standardize(block, mean, deviation)
            median = float(np.median(squared_distances(train, train)))
            self._fitted[name] = (mean, deviation, train, max(median, _TINY_DEVIATION))

    def __call__(self, voices: Mapping[str, np.ndarray]) -> np.ndarray:
        """Return the similarity of m voices to the n training voices, `(m, n)` float64 in (0, 1]."""
        total = np.zeros(())
        for name, weight in self.weights.items():
            mean, deviation, train, median = self._fitted[name]
            block = standardize(np.asarray(voices[name], dtype=np.float64), mean, deviation)
            total = total + weight * np.exp(-self.gamma * squared_distances(block, train) / median)
        return total / sum(self.weights.values())


class PairScores:
    """Scores of predicted faces against gallery faces, fitted on the training pairs.

    With p the predicted face and g a gallery face, both minus the training mean:

    cosine
        p.g / |p||g|.
    gaussian
        log N(g; s p, R) - log N(g; 0, C), the log likelihood ratio of the face with and without the voice
        (pointwise mutual information). R is the covariance of the residuals of the prediction and C that of
        the faces, each shrunk towards a multiple of the identity; s is the scale.
    canonical
        The same for jointly Gaussian canonical variates of predictions and faces (regularized CCA).

    Each score is normalized with the training pairs as the cohort ("s-norm" of speaker verification), so the
    score of a voice and a face does not depend on other queries or other gallery faces.

    `predicted` are out-of-fold predictions for the training voices, `targets` the regression targets and
    `cohort` the features of the training faces; all are `(n, d)` and centred.
    """

    def __init__(
        self, predicted: np.ndarray, targets: np.ndarray, cohort: np.ndarray, settings: VoiceToFaceSettings
    ) -> None:
        self._settings, self._predicted, self._cohort = settings, predicted, cohort
        self._functions = {"cosine": self._cosine, "gaussian": self._gaussian, "canonical": self._canonical}
        n = len(targets)
        face_covariance = targets.T @ targets / n
        residuals = targets - settings.scale * predicted
        self._residual_precision = np.linalg.inv(_shrink(residuals.T @ residuals / n, settings.shrink))
        self._face_precision = np.linalg.inv(_shrink(face_covariance, settings.shrink))
        self._fit_canonical(predicted, targets, face_covariance)

    def __call__(
        self, predicted: np.ndarray, gallery: np.ndarray, *, scores: Sequence[str] = SCORES
    ) -> np.ndarray:
        """Return the summed scores of q predictions and m faces, both centred, `(q, m)` float64."""
        total = np.zeros((len(predicted), len(gallery)))
        for name in scores:
            score = self._functions[name]
            by_query, by_face = score(predicted, self._cohort), score(self._predicted, gallery)
            total += normalize_by_cohort(score(predicted, gallery), by_query, by_face)
        return total

    def _cosine(self, predicted: np.ndarray, gallery: np.ndarray) -> np.ndarray:
        return unit_rows(predicted) @ unit_rows(gallery).T

    def _gaussian(self, predicted: np.ndarray, gallery: np.ndarray) -> np.ndarray:
        with_voice = gallery @ self._residual_precision
        without = gallery @ self._face_precision
        face_terms = 0.5 * ((with_voice * gallery).sum(axis=1) - (without * gallery).sum(axis=1))
        # terms of the query only are left out, because the normalization removes them
        return self._settings.scale * predicted @ with_voice.T - face_terms[None]

    def _canonical(self, predicted: np.ndarray, gallery: np.ndarray) -> np.ndarray:
        voice, face = predicted @ self._voice_axes, gallery @ self._face_axes
        correlation, rest = self._correlations, 1 - self._correlations**2
        return (voice * correlation / rest) @ face.T - 0.5 * (face**2) @ (correlation**2 / rest)

    def _fit_canonical(self, predicted: np.ndarray, targets: np.ndarray, face_covariance: np.ndarray) -> None:
        n, k = len(targets), self._settings.cca_dims
        white_voice = _whitening(predicted.T @ predicted / n, self._settings.cca_ridge)
        white_face = _whitening(face_covariance, self._settings.cca_ridge)
        left, values, right = np.linalg.svd((predicted @ white_voice).T @ (targets @ white_face) / n)
        self._correlations = np.clip(values[:k], 0.0, _MAX_CORRELATION)
        voice_axes, face_axes = white_voice @ left[:, :k], white_face @ right[:k].T
        self._voice_axes = voice_axes / _deviation(predicted @ voice_axes, axis=0)
        self._face_axes = face_axes / _deviation(targets @ face_axes, axis=0)


def normalize_by_cohort(score: np.ndarray, by_query: np.ndarray, by_face: np.ndarray) -> np.ndarray:
    """Return scores `(q, m)` in standard deviations above a cohort, by query plus by face (s-norm).

    `by_query` `(q, c)` compares the queries with the faces of the cohort, `by_face` `(c, m)` the queries of
    the cohort with the gallery. A voice that is similar to all faces, or a face that is similar to all
    voices, has no advantage.
    """
    query_part = (score - by_query.mean(axis=1, keepdims=True)) / _deviation(by_query, axis=1)
    return query_part + (score - by_face.mean(axis=0, keepdims=True)) / _deviation(by_face, axis=0)


def squared_distances(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return the squared Euclidean distances `(n, m)` of the rows of `(n, d)` and `(m, d)`."""
    products = first @ second.T
    squares = (first**2).sum(axis=1)[:, None] + (second**2).sum(axis=1)[None]
    return np.maximum(squares - 2 * products, 0.0)


def standardize(block: np.ndarray, mean: np.ndarray, deviation: np.ndarray) -> np.ndarray:
    """Return embeddings `(n, d)` in standard deviations from the mean, within +-5; undefined values are 0."""
    scaled = (np.asarray(block, dtype=np.float64) - mean) / deviation
    return np.clip(np.nan_to_num(scaled), -_CLIP_AT, _CLIP_AT)


def solve_ridge(kernel: np.ndarray, targets: np.ndarray, ridge: float) -> np.ndarray:
    """Return the coefficients `(n, d)` of kernel ridge regression on centred targets `(n, d)`."""
    return np.linalg.solve(kernel + ridge * np.eye(len(kernel)), targets)


def group_folds(group_ids: np.ndarray, n_folds: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield the (train, test) indices of folds that divide no group."""
    from sklearn.model_selection import GroupKFold

    numbers = np.unique(group_ids, return_inverse=True)[1]
    folds = GroupKFold(min(n_folds, int(numbers.max()) + 1))
    yield from folds.split(numbers, groups=numbers)


def mean_recall(ranks: np.ndarray, gallery_sizes: np.ndarray | int) -> float:
    """Return the recall averaged over `GALLERY_SHARES`, in [0, 1]."""
    share = np.asarray(ranks) / gallery_sizes
    return float(np.mean([np.mean(share <= limit) for limit in GALLERY_SHARES]))


def _predict_out_of_fold(
    kernel: np.ndarray, targets: np.ndarray, ridge: float, group_ids: np.ndarray
) -> np.ndarray:
    """Return predictions `(n, d)`, each by a model that saw no pair of its group."""
    predicted = np.zeros_like(targets)
    for train, test in group_folds(group_ids, _INNER_FOLDS):
        mean = targets[train].mean(axis=0)
        coefficients = solve_ridge(kernel[np.ix_(train, train)], targets[train] - mean, ridge)
        predicted[test] = kernel[np.ix_(test, train)] @ coefficients
    return predicted


def _cross_validate(
    kernel: np.ndarray, pairs: TrainingPairs, grid: Sequence[VoiceToFaceSettings]
) -> dict[VoiceToFaceSettings, float]:
    """Return the mean recall over the folds for each of the settings."""
    faces, targets = np.asarray(pairs.faces, np.float64), pairs.targets
    fold_ranks: dict[VoiceToFaceSettings, list[np.ndarray]] = {settings: [] for settings in grid}
    sizes = []
    for train, test in group_folds(pairs.group_ids, _FOLDS):
        centred = targets[train] - targets[train].mean(axis=0)
        mean_face = faces[train].mean(axis=0)
        inner, across = kernel[np.ix_(train, train)], kernel[np.ix_(test, train)]
        sizes.append(np.full(len(test), len(test)))
        fitted: dict[float, tuple[np.ndarray, np.ndarray]] = {}
        for settings in grid:
            ridge = settings.ridge
            if ridge not in fitted:
                predicted = across @ solve_ridge(inner, centred, ridge)
                inner_predicted = _predict_out_of_fold(inner, centred, ridge, pairs.group_ids[train])
                fitted[ridge] = (inner_predicted, predicted)
            out_of_fold, predicted = fitted[ridge]
            scores = PairScores(out_of_fold, centred, faces[train] - mean_face, settings)
            fold_ranks[settings].append(true_ranks(scores(predicted, faces[test] - mean_face)))
    gallery_sizes = np.concatenate(sizes)
    return {
        settings: mean_recall(np.concatenate(ranks), gallery_sizes) for settings, ranks in fold_ranks.items()
    }


def _deviation(values: np.ndarray, *, axis: int) -> np.ndarray:
    return np.maximum(values.std(axis=axis, keepdims=True), _TINY)


def _shrink(covariance: np.ndarray, share: float) -> np.ndarray:
    d = len(covariance)
    return (1 - share) * covariance + (share * np.trace(covariance) / d + _TINY) * np.eye(d)


def _whitening(covariance: np.ndarray, ridge: float) -> np.ndarray:
    values, vectors = np.linalg.eigh(covariance)
    return vectors / np.sqrt(np.maximum(values, 0.0) + ridge * values.mean() + _TINY)
