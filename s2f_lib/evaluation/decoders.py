"""Decoders judged side by side on the same held-out faces.

Identity: would the feature extractor, and a judge without a network, find the
true face again from its drawing?  Likeness: SSIM, PSNR and mean absolute difference of
the pictures.  Sharpness: how much fine detail there is, against the original's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import cv2
import numpy as np
import pandas as pd

from s2f_lib.config import EvaluationConfig
from s2f_lib.errors import InputError
from s2f_lib.evaluation.distances import pair_distances
from s2f_lib.evaluation.retrieval import chance_recall, similarity_matrix, true_ranks
from s2f_lib.evaluation.statistics import bootstrap_interval, hit_interval

RECALL_AT = (1, 5, 10)
_AT_ONCE = 16  # pictures in SSIM: it holds several copies

FeatureFunction = Callable[[np.ndarray], np.ndarray]


def evaluate_reconstructions(
    reconstructions: Mapping[str, np.ndarray],
    originals: np.ndarray,
    *,
    extractor: FeatureFunction,
    mean_features: np.ndarray,
    second_extractor: FeatureFunction,
    config: EvaluationConfig,
    distractors: np.ndarray | None = None,
    group_ids: Sequence[str] | None = None,
) -> pd.DataFrame:
    """Measure how well each decoder's drawings stand for their originals.

    Parameters
    ----------
    reconstructions
        Decoder's name to `(n, height, width, 3)` uint8 RGB; row i shows face i.
    originals
        `(n, height, width, 3)` uint8 RGB; they are the gallery, too.
    extractor
        Faces to features; the residual decoder's loss uses the very same.
    mean_features
        `(dimension,)`, of training faces: taken off all features before they are compared,
        since what is common to all faces says nothing of identity.
    second_extractor
        Faces to vectors, independent of the extractor; see `appearance.AppearanceFeatures`.
    config
        Of intervals.
    distractors
        `(m, dimension)` features of other true faces, for one more recall in the gallery of all n + m.
    group_ids
        `n` ids of persons or videos, which intervals resample; None: each face is another person's.

    Returns
    -------
    pandas.DataFrame
        Columns decoder, measure, n, gallery, value, low, high, chance (of recall; else missing).
        Measures: identity_cosine, recall_1, recall_5, recall_10 (extractor), second_recall_1 and
        second_recall_10 (second judge), large_recall_1 (with distractors), ssim, psnr_db, l1,
        sharpness (median ratio).
    """
    gallery = len(originals)
    if gallery < max(RECALL_AT):
        raise InputError(f"a gallery of {gallery} faces is too small: expected at least {max(RECALL_AT)}")
    true, true_second = extractor(originals) - mean_features, second_extractor(originals)
    rows = []
    for name, reconstruction in reconstructions.items():
        if reconstruction.shape != originals.shape:
            raise InputError(
                f"drawings of {name} are {reconstruction.shape}, the originals {originals.shape}"
            )
        features = extractor(reconstruction) - mean_features
        ranks = true_ranks(similarity_matrix(features, true, "cosine"))
        second = true_ranks(similarity_matrix(second_extractor(reconstruction), true_second, "cosine"))
        values = {"identity_cosine": pair_distances(true, features)["cosine"]}
        values |= {f"recall_{k}": ranks <= k for k in RECALL_AT}
        values |= {f"second_recall_{k}": second <= k for k in (1, 10)}
        if distractors is not None:
            all_true = np.concatenate([true, distractors - mean_features])
            large = similarity_matrix(features, all_true, "cosine")
            values["large_recall_1"] = true_ranks(large, np.arange(gallery)) <= 1
        values |= likeness(reconstruction, originals)
        values["sharpness"] = sharpness(reconstruction) / np.maximum(sharpness(originals), 1e-6)
        for measure, of_each in values.items():
            if "recall" in measure:
                interval = hit_interval(of_each, group_ids=group_ids, settings=config.interval)
            else:
                statistic = np.median if measure == "sharpness" else np.mean
                interval = bootstrap_interval(
                    of_each, statistic, group_ids=group_ids, settings=config.interval
                )
            size = gallery + len(distractors) if measure.startswith("large") else gallery
            chance = chance_recall(int(measure.rpartition("_")[2]), size) if "recall" in measure else None
            row = {"decoder": name, "measure": measure, "n": len(reconstruction), "gallery": size}
            rows.append(
                row | {"value": interval.value, "low": interval.low, "high": interval.high, "chance": chance}
            )
    return pd.DataFrame(rows)


def likeness(reconstruction: np.ndarray, originals: np.ndarray) -> dict[str, np.ndarray]:
    """Return SSIM (torchmetrics), PSNR in dB and mean absolute difference of each pair, `(n,)` each.

    Parameters
    ----------
    reconstruction, originals
        `(n, height, width, 3)` uint8.
    """
    import torch
    from torchmetrics.functional.image import structural_similarity_index_measure

    parts = []
    for start in range(0, len(reconstruction), _AT_ONCE):
        pair = [
            torch.from_numpy(np.ascontiguousarray(faces[start : start + _AT_ONCE])).permute(0, 3, 1, 2) / 255
            for faces in (reconstruction, originals)
        ]
        similar = structural_similarity_index_measure(*pair, data_range=1.0, reduction="none").reshape(-1)
        difference = pair[0] - pair[1]
        square = difference.square().mean(dim=(1, 2, 3)).clamp_min(1e-10)
        parts.append((similar, -10 * square.log10(), difference.abs().mean(dim=(1, 2, 3))))
    names = ("ssim", "psnr_db", "l1")
    return {
        name: torch.cat(part).double().numpy()
        for name, part in zip(names, zip(*parts, strict=True), strict=True)
    }


def sharpness(faces: np.ndarray) -> np.ndarray:
    """Return the variance of the Laplacian of each face's brightness, `(n,)`: the more detail, the larger.

    At half the size: what changes from one pixel to the next, such as the checkerboard of
    transposed convolutions, is no detail of a face.
    """
    found = []
    for face in faces:
        grey = cv2.cvtColor(np.ascontiguousarray(face), cv2.COLOR_RGB2GRAY)
        size = grey.shape[1] // 2, grey.shape[0] // 2
        found.append(cv2.Laplacian(cv2.resize(grey, size, interpolation=cv2.INTER_AREA), cv2.CV_64F).var())
    return np.array(found)
