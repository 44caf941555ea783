"""How alike two renderings of one face are, measured by the extractor itself.

The report's "Cosine Similarity between image predicted using VGG features and
using audio waveform ranges between 0.25 - 0.50".
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from s2f_lib.evaluation.distances import pair_distances
from s2f_lib.faces.extractor import FaceFeatureExtractor


@dataclass(frozen=True)
class Triptychs:
    """Original, rendering of the true features, rendering of the predicted ones.

    Attributes
    ----------
    clip_ids
        `n` ids.
    original, from_face, from_voice
        `(n, 224, 224, 3)` uint8 RGB.
    cosine
        `(n,)` between the features of the two renderings, in [-1, 1].
    """

    clip_ids: tuple[str, ...]
    original: np.ndarray
    from_face: np.ndarray
    from_voice: np.ndarray
    cosine: np.ndarray


def reconstruction_cosine(
    from_face: np.ndarray, from_voice: np.ndarray, extractor: FaceFeatureExtractor
) -> np.ndarray:
    """Return the cosine between the features of two renderings of each person, `(n,)`."""
    return pair_distances(extractor(from_face), extractor(from_voice))["cosine"]
