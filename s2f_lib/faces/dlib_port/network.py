"""dlib's face detection network in torch: image pyramid in, map of scores out.

The network is a fully convolutional one: three 5x5 convolutions of stride 2
without padding (16, 32, 32 filters), three 5x5 ones of stride 1 (45 filters), each with
a rectifier, and one 9x9 convolution that scores each place (max-margin object
detection, arXiv:1502.00046).  Its weights come from dlib's file, with the
normalisation folded in, so the sizes above are only what that file holds.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from s2f_lib.faces.dlib_port.pyramid import PyramidLayout
from s2f_lib.faces.dlib_port.serialization import ConvolutionWeights, MmodWeights


class MmodNetwork(nn.Module):
    """The convolutions of dlib's detector.

    Parameters
    ----------
    weights
        What `dlib_serialization.read_mmod_weights` returned.
    feature_dtype
        Of all layers but the last.  Scores are always float32: of two neighbouring
        places, the better one is often better by less than bfloat16 can tell.
    """

    def __init__(self, weights: MmodWeights, *, feature_dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        *inner, last = weights.layers
        modules: list[nn.Module] = []
        for layer in inner:
            modules.append(_convolution(layer))
            if layer.relu:
                modules.append(nn.ReLU(inplace=True))
        self.features = nn.Sequential(*modules).to(feature_dtype)
        self.score = _convolution(last)
        self.feature_dtype = feature_dtype
        self.register_buffer("mean_rgb", torch.tensor(weights.mean_rgb).reshape(1, 3, 1, 1), persistent=False)
        # a cell of the scores is the image pixel `cell * step + offset` (con_::map_output_to_input)
        self.step_px = 1
        self.offset_px = 0
        self._geometry = [(layer.weight.shape[-1], layer.stride, layer.padding) for layer in weights.layers]
        for kernel, stride, padding in reversed(self._geometry):
            self.offset_px = self.offset_px * stride - padding + kernel // 2
            self.step_px *= stride

    def forward(self, canvas: torch.Tensor) -> torch.Tensor:
        """Score each place of the canvas.

        Parameters
        ----------
        canvas
            (batch, 3, height, width), of `draw_canvas`.

        Returns
        -------
        (batch, rows, columns) float32 torch.Tensor
            Above 0 where dlib reports a face.
        """
        return self.score(self.features(canvas).float()).squeeze(1)

    def reaches(self, layout: PyramidLayout) -> bool:
        """Return whether the canvas is large enough for one cell of scores."""
        sizes = [layout.height, layout.width]
        for kernel, stride, padding in self._geometry:
            if min(sizes) + 2 * padding < kernel:
                return False
            sizes = [(size + 2 * padding - kernel) // stride + 1 for size in sizes]
        return True

    def draw_canvas(self, frames: torch.Tensor, layout: PyramidLayout) -> torch.Tensor:
        """Draw frames of one size, and all smaller sizes of them, on their canvases.

        Parameters
        ----------
        frames
            (batch, height, width, 3) uint8, RGB, on the network's device.
        layout
            Of frames of this size.

        Returns
        -------
        (batch, 3, layout.height, layout.width) torch.Tensor
            Channels last; the mean colour is 0, as is the space between the tiles.
        """
        # a permuted (batch, height, width, 3) array is channels-last already: nothing is copied
        level = (frames.permute(0, 3, 1, 2).float() - self.mean_rgb) / 256  # (batch, 3, height, width)
        canvas = torch.zeros(
            (len(frames), 3, layout.height, layout.width), device=frames.device, dtype=self.feature_dtype
        ).contiguous(memory_format=torch.channels_last)
        for index, tile in enumerate(layout.tiles):
            if index:
                # from the level before, corner pixels on corner pixels (dlib's resize_image)
                size = (tile.height, tile.width)
                level = functional.interpolate(level, size, mode="bilinear", align_corners=True)
            rows, columns = slice(tile.top, tile.bottom + 1), slice(tile.left, tile.right + 1)
            canvas[:, :, rows, columns] = level
        return canvas


def _convolution(layer: ConvolutionWeights) -> nn.Conv2d:
    filters, channels, kernel, _ = layer.weight.shape
    module = nn.Conv2d(channels, filters, kernel, stride=layer.stride, padding=layer.padding)
    with torch.no_grad():
        module.weight.copy_(torch.tensor(layer.weight))
        module.bias.copy_(torch.tensor(layer.bias))
    return module.requires_grad_(False)
