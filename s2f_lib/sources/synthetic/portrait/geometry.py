"""From face latents to the lengths of a portrait.

Face units: the origin is the middle of the head, x points right and y points down. The crown is at y = -1 and
the chin near y = 1.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from s2f_lib.sources.synthetic.people import OLDEST_YEARS, YOUNGEST_YEARS, FaceLatents

MOUTH_GAP = 0.09  # distance between the lips of the open mouth
FACE_CENTRE_Y = 0.14  # between eyes and mouth: the middle of a detector's box
_TEMPLE_Y = -0.2  # height of the widest part of the head


@dataclass(frozen=True, slots=True)
class FaceGeometry:
    """Lengths in face units, and shares in or near [0, 1]."""

    male: float  # 1 or 0
    aged: float  # 0 at 18, 1 at 80
    half_width: float
    chin_y: float
    jaw_power: float  # 2 is an ellipse, more is squarer
    neck_width: float
    shoulder_width: float
    eye_x: float
    eye_y: float
    eye_half_width: float
    eye_half_height: float
    eye_tilt: float  # rise of the outer corner
    brow_y: float
    brow_half_thickness: float
    brow_arch: float
    nose_y: float  # the tip
    nose_half_width: float
    mouth_y: float
    mouth_half_width: float
    upper_lip: float
    lower_lip: float
    hairline_y: float

    def mouth_line(self, across: np.ndarray) -> np.ndarray:
        """Return y of the lower edge of the upper lip at `across`, -1 to 1 from corner to corner."""
        return self.mouth_y + 0.012 - 0.024 * across**2

    def width_at(self, y: np.ndarray) -> np.ndarray:
        """Return half the width of the head at each y, 0 outside the head."""
        above = np.clip((_TEMPLE_Y - y) / (_TEMPLE_Y + 1.0), 0, 1)
        below = np.clip((y - _TEMPLE_Y) / (self.chin_y - _TEMPLE_Y), 0, 1)
        skull = np.sqrt(1 - above**2)
        jaw = (1 - below**self.jaw_power) ** 0.6
        return self.half_width * np.where(y < _TEMPLE_Y, skull, jaw) * (y > -1) * (y < self.chin_y)


def measure(face: FaceLatents) -> FaceGeometry:
    """Return the lengths of a face.

    Gender, age and body change the outline, brows, eyes and lips. The idiosyncratic latents change the same
    lengths less; a few lengths (eye distance, nose, height of the mouth) depend mostly on them.
    """
    male = 1.0 if face.gender == "m" else 0.0
    aged = (face.age_years - YOUNGEST_YEARS) / (OLDEST_YEARS - YOUNGEST_YEARS)

    def bounded(z: float) -> float:
        return float(np.clip(z, -2.5, 2.5))

    body = bounded(face.body)
    mouth_y = 0.575 + 0.012 * bounded(face.mouth_height) + 0.01 * male
    recedes = male * max(0.0, aged - 0.25) * 0.2
    return FaceGeometry(
        male=male,
        aged=aged,
        half_width=0.675 + 0.02 * male + 0.052 * body,
        chin_y=0.95 + 0.035 * male + 0.02 * bounded(face.face_length) + 0.012 * body,
        jaw_power=2.3 + 0.75 * male + 0.42 * body + 0.15 * bounded(face.jaw) + 0.2 * aged,
        neck_width=0.36 + 0.07 * male + 0.045 * body,
        shoulder_width=1.25 + 0.22 * male + 0.12 * body,
        eye_x=0.295 + 0.013 * bounded(face.eye_distance) + 0.008 * body,
        eye_y=0.0,
        eye_half_width=0.132 + 0.007 * bounded(face.eye_size) - 0.006 * male,
        eye_half_height=max(0.03, 0.066 + 0.0085 * bounded(face.eye_opening) - 0.012 * male - 0.014 * aged),
        eye_tilt=0.022 * bounded(face.eye_tilt) + 0.012 * (1 - male) - 0.03 * aged,
        brow_y=-0.185 + 0.045 * male - 0.012 * bounded(face.brow_height) + 0.015 * aged,
        brow_half_thickness=max(
            0.012, 0.024 + 0.017 * male + 0.004 * bounded(face.brow_thickness) - 0.004 * aged
        ),
        brow_arch=0.03 - 0.02 * male + 0.008 * bounded(face.brow_arch),
        nose_y=0.335 + 0.02 * bounded(face.nose_length) + 0.02 * male + 0.025 * aged,
        nose_half_width=0.115 + 0.015 * bounded(face.nose_width) + 0.018 * male + 0.006 * body,
        mouth_y=mouth_y,
        mouth_half_width=0.235 + 0.014 * bounded(face.mouth_width) + 0.012 * male + 0.014 * body,
        upper_lip=max(0.014, 0.042 + 0.012 * bounded(face.lip_fullness) - 0.012 * male - 0.02 * aged),
        lower_lip=max(0.022, 0.06 + 0.013 * bounded(face.lip_fullness) - 0.01 * male - 0.02 * aged),
        hairline_y=-0.6 - recedes,
    )
