"""dlib's face detection network and its image pyramid in torch.

The network is fully convolutional: three 5x5 convolutions of stride 2 without padding (16, 32, 32 filters),
three 5x5 convolutions of stride 1 (45 filters), each with a rectifier, and one 9x9 convolution that gives a
score for each position (max-margin object detection, arXiv:1502.00046).

It finds faces of one size, so the image is shrunk by 5/6 again and again, and all sizes are laid on one
canvas: a first column downwards, then back upwards where there is room on the right. The layout and the way
back from the canvas to the image are those of dlib (`compute_tiled_image_pyramid_details` and
`tiled_pyramid_to_image` in dlib/image_transforms/image_pyramid.h of dlib 20), so the network sees the same
neighbourhoods as in dlib.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from s2f_lib.faces.dlib_port.weights import LayerWeights, MmodWeights

_STEPS = 6  # pyramid_down<6>: each level has 5/6 of the size of the level before
_SHRINK = (_STEPS - 1) / _STEPS
_SHIFT_PX = 0.3  # pyramid_down::point_up
_MIN_HEIGHT_PX = 5  # levels with fewer rows are left out


@dataclass(frozen=True, slots=True)
class Tile:
    """Position of one level of the pyramid, in pixels of the canvas."""

    left: int
    top: int
    width: int
    height: int

    @property
    def right(self) -> int:
        """Last column of the tile."""
        return self.left + self.width - 1

    @property
    def bottom(self) -> int:
        """Last row of the tile."""
        return self.top + self.height - 1

    def overlaps(self, other: Tile) -> bool:
        """Return whether two tiles share a pixel."""
        columns = self.left <= other.right and other.left <= self.right
        return columns and self.top <= other.bottom and other.top <= self.bottom


@dataclass(frozen=True)
class PyramidLayout:
    """Layout of the canvas for images of one size."""

    width: int  # canvas width in pixels
    height: int
    tiles: tuple[Tile, ...]  # one per level, the largest first: level 0 is the image itself

    def nearest_tile(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Return the level, `(n,)` int64, that contains each point of the canvas or is nearest to it."""
        left, top, right, bottom = np.array(
            [(tile.left, tile.top, tile.right, tile.bottom) for tile in self.tiles]
        ).T
        dx = x[:, None] - np.clip(x[:, None], left, right)  # (n, tiles)
        dy = y[:, None] - np.clip(y[:, None], top, bottom)
        return np.argmin(dx * dx + dy * dy, axis=1)

    def boxes_to_image(self, centres: np.ndarray, width_px: float, height_px: float) -> np.ndarray:
        """Return boxes of one size around points of the canvas, `(n, 2)` x and y in pixels.

        The boxes are `(n, 4)` float64: left, top, right, bottom in pixels of the image, not rounded.
        """
        centres = np.asarray(centres, dtype=np.float64).reshape(-1, 2)
        level = self.nearest_tile(centres[:, 0], centres[:, 1])
        origin = np.array([(tile.left, tile.top) for tile in self.tiles], dtype=np.float64)[level]
        half = np.array([width_px - 1, height_px - 1]) / 2
        corners = np.concatenate([centres - origin - half, centres - origin + half], axis=1)
        # one level up is p / shrink + shift; the shifts of several levels add up to a geometric series
        grow = (1 / _SHRINK) ** level[:, None]
        return corners * grow + _SHIFT_PX * (grow - 1) / (1 / _SHRINK - 1)


@lru_cache(maxsize=64)
def pyramid_layout(width: int, height: int, *, padding: int = 10, outer_padding: int = 11) -> PyramidLayout:
    """Lay out the pyramid of an image, with empty pixels between the tiles and around all of them."""
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
    # back upwards along the right edge, until a tile would overlap the image itself
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
    """Return the height at which the first column ends because the other levels fit on its right."""
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


class MmodNetwork(nn.Module):
    """The convolutions of dlib's detector.

    `feature_dtype` is the type of all layers except the last one. Scores are always float32, because the best
    of two neighbouring positions is often better by less than the resolution of bfloat16.
    """

    mean_rgb: Tensor

    def __init__(self, weights: MmodWeights, *, feature_dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        *inner, last = weights.layers
        modules: list[nn.Module] = []
        for layer in inner:
            modules.append(make_convolution(layer))
            if layer.relu:
                modules.append(nn.ReLU(inplace=True))
        self.features = nn.Sequential(*modules).to(feature_dtype)
        self.score = make_convolution(last)
        self.feature_dtype = feature_dtype
        self.register_buffer("mean_rgb", torch.tensor(weights.mean_rgb).reshape(1, 3, 1, 1), persistent=False)
        # a cell of the score map is the image pixel `cell * step + offset` (con_::map_output_to_input)
        self.step_px = 1
        self.offset_px = 0
        self._geometry = [(layer.window, layer.stride, layer.padding) for layer in weights.layers]
        for window, stride, padding in reversed(self._geometry):
            self.offset_px = self.offset_px * stride - padding + window // 2
            self.step_px *= stride

    def forward(self, canvas: Tensor) -> Tensor:
        """Return the scores, `(batch, rows, columns)` float32, of the canvas that `make_canvas` returned."""
        return self.score(self.features(canvas).float()).squeeze(1)

    def fits(self, layout: PyramidLayout) -> bool:
        """Return whether the canvas is large enough for one cell of scores."""
        sizes = [layout.height, layout.width]
        for window, stride, padding in self._geometry:
            if min(sizes) + 2 * padding < window:
                return False
            sizes = [(size + 2 * padding - window) // stride + 1 for size in sizes]
        return True

    def make_canvas(self, frames: Tensor, layout: PyramidLayout) -> Tensor:
        """Return the image pyramids of frames, `(batch, height, width, 3)` uint8 RGB on the network's device.

        The canvas is `(batch, 3, layout.height, layout.width)`, channels last; the mean colour and the space
        between the tiles are 0.
        """
        # a permuted (batch, height, width, 3) array is channels-last already: nothing is copied
        level = (frames.permute(0, 3, 1, 2).float() - self.mean_rgb) / 256  # (batch, 3, height, width)
        canvas = torch.zeros(
            (len(frames), 3, layout.height, layout.width), device=frames.device, dtype=self.feature_dtype
        ).contiguous(memory_format=torch.channels_last)
        for index, tile in enumerate(layout.tiles):
            if index:
                # corner pixels on the corner pixels of the level before (dlib's resize_image)
                size = (tile.height, tile.width)
                level = functional.interpolate(level, size, mode="bilinear", align_corners=True)
            rows, columns = slice(tile.top, tile.bottom + 1), slice(tile.left, tile.right + 1)
            canvas[:, :, rows, columns] = level
        return canvas


def make_convolution(layer: LayerWeights) -> nn.Conv2d:
    """Return a frozen convolution with the weights of a layer."""
    filters, channels, window, _ = layer.weight.shape
    module = nn.Conv2d(channels, filters, window, stride=layer.stride, padding=layer.padding)
    module.weight = nn.Parameter(torch.from_numpy(layer.weight.copy()))
    module.bias = nn.Parameter(torch.from_numpy(layer.bias.copy()))
    return module.requires_grad_(False)
