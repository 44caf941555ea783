"""A small painter: polygons with soft edges on a float image with transparency."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import ArrayLike

_SHIFT = 4  # fractional bits of the corners of cv2's polygons


class Canvas:
    """An image that is painted layer by layer. `centre_px` (x, y) is the origin of the face units."""

    def __init__(
        self, width_px: int, height_px: int, *, centre_px: tuple[float, float], px_per_unit: float
    ) -> None:
        self.centre_px = centre_px
        self.px_per_unit = px_per_unit
        self.colour = np.zeros((height_px, width_px, 3), np.float32)  # sRGB in [0, 1]
        self.alpha = np.zeros((height_px, width_px), np.float32)  # 1 where the image is painted
        # face units of the columns (width,) and of the rows (height,)
        self.x = ((np.arange(width_px) - centre_px[0]) / px_per_unit).astype(np.float32)
        self.y = ((np.arange(height_px) - centre_px[1]) / px_per_unit).astype(np.float32)

    def fill(
        self,
        points: np.ndarray,
        colour: np.ndarray | tuple[float, float, float],
        *,
        opacity: float = 1.0,
        soft: float = 0.0,
        light: np.ndarray | None = None,
        inside: np.ndarray | None = None,
    ) -> None:
        """Paint a polygon with the corners `points`, `(n, 2)` x and y in face units.

        The colour is sRGB in [0, 1]. `soft` is the standard deviation of the blur of the edge, in face units.
        `light` is a `(height, width)` factor on the colour, `inside` a `(height, width)` mask in [0, 1].
        """
        box, mask = self.mask(points, soft=soft)
        if mask.size == 0:
            return
        if inside is not None:
            mask = mask * inside[box]
        self.blend(box, mask * opacity, colour, light=light)

    def mask(self, points: np.ndarray, *, soft: float = 0.0) -> tuple[tuple[slice, slice], np.ndarray]:
        """Return the bounding box of a polygon and the share of each pixel that it covers, float32."""
        pixels = np.asarray(points, np.float64) * self.px_per_unit + self.centre_px
        blur = soft * self.px_per_unit
        margin = 2 + 3 * blur
        low = np.maximum(np.floor(pixels.min(axis=0) - margin), 0).astype(int)
        high = np.minimum(np.ceil(pixels.max(axis=0) + margin) + 1, self.alpha.shape[::-1]).astype(int)
        size = np.maximum(high - low, 0)
        box = (slice(low[1], low[1] + size[1]), slice(low[0], low[0] + size[0]))
        covered = np.zeros((size[1], size[0]), np.uint8)
        if covered.size:
            corners = np.round((pixels - low) * 2**_SHIFT).astype(np.int32)
            cv2.fillPoly(covered, [corners], 255, lineType=cv2.LINE_AA, shift=_SHIFT)
            if blur > 0.3:
                covered = cv2.GaussianBlur(covered, (0, 0), blur)
        return box, covered.astype(np.float32) / 255

    def blend(
        self,
        box: tuple[slice, slice],
        mask: np.ndarray,
        colour: np.ndarray | tuple[float, float, float],
        *,
        light: np.ndarray | None = None,
    ) -> None:
        """Blend a colour, or an image of colours, into a box of the image by `mask`."""
        over = np.asarray(colour, np.float32)
        if over.ndim == 3:
            over = over[box]
        if light is not None:
            over = over * light[box][..., None]
        part = self.colour[box]
        part += mask[..., None] * (over - part)
        covered = self.alpha[box]
        np.maximum(covered, mask, out=covered)


def palette_colour(tone: float, knots: np.ndarray, palette: np.ndarray) -> np.ndarray:
    """Return the colour of a tone, `(3,)` float32, between the colours `(n, 3)` at the knots `(n,)`."""
    return np.array([np.interp(tone, knots, palette[:, band]) for band in range(3)], np.float32)


def ellipse(x: float, y: float, half_width: float, half_height: float, n: int = 40) -> np.ndarray:
    """Return an ellipse as a polygon, `(n, 2)`."""
    angle = np.linspace(0, 2 * np.pi, n, endpoint=False)
    return np.column_stack([x + half_width * np.cos(angle), y + half_height * np.sin(angle)])


def between(x: np.ndarray, top: np.ndarray, bottom: np.ndarray) -> np.ndarray:
    """Return the area between two curves over `x` as a polygon, `(n, 2)`."""
    return np.concatenate([np.column_stack([x, top]), np.column_stack([x, bottom])[::-1]])


def mirrored(points: ArrayLike, side: int) -> np.ndarray:
    """Return the points for the right (+1) or left (-1) half of the face."""
    return np.asarray(points) * (side, 1)


def smooth_noise(rng: np.random.Generator, shape: tuple[int, int], cells: tuple[int, int]) -> np.ndarray:
    """Return float32 noise of deviation near 1 with about `cells` (rows, columns) bumps."""
    coarse = rng.standard_normal(cells).astype(np.float32)
    fine = cv2.resize(coarse, shape[::-1], interpolation=cv2.INTER_CUBIC)
    return fine / max(float(fine.std()), 1e-6)
