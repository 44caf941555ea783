"""The skin: a height map of the head, its light, and its colour.

The height is close to an ellipsoid, with Gaussian hills and hollows (nose, eye sockets, cheekbones, lips,
chin) and, with age, folds and wrinkles. Normals come from its gradient, brightness from Lambert's law with a
soft terminator.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from s2f_lib.sources.synthetic.people import FaceLatents
from s2f_lib.sources.synthetic.portrait.canvas import palette_colour
from s2f_lib.sources.synthetic.portrait.geometry import MOUTH_GAP, FaceGeometry

# sRGB in [0, 1], from tone 0 to tone 1
_SKIN = np.array(
    [
        (0.97, 0.84, 0.76),
        (0.91, 0.73, 0.58),
        (0.78, 0.56, 0.40),
        (0.60, 0.40, 0.27),
        (0.46, 0.30, 0.205),
        (0.37, 0.235, 0.165),
    ],
    dtype=np.float32,
)
_DEPTH = 0.75  # depth of the head, in face units


def skin_colour(tone: float) -> np.ndarray:
    """Return the colour of a skin tone (0 light to 1 dark), `(3,)` float32 sRGB in [0, 1]."""
    return palette_colour(tone, np.linspace(0, 1, len(_SKIN)), _SKIN)


def head_height(geometry: FaceGeometry, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return the height of the head's surface toward the viewer, `(height, width)` float32.

    `x` `(width,)`, `y` `(height,)` and the height are in face units; the height is 0 outside the head.
    """
    g = geometry

    def hill(x0: float, y0: float, sx: float, sy: float) -> np.ndarray:
        return np.outer(np.exp(-(((y - y0) / sy) ** 2)), np.exp(-(((x - x0) / sx) ** 2))).astype(np.float32)

    def pair(x0: float, y0: float, sx: float, sy: float) -> np.ndarray:
        columns = np.exp(-(((x - x0) / sx) ** 2)) + np.exp(-(((x + x0) / sx) ** 2))
        return np.outer(np.exp(-(((y - y0) / sy) ** 2)), columns).astype(np.float32)

    width = np.maximum(g.width_at(y), 1e-4)[:, None]
    across = np.abs(x)[None, :] / width
    depth = _DEPTH * (width / g.half_width) ** 0.5
    z = depth * np.sqrt(np.clip(1 - across**2.3, 0, 1))
    # nose: ridge, tip, wings
    ridge_y = 0.5 * g.nose_y
    z += 0.075 * hill(0, ridge_y, 0.055, 0.22)
    z += 0.13 * hill(0, g.nose_y - 0.02, 0.6 * g.nose_half_width, 0.075)
    z += 0.05 * pair(0.72 * g.nose_half_width, g.nose_y + 0.01, 0.36 * g.nose_half_width, 0.05)
    # eyes: sockets, brow ridge, and the ball that pushes the lids out
    z -= 0.075 * pair(g.eye_x - 0.02, g.eye_y - 0.01, 0.17, 0.11)
    z += (0.012 + 0.03 * g.male) * pair(g.eye_x - 0.03, g.brow_y + 0.01, 0.2, 0.055)
    z += 0.022 * pair(g.eye_x, g.eye_y, 0.11, 0.07)
    # cheeks, lips, chin
    z += (0.05 - 0.02 * g.aged) * pair(0.62 * g.half_width, 0.24, 0.15, 0.13)
    z -= 0.05 * g.aged * pair(0.66 * g.half_width, 0.5, 0.12, 0.14)
    z += 0.03 * hill(0, g.mouth_y - 0.6 * g.upper_lip, 0.7 * g.mouth_half_width, 0.04)
    z += 0.035 * hill(0, g.mouth_y + MOUTH_GAP + 0.6 * g.lower_lip, 0.6 * g.mouth_half_width, 0.04)
    z -= 0.025 * hill(0, g.mouth_y + MOUTH_GAP + 1.7 * g.lower_lip, 0.16, 0.04)
    z += (0.03 + 0.025 * g.male) * hill(0, g.chin_y - 0.12, 0.13 + 0.04 * g.male, 0.08)
    z += _folds(g, x[None, :], y[:, None], pair)
    return z * (across < 1)


def _folds(g: FaceGeometry, x: np.ndarray, y: np.ndarray, pair: Callable[..., np.ndarray]) -> np.ndarray:
    """Return the relief of age: bags under the eyes, folds, lines on the forehead and around the eyes."""
    old = max(0.0, g.aged - 0.12)
    side = np.abs(x)
    # fold from the wing of the nose past the mouth: a groove along a slanted line
    slope = (g.mouth_half_width + 0.05 - g.nose_half_width) / (g.mouth_y - g.nose_y + 0.05)
    line = side - (g.nose_half_width + 0.01 + slope * (y - g.nose_y))
    along = np.exp(-(((y - 0.5 * (g.nose_y + g.mouth_y)) / 0.15) ** 2))
    z = -(0.008 + 0.04 * old) * np.exp(-((line / 0.03) ** 2)) * along
    # bags under the eyes
    z = z + 0.02 * old * pair(g.eye_x, g.eye_y + 0.15, 0.1, 0.03)
    z -= 0.03 * old * pair(g.eye_x, g.eye_y + 0.195, 0.11, 0.02)
    # forehead: four curved lines
    bent = y + 0.03 * np.cos(4 * x)
    waves = np.cos(2 * np.pi * (bent + 0.44) / 0.085)
    z += 0.009 * old * waves * np.exp(-(((bent + 0.44) / 0.13) ** 2)) * np.exp(-((x / 0.36) ** 4))
    # crow's feet
    outer = side - (g.eye_x + g.eye_half_width + 0.09)
    fan = np.cos(2 * np.pi * (y - g.eye_y - 0.25 * outer) / 0.055)
    z += 0.007 * old * fan * np.exp(-((outer / 0.06) ** 2)) * np.exp(-(((y - g.eye_y) / 0.09) ** 2))
    # between the brows
    z -= 0.02 * old * pair(0.04, g.brow_y + 0.03, 0.016, 0.07)
    # jowls
    z += 0.045 * old * pair(0.52 * g.half_width, 0.78, 0.1, 0.1)
    return z.astype(np.float32)


def shade(height: np.ndarray, *, px_per_unit: float, light: tuple[float, float, float]) -> np.ndarray:
    """Return the brightness of a surface, about 0.35 in shadow to 1.1 in full light.

    `height` is `(height, width)` float32 in face units; `light` is a direction: right, down, to the viewer.
    """
    rows, columns = np.gradient(height, 1 / px_per_unit)
    norm = 1 / np.sqrt(rows**2 + columns**2 + 1)
    lx, ly, lz = np.asarray(light) / np.linalg.norm(light)
    lambert = (lz - lx * columns - ly * rows) * norm
    # skin scatters light, so the terminator is soft: wrap the cosine
    wrapped = np.clip((lambert + 0.3) / 1.3, 0, 1)
    shine = np.clip(lambert, 0, 1) ** 18
    return (0.36 + 0.74 * wrapped + 0.07 * shine).astype(np.float32)


def skin_layer(
    face: FaceLatents, geometry: FaceGeometry, x: np.ndarray, y: np.ndarray, *, mottle: np.ndarray
) -> np.ndarray:
    """Return the colour of the head without light, `(height, width, 3)` float32 sRGB in [0, 1].

    `mottle` is `(height, width)` float32 noise of deviation near 1: the uneven colour of the skin.
    """
    g = geometry
    base = skin_colour(face.skin_tone)
    colour = np.empty((len(y), len(x), 3), np.float32)
    uneven = 1 + (0.01 + 0.03 * g.aged) * mottle
    red = np.outer(np.exp(-(((y - 0.27) / 0.13) ** 2)), np.exp(-(((np.abs(x) - 0.4) / 0.14) ** 2)))
    red += 0.7 * np.outer(np.exp(-(((y - g.nose_y) / 0.07) ** 2)), np.exp(-((x / 0.09) ** 2)))
    red *= 0.09 * (1 - 0.6 * face.skin_tone)
    under = np.outer(np.exp(-(((y - 0.1) / 0.05) ** 2)), np.exp(-(((np.abs(x) - g.eye_x) / 0.11) ** 2)))
    under *= 0.06 + 0.14 * g.aged
    # colour fades with age
    faded = base + 0.12 * g.aged * (base.mean() - base)
    for band, tint in enumerate((0.35, -1.0, -0.75)):
        colour[..., band] = faded[band] * (uneven + tint * red - under)
    return colour
