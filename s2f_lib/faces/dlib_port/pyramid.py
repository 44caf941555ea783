"""dlib's tiled image pyramid: where each size of the image lies on one canvas.

The network looks for faces of one size, so the image is shrunk again and again
by 5/6, and all sizes are laid on one canvas which the network sees at once:
a first column downwards, then back upwards where there is room on its right.
The layout, and the way back from the canvas to the image, are dlib's
(`compute_tiled_image_pyramid_details`, `tiled_pyramid_to_image` in
dlib/image_transforms/image_pyramid.h of dlib 20), so that the network sees the
very same neighbourhoods and boxes come out the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

_STEPS = 6  # pyramid_down<6>: each level is 5/6 of the one before
_SHRINK = (_STEPS - 1) / _STEPS
_SHIFT_PX = 0.3  # pyramid_down::point_up
_MIN_HEIGHT_PX = 5  # a level with fewer rows is left out


@dataclass(frozen=True, slots=True)
class Tile:
    """One level of the pyramid, in pixels of the canvas."""

    left: int
    top: int
    width: int
    height: int

    @property
    def right(self) -> int:
        """The last column that belongs to the tile."""
        return self.left + self.width - 1

    @property
    def bottom(self) -> int:
        """The last row that belongs to the tile."""
        return self.top + self.height - 1

    def overlaps(self, other: Tile) -> bool:
        """Return whether two tiles share a pixel."""
        return (
            self.left <= other.right
            and other.left <= self.right
            and self.top <= other.bottom
            and other.top <= self.bottom
        )


@dataclass(frozen=True)
class PyramidLayout:
    """The canvas of images of one size.

    Attributes
    ----------
    width, height
        Of the canvas, in pixels.
    tiles
        One a level, the largest first: level 0 is the image itself.
    """

    width: int
    height: int
    tiles: tuple[Tile, ...]

    def nearest_tile(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Return the level that each point of the canvas belongs to.

        Parameters
        ----------
        x, y
            (n,) in pixels of the canvas.

        Returns
        -------
        (n,) int64
            The first tile that holds the point, or else the nearest one.
        """
        left, top, right, bottom = np.array(
            [(tile.left, tile.top, tile.right, tile.bottom) for tile in self.tiles]
        ).T
        dx = x[:, None] - np.clip(x[:, None], left, right)  # (n, tiles)
        dy = y[:, None] - np.clip(y[:, None], top, bottom)
        return np.argmin(dx * dx + dy * dy, axis=1)

    def boxes_to_image(self, centres: np.ndarray, width_px: float, height_px: float) -> np.ndarray:
        """Return boxes around points of the canvas, in pixels of the image.

        Parameters
        ----------
        centres
            (n, 2) x and y, in pixels of the canvas.
        width_px, height_px
            Of each box on the canvas, both edges counted.

        Returns
        -------
        (n, 4) float64
            Left, top, right, bottom in pixels of the image, not rounded.
        """
        centres = np.asarray(centres, dtype=np.float64).reshape(-1, 2)
        level = self.nearest_tile(centres[:, 0], centres[:, 1])
        origin = np.array([(tile.left, tile.top) for tile in self.tiles], dtype=np.float64)[level]
        half = np.array([width_px - 1, height_px - 1]) / 2
        corners = np.concatenate([centres - origin - half, centres - origin + half], axis=1)
        # one level up is p / shrink + shift; after `level` levels, the shifts add up as a geometric series
        grow = (1 / _SHRINK) ** level[:, None]
        return corners * grow + _SHIFT_PX * (grow - 1) / (1 / _SHRINK - 1)


@lru_cache(maxsize=64)
def pyramid_layout(width: int, height: int, *, padding: int = 10, outer_padding: int = 11) -> PyramidLayout:
    """Lay out the pyramid of an image.

    Parameters
    ----------
    width, height
        Of the image, in pixels.
    padding
        Empty pixels between tiles.
    outer_padding
        Empty pixels around all tiles.
    """
    sizes = _level_sizes(width, height)
    column_height = _first_column_height(sizes, padding)
    tiles: list[Tile] = []
    y = outer_padding
    for tile_width, tile_height in sizes:
        if y >= column_height + outer_padding:
            break
        tiles.append(Tile(outer_padding, y, tile_width, tile_height))
        y += tile_height + padding
    y -= padding
    # back upwards along the right edge, until a tile would touch the image itself
    for tile_width, tile_height in sizes[len(tiles) :]:
        tile = Tile(outer_padding + width - tile_width, y - tile_height, tile_width, tile_height)
        if tile.overlaps(tiles[0]):
            break
        tiles.append(tile)
        y -= tile_height + padding
    return PyramidLayout(width + 2 * outer_padding, column_height + 2 * outer_padding, tuple(tiles))


def _level_sizes(width: int, height: int) -> list[tuple[int, int]]:
    """Return width and height of each level, the image first."""
    sizes = [(width, height)]
    while True:
        width, height = int(_SHRINK * width), int(_SHRINK * height)
        if width == 0 or height < _MIN_HEIGHT_PX:
            return sizes
        sizes.append((width, height))


def _first_column_height(sizes: list[tuple[int, int]], padding: int) -> int:
    """Return where the first column ends: where the rest fits beside it, from below up to the image."""
    image_width, image_height = sizes[0]
    total = sum(height + padding for _, height in sizes) - 2 * padding
    column = previous_width = 0
    for width, height in sizes:
        fits_next_to = width <= image_width - previous_width - padding
        if fits_next_to and (column - image_height) * 2 >= total - image_height:
            break
        column += height + padding
        previous_width = width
    return column - padding
