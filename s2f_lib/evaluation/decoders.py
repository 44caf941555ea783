"""Evaluation of face decoders on held-out faces: identity, likeness and sharpness.

Identity is measured twice: by the feature extractor that the decoders were trained with, and by edge
histograms, which no decoder was trained with.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass

import cv2
import numpy as np
import pandas as pd
from sklearn.decomposition import PCA

from s2f_lib.config import IntervalSettings
from s2f_lib.errors import InputError
from s2f_lib.evaluation.retrieval import chance_recall, pair_distances, similarity_matrix, true_ranks
from s2f_lib.evaluation.statistics import DEFAULT_INTERVAL, bootstrap_interval, hit_interval

_KS, _SECOND_KS = (1, 5, 10), (1, 10)
_SSIM_BATCH = 16  # images at once: SSIM needs several copies of them
_SIDE_PX, _CELL_PX, _BINS = 112, 14, 9  # 8 x 8 cells, blocks of 2 x 2, steps of 20 degrees

FeatureFunction = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Triptychs:
    """Original faces with the reconstructions from true and from predicted features.

    The images are `(n, 224, 224, 3)` uint8 RGB.
    """

    clip_ids: tuple[str, ...]
    original: np.ndarray
    from_face: np.ndarray
    from_voice: np.ndarray
    cosine: np.ndarray  # (n,) cosine of the features of the two reconstructions, in [-1, 1]


def reconstruction_cosine(
    from_face: np.ndarray, from_voice: np.ndarray, extractor: FeatureFunction
) -> np.ndarray:
    """Return the cosine, `(n,)`, between the features of two reconstructions of each person.

    It is the report's "Cosine Similarity between image predicted using VGG features and using audio
    waveform", which "ranges between 0.25 - 0.50".
    """
    return pair_distances(extractor(from_face), extractor(from_voice))["cosine"]


def evaluate_reconstructions(
    reconstructions: Mapping[str, np.ndarray],
    originals: np.ndarray,
    *,
    extractor: FeatureFunction,
    mean_features: np.ndarray,
    second_extractor: FeatureFunction,
    settings: IntervalSettings = DEFAULT_INTERVAL,
    distractors: np.ndarray | None = None,
    group_ids: Sequence[str] | None = None,
) -> pd.DataFrame:
    """Measure how well the reconstructions of each decoder match the original faces.

    Parameters
    ----------
    reconstructions
        Name of the decoder to `(n, height, width, 3)` uint8 RGB; row i shows face i.
    originals
        `(n, height, width, 3)` uint8 RGB, which are also the gallery.
    extractor
        Function from faces to features; the residual decoder's loss uses the same one.
    mean_features
        `(dimension,)` mean over training faces. It is subtracted from all features before they are
        compared, because what all faces share identifies nobody.
    second_extractor
        Function from faces to vectors, independent of the extractor, such as `AppearanceFeatures`.
    settings
        Settings of the intervals.
    distractors
        `(m, dimension)` features of other faces, for one more recall in a gallery of n + m faces.
    group_ids
        `n` ids of the people or videos that intervals resample. None: each face is another person.

    Returns
    -------
    pandas.DataFrame
        Columns decoder, measure, n, gallery, value, low, high, chance (only for recall). Measures:
        identity_cosine, recall_1, recall_5, recall_10 (extractor), second_recall_1, second_recall_10
        (second extractor), large_recall_1 (with distractors), ssim, psnr_db, l1, sharpness (median of
        the ratio to the original).

    Examples
    --------
    >>> faces = np.random.default_rng(0).integers(0, 256, (12, 32, 32, 3), dtype=np.uint8)
    >>> def pixels(faces):
    ...     return faces[:, ::8, ::8].reshape(len(faces), -1) - 127.5
    >>> table = evaluate_reconstructions(
    ...     {"perfect": faces}, faces, extractor=pixels, mean_features=np.zeros(48), second_extractor=pixels
    ... )
    >>> float(table.set_index("measure")["value"]["recall_1"])
    1.0
    """
    gallery = len(originals)
    if gallery < max(_KS):
        raise InputError(f"a gallery of {gallery} faces is too small: expected at least {max(_KS)}")
    true, true_second = extractor(originals) - mean_features, second_extractor(originals)
    detail = np.maximum(sharpness(originals), 1e-6)
    rows = []
    for name, faces in reconstructions.items():
        if faces.shape != originals.shape:
            raise InputError(f"reconstructions of {name} are {faces.shape}, the originals {originals.shape}")
        features = extractor(faces) - mean_features
        ranks = true_ranks(similarity_matrix(features, true, "cosine"))
        second = true_ranks(similarity_matrix(second_extractor(faces), true_second, "cosine"))
        values = {"identity_cosine": pair_distances(true, features)["cosine"]}
        values |= {f"recall_{k}": ranks <= k for k in _KS}
        values |= {f"second_recall_{k}": second <= k for k in _SECOND_KS}
        if distractors is not None:
            large = similarity_matrix(features, np.concatenate([true, distractors - mean_features]), "cosine")
            values["large_recall_1"] = true_ranks(large, np.arange(gallery)) <= 1
        values |= likeness(faces, originals) | {"sharpness": sharpness(faces) / detail}
        for measure, of_each in values.items():
            size = gallery
            if distractors is not None and measure == "large_recall_1":
                size += len(distractors)
            if "recall" in measure:
                interval = hit_interval(of_each, group_ids=group_ids, settings=settings)
                chance = chance_recall(int(measure.rpartition("_")[2]), size)
            else:
                statistic = np.median if measure == "sharpness" else np.mean
                interval = bootstrap_interval(of_each, statistic, group_ids=group_ids, settings=settings)
                chance = None
            row = {"decoder": name, "measure": measure, "n": len(faces), "gallery": size}
            rows.append(row | asdict(interval) | {"chance": chance})
    return pd.DataFrame(rows)


def likeness(faces: np.ndarray, originals: np.ndarray) -> dict[str, np.ndarray]:
    """Return "ssim", "psnr_db" and "l1" (mean absolute difference in [0, 1]) of uint8 images, `(n,)` each."""
    import torch
    from torchmetrics.functional.image import structural_similarity_index_measure

    parts = []
    for start in range(0, len(faces), _SSIM_BATCH):
        batches = (np.ascontiguousarray(some[start : start + _SSIM_BATCH]) for some in (faces, originals))
        first, second = (torch.from_numpy(batch).permute(0, 3, 1, 2) / 255 for batch in batches)
        ssim = structural_similarity_index_measure(first, second, data_range=1.0, reduction="none")
        assert isinstance(ssim, torch.Tensor)  # it is a pair of tensors with return_full_image
        square = (first - second).square().mean(dim=(1, 2, 3)).clamp_min(1e-10)
        parts.append((ssim.reshape(-1), -10 * square.log10(), (first - second).abs().mean(dim=(1, 2, 3))))
    columns = [torch.cat(column).double().numpy() for column in zip(*parts, strict=True)]
    return dict(zip(("ssim", "psnr_db", "l1"), columns, strict=True))


def sharpness(faces: np.ndarray) -> np.ndarray:
    """Return the variance of the Laplacian of each face's grey values, `(n,)`; more detail is larger.

    It is computed at half the size, because differences between neighbouring pixels, such as the
    checkerboard of transposed convolutions, are not details of a face.
    """
    found = []
    for face in faces:
        grey = cv2.cvtColor(np.ascontiguousarray(face), cv2.COLOR_RGB2GRAY)
        size = grey.shape[1] // 2, grey.shape[0] // 2
        found.append(cv2.Laplacian(cv2.resize(grey, size, interpolation=cv2.INTER_AREA), cv2.CV_64F).var())
    return np.array(found)


class AppearanceFeatures:
    """Histograms of oriented gradients (Dalal and Triggs 2005), reduced by a whitened PCA.

    A decoder that is trained against an extractor can learn to please it. These features need no network.

    Parameters
    ----------
    faces
        `(n, height, width, 3)` uint8 RGB training faces, which the PCA is fitted on.
    components
        Number of PCA components, at most n - 1.

    Examples
    --------
    >>> faces = np.random.default_rng(0).integers(0, 256, (6, 32, 32, 3), dtype=np.uint8)
    >>> AppearanceFeatures(faces, components=4)(faces[:2]).shape
    (2, 4)
    """

    def __init__(self, faces: np.ndarray, *, components: int = 128) -> None:
        self._pca = PCA(min(components, len(faces) - 1), whiten=True, svd_solver="randomized", random_state=0)
        self._pca.fit(self._histograms(faces))

    def __call__(self, faces: np.ndarray) -> np.ndarray:
        """Return `(n, components)` float, to be compared by cosine."""
        return self._pca.transform(self._histograms(faces))

    @staticmethod
    def _histograms(faces: np.ndarray) -> np.ndarray:
        return np.stack([_oriented_gradients(face) for face in faces])


def _oriented_gradients(face: np.ndarray) -> np.ndarray:
    """Return `(1764,)` float32: 7 x 7 blocks of 2 x 2 cells with 9 directions each, for one face.

    `cv2.HOGDescriptor` has this layout, but it interpolates between cells and gives other numbers.
    """
    small = cv2.resize(np.ascontiguousarray(face), (_SIDE_PX, _SIDE_PX), interpolation=cv2.INTER_AREA)
    grey = cv2.cvtColor(small, cv2.COLOR_RGB2GRAY).astype(np.float32)
    along_y, along_x = np.gradient(grey)
    bins = ((np.arctan2(along_y, along_x) % np.pi) / np.pi * _BINS).astype(int) % _BINS
    cells = _SIDE_PX // _CELL_PX
    rows, columns = np.indices(grey.shape) // _CELL_PX
    index = (rows * cells + columns) * _BINS + bins
    counts = np.bincount(index.ravel(), np.hypot(along_x, along_y).ravel(), minlength=cells * cells * _BINS)
    counts = counts.reshape(cells, cells, _BINS)
    blocks = np.concatenate([counts[:-1, :-1], counts[1:, :-1], counts[:-1, 1:], counts[1:, 1:]], axis=2)
    length = np.linalg.norm(blocks, axis=2, keepdims=True)
    return (blocks / np.maximum(length, 1e-6)).astype(np.float32).ravel()  # (7, 7, 36) to (1764,)
