"""The residual decoder: the report's input and output, steered by the features at every size."""

from __future__ import annotations

import pytest
import torch

from s2f_lib.config import FaceDecoderConfig
from s2f_lib.models.decoders import PatchDiscriminator, make_decoder
from s2f_lib.models.residual_decoder import DEBUG_RESIDUAL, ResidualDecoder


@pytest.mark.parametrize("kind", ["report", "residual"])
@pytest.mark.parametrize("dimension", [128, 4096])
def test_both_kinds_take_and_give_the_same(kind, dimension):
    config = DEBUG_RESIDUAL.model_copy(update={"kind": kind, "width": 1 / 8, "base_channels": 32})
    images = make_decoder(config, feature_dimension=dimension)(torch.randn(2, dimension))
    assert images.shape == (2, 3, 224, 224)
    assert 0 <= images.min() < images.max() <= 1


def test_the_length_of_the_features_does_not_matter():
    decoder = ResidualDecoder(DEBUG_RESIDUAL, feature_dimension=16).eval()
    features = torch.randn(2, 16)
    torch.testing.assert_close(decoder(features), decoder(7 * features), rtol=1e-4, atol=1e-5)


def test_the_features_steer_every_size():
    decoder = ResidualDecoder(DEBUG_RESIDUAL, feature_dimension=16)
    decoder(torch.randn(4, 16)).square().mean().backward()
    steers = {name: p.grad for name, p in decoder.named_parameters() if "steer.weight" in name}
    assert len(steers) == 9  # two in each of four blocks, and the last
    assert all(gradient.abs().sum() > 0 for gradient in steers.values())


def test_the_last_bias_is_a_colour():
    decoder = ResidualDecoder(DEBUG_RESIDUAL, feature_dimension=16).eval()
    with torch.no_grad():
        decoder.to_pixels.weight.zero_()
        decoder.colour_bias().copy_(torch.logit(torch.tensor([0.2, 0.5, 0.8]))[:, None])
        image = decoder(torch.randn(1, 16))[0]
    for channel, value in enumerate((0.2, 0.5, 0.8)):
        torch.testing.assert_close(image[channel], torch.full((224, 224), value))


def test_an_unknown_kind_is_refused():
    with pytest.raises(ValueError, match=r"'report' or 'residual'"):
        FaceDecoderConfig(kind="gan")


def test_the_judge_scores_patches():
    assert PatchDiscriminator(4)(torch.rand(2, 3, 112, 112)).shape == (2, 1, 14, 14)
