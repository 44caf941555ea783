"""The report's decoder: input follows the extractor, output is an image."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from s2f_lib.models.face_decoder import DEBUG_DECODER, FaceDecoder


@pytest.mark.parametrize("dimension", [128, 4096])
def test_image_from_features_of_any_dimension(dimension):
    decoder = FaceDecoder(DEBUG_DECODER, feature_dimension=dimension)
    images = decoder(torch.randn(2, dimension))
    assert images.shape == (2, 3, 224, 224)
    assert images.min() >= 0
    assert images.max() <= 1


def test_four_transposed_convolutions_each_doubling_the_size():
    decoder = FaceDecoder(DEBUG_DECODER, feature_dimension=128)
    layers = [m for m in decoder.modules() if isinstance(m, nn.ConvTranspose2d)]
    assert len(layers) == 4
    maps = torch.zeros(1, layers[0].in_channels, 14, 14)
    for layer in layers:
        size = maps.shape[-1]
        maps = layer(maps)
        assert maps.shape[-1] == 2 * size


def test_the_length_of_the_features_does_not_matter():
    decoder = FaceDecoder(DEBUG_DECODER, feature_dimension=16).eval()
    features = torch.randn(2, 16)
    torch.testing.assert_close(decoder(features), decoder(7 * features), rtol=1e-4, atol=1e-5)
