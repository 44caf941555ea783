"""Measures and networks for tests of faces."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from s2f_lib.faces.alignment import eye_line, landmark_predictor
from s2f_lib.faces.vgg_face.network import empty_vgg16


@dataclass(frozen=True, slots=True)
class EyeGeometry:
    """Position of the eyes in a crop: it shows whether the face is upright and fills the crop.

    Attributes
    ----------
    angle_deg
        Slope of the line between the eyes; 0 is level.
    distance_share
        Distance between the eyes as a share of the crop's width; 0.35 for dlib's mean face with its usual
        margin.
    """

    angle_deg: float
    distance_share: float


def measure_eyes(crop: np.ndarray, *, margin: float = 0.25) -> EyeGeometry:
    """Find the landmarks in an aligned crop, (size, size, 3) uint8 RGB, and measure the eyes."""
    import dlib

    size = crop.shape[1]
    near, far = size * margin / (1 + 2 * margin), size * (1 + margin) / (1 + 2 * margin)  # the face box
    box = dlib.rectangle(round(near), round(near), round(far), round(far))
    angle_deg, distance_px = eye_line(landmark_predictor()(np.ascontiguousarray(crop), box))
    return EyeGeometry(angle_deg, distance_px / size)


def random_vgg_face(seed: int) -> torch.nn.Module:
    """Return VGG16 with random weights."""
    network = empty_vgg16().to_empty(device="cpu")
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.ndim == 1:  # biases
                parameter.zero_()
            else:  # He's scale keeps activations alive through 15 layers
                bound = (6 / parameter[0].numel()) ** 0.5
                parameter.uniform_(-bound, bound, generator=generator)
    return network
