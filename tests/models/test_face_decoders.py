"""The face decoders: their input follows the extractor, their output is an image."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from s2f_lib.config import FaceDecoderConfig
from s2f_lib.models.face_decoders import (
    DEBUG_DECODER,
    DEBUG_RESIDUAL,
    FaceDecoder,
    ResidualDecoder,
    make_decoder,
)

DEBUG = pytest.mark.parametrize("config", [DEBUG_DECODER, DEBUG_RESIDUAL], ids=["report", "residual"])


@DEBUG
@pytest.mark.parametrize("dimension", [128, 4096])
def test_decoder_any_feature_dimension_gives_image(config, dimension):
    images = make_decoder(config, feature_dimension=dimension)(torch.randn(2, dimension))
    assert images.shape == (2, 3, 224, 224)
    assert 0 <= images.min() < images.max() <= 1


@DEBUG
def test_decoder_length_of_features_does_not_matter(config):
    decoder = make_decoder(config, feature_dimension=16).eval()
    features = torch.randn(2, 16)
    torch.testing.assert_close(decoder(features), decoder(7 * features), rtol=1e-4, atol=1e-5)


def test_face_decoder_each_of_four_convolutions_doubles_size():
    decoder = FaceDecoder(DEBUG_DECODER, feature_dimension=128)
    layers = [m for m in decoder.modules() if isinstance(m, nn.ConvTranspose2d)]
    assert len(layers) == 4
    maps = torch.zeros(1, layers[0].in_channels, 14, 14)
    for layer in layers:
        size = maps.shape[-1]
        maps = layer(maps)
        assert maps.shape[-1] == 2 * size


def test_residual_decoder_features_steer_every_norm():
    decoder = ResidualDecoder(DEBUG_RESIDUAL, feature_dimension=16)
    decoder(torch.randn(4, 16)).square().mean().backward()
    steers = {name: p.grad for name, p in decoder.named_parameters() if "steer.weight" in name}
    assert len(steers) == 9  # two in each of four blocks, and the last
    assert all(gradient.abs().sum() > 0 for gradient in steers.values())


def test_residual_decoder_last_bias_is_colour():
    decoder = ResidualDecoder(DEBUG_RESIDUAL, feature_dimension=16).eval()
    with torch.no_grad():
        decoder.to_pixels.weight.zero_()
        decoder.colour_bias().copy_(torch.logit(torch.tensor([0.2, 0.5, 0.8]))[:, None])
        image = decoder(torch.randn(1, 16))[0]
    for channel, value in enumerate((0.2, 0.5, 0.8)):
        torch.testing.assert_close(image[channel], torch.full((224, 224), value))


def test_decoder_config_unknown_kind_is_refused():
    with pytest.raises(ValueError, match="unknown name 'gan' - known: report, residual"):
        FaceDecoderConfig(kind="gan")
