"""From a voice to how well each face fits it: kernel ridge to the face, then scores of the fit.

The face that is regressed on is the mean of the descriptors of a picture and of its mirror image,
which differ by the pose alone.  Settings are chosen by cross-validation inside the training pairs,
in folds that divide no group (video or person); everything that is fitted is fitted anew in
each fold, the out-of-fold predictions too.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from scipy.stats import rankdata

from s2f_lib.errors import InputError
from s2f_lib.pairs.kernel import VoiceKernel
from s2f_lib.pairs.scores import SCORES, PairScores, ScoreSettings

#: Block to weight: a small choice of Whisper's layers, and the speaker embedding.
BLOCK_WEIGHTS: Mapping[str, float] = {
    "encoder2": 1.0,
    "encoder3": 1.0,
    "encoder4": 1.0,
    "encoder5": 1.0,
    "decoder3": 0.5,
    "decoder4": 0.5,
    "decoder5": 0.5,
    "language4": 0.5,
    "speaker": 2.0,
    "acoustic": 1.0,  # only there where no pretrained network is
}
#: Recall is averaged at these shares of the gallery: 5, 10, 20, 34 and 50 of 114.
GALLERY_SHARES = (0.044, 0.088, 0.175, 0.3, 0.44)

_GAMMA = 0.3
_FOLDS = 5
_INNER_FOLDS = 6
FEWEST_GROUPS = 8  # folds within folds need some


@dataclass(frozen=True, slots=True)
class VoiceToFaceSettings:
    """Of the model.

    Attributes
    ----------
    ridge
        Added to the kernel's diagonal.
    scores
        Of the scores.
    """

    ridge: float = 1.0
    scores: ScoreSettings = field(default_factory=ScoreSettings)


#: What cross-validation chooses from.
GRID: tuple[VoiceToFaceSettings, ...] = tuple(
    VoiceToFaceSettings(ridge, ScoreSettings(shrink=shrink, cca_dims=dims))
    for ridge, shrink, dims in itertools.product((0.5, 1.0, 2.0), (0.8, 0.9), (4, 6))
)


@dataclass(frozen=True)
class TrainingPairs:
    """What the model is fitted on.

    Attributes
    ----------
    voices
        Block to `(n, d)` descriptors.
    faces
        `(n, 128)` descriptors of the faces.
    mirrored
        `(n, 128)`, of their mirror images.
    group_ids
        `(n,)` int: what no fold divides.
    """

    voices: Mapping[str, np.ndarray]
    faces: np.ndarray
    mirrored: np.ndarray
    group_ids: np.ndarray

    def __len__(self) -> int:
        return len(self.faces)

    @property
    def targets(self) -> np.ndarray:
        """`(n, 128)`: the mean of a face and its mirror image."""
        return (np.asarray(self.faces, np.float64) + np.asarray(self.mirrored, np.float64)) / 2

    def with_faces_of(self, order: np.ndarray) -> TrainingPairs:
        """Return the same voices with other clips' faces: a control in which a voice tells nothing."""
        return TrainingPairs(self.voices, self.faces[order], self.mirrored[order], self.group_ids)


class VoiceToFace:
    """The fitted model.

    Parameters
    ----------
    pairs
        The training pairs.
    grid
        Settings to choose from, by cross-validation where there are several.
    weights
        Block to weight.

    Attributes
    ----------
    settings
        Those that were chosen.
    objective
        Settings to the mean recall in cross-validation; empty where there was nothing to choose.
    blocks
        Names of the blocks that were used.

    Raises
    ------
    InputError
        There are fewer than eight groups.
    """

    def __init__(
        self,
        pairs: TrainingPairs,
        *,
        grid: Sequence[VoiceToFaceSettings] = GRID,
        weights: Mapping[str, float] = BLOCK_WEIGHTS,
    ) -> None:
        n_groups = len(np.unique(pairs.group_ids))
        if n_groups < FEWEST_GROUPS:
            raise InputError(
                f"{len(pairs)} training pairs of {n_groups} videos or persons: "
                f"expected at least {FEWEST_GROUPS} of them"
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
        out_of_fold = _out_of_fold(kernel, centred, self.settings.ridge, pairs.group_ids)
        self._scores = PairScores(out_of_fold, centred, pairs.faces - self._mean_face, self.settings.scores)

    def score(
        self, voices: Mapping[str, np.ndarray], gallery: np.ndarray, *, scores: Sequence[str] = SCORES
    ) -> np.ndarray:
        """Return how well each face fits each voice.

        Parameters
        ----------
        voices
            Block to `(q, d)` descriptors.
        gallery
            `(m, 128)` descriptors of faces.
        scores
            Which of the three are summed.

        Returns
        -------
        numpy.ndarray
            `(q, m)` float64; larger fits better.
        """
        predicted = self._kernel(voices) @ self._coefficients
        return self._scores(predicted, np.asarray(gallery, np.float64) - self._mean_face, scores=scores)


def solve_ridge(kernel: np.ndarray, targets: np.ndarray, ridge: float) -> np.ndarray:
    """Return the coefficients `(n, d)` of kernel ridge regression on `(n, d)` centred targets."""
    return np.linalg.solve(kernel + ridge * np.eye(len(kernel)), targets)


def group_folds(group_ids: np.ndarray, n_folds: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield (train, test) places of folds that divide no group."""
    from sklearn.model_selection import GroupKFold

    numbers = np.unique(group_ids, return_inverse=True)[1]
    folds = GroupKFold(min(n_folds, int(numbers.max()) + 1))
    yield from folds.split(numbers, groups=numbers)


def mean_recall(ranks: np.ndarray, gallery_sizes: np.ndarray | int) -> float:
    """Return recall, averaged over the K that are `GALLERY_SHARES` of the gallery."""
    share = np.asarray(ranks) / gallery_sizes
    return float(np.mean([np.mean(share <= limit) for limit in GALLERY_SHARES]))


def _out_of_fold(kernel: np.ndarray, targets: np.ndarray, ridge: float, group_ids: np.ndarray) -> np.ndarray:
    """Return `(n, d)` predictions, each of a model that saw nothing of its group."""
    predicted = np.zeros_like(targets)
    for train, test in group_folds(group_ids, _INNER_FOLDS):
        mean = targets[train].mean(axis=0)
        coefficients = solve_ridge(kernel[np.ix_(train, train)], targets[train] - mean, ridge)
        predicted[test] = kernel[np.ix_(test, train)] @ coefficients
    return predicted


def _cross_validate(
    kernel: np.ndarray, pairs: TrainingPairs, grid: Sequence[VoiceToFaceSettings]
) -> dict[VoiceToFaceSettings, float]:
    """Return the mean recall of each of the settings over the folds.

    The kernel's standardisation is that of all training voices; it sees no face.
    """
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
                fitted[ridge] = (_out_of_fold(inner, centred, ridge, pairs.group_ids[train]), predicted)
            out_of_fold, predicted = fitted[ridge]
            scores = PairScores(out_of_fold, centred, faces[train] - mean_face, settings.scores)
            fold_ranks[settings].append(_own_ranks(scores(predicted, faces[test] - mean_face)))
    gallery_sizes = np.concatenate(sizes)
    return {
        settings: mean_recall(np.concatenate(ranks), gallery_sizes) for settings, ranks in fold_ranks.items()
    }


def _own_ranks(similarity: np.ndarray) -> np.ndarray:
    """Return the rank of row i's column i; ties get the mean of their places."""
    return np.diag(rankdata(-similarity, axis=1))
