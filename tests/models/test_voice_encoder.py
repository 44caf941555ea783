"""The report's encoder: sizes, counts, and refused settings."""

from __future__ import annotations

import pytest
import torch

from s2f_lib.config import MIN_BINS, MIN_FRAMES, SpectrogramConfig, VoiceEncoderConfig
from s2f_lib.errors import ConfigError
from s2f_lib.models.layers import TimeMaxPool
from s2f_lib.models.voice_encoder import (
    DEBUG_ENCODER,
    VoiceEncoder,
    count_parameters,
    encoder_output_size,
    summarize,
)

SHORT = SpectrogramConfig(duration_s=3.0, max_frequency_hz=4000)


@pytest.mark.parametrize(
    ("bins", "count"), [(1, 30_622_464), (8, 45_302_528), (9, 47_399_680), (57, 148_062_976)]
)
def test_parameter_counts_follow_report_table(bins, count):
    """The report's 46,593,664 lies between N=8 and N=9, so its table cannot give it."""
    with torch.device("meta"):
        encoder = VoiceEncoder(VoiceEncoderConfig(frequency_bins=bins), feature_dimension=4096)
    assert count_parameters(encoder) == count == 28_525_312 + 2_097_152 * bins
    assert count != 46_593_664


def test_summarize_sizes_are_those_of_report_table():
    assert encoder_output_size(598, 257) == (6, 57)
    with torch.device("meta"):
        encoder = VoiceEncoder(VoiceEncoderConfig(), feature_dimension=4096)
    rows = summarize(encoder.to_empty(device="meta"), SpectrogramConfig())
    sizes = [row.output.split(" x ", 1)[1] for row in rows if row.layer in {"Conv2d", "TimeMaxPool"}]
    assert sizes == [
        "595 x 254", "592 x 251", "589 x 248", "294 x 248", "291 x 245", "145 x 245", "142 x 242", "71 x 242",
        "68 x 239", "34 x 239", "31 x 236", "14 x 117", "6 x 57",
    ]  # fmt: skip
    assert sum(row.parameters for row in rows) == count_parameters(encoder)
    first = rows[0]  # 4x4 kernel over 2 channels, one multiplication and one addition each
    assert first.mega_flops == pytest.approx(595 * 254 * 64 * 2 * 16 * 2 / 1e6)


def test_encoder_gradients_reach_every_parameter():
    encoder = VoiceEncoder(DEBUG_ENCODER, feature_dimension=128, spectrogram=SHORT)
    features = encoder(torch.randn(4, 2, 298, 129))
    assert features.shape == (4, 128)
    features.square().sum().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in encoder.parameters())


def test_encoder_in_evaluation_ignores_rest_of_batch():
    encoder = VoiceEncoder(DEBUG_ENCODER, feature_dimension=16, spectrogram=SHORT).eval()
    batch = torch.randn(3, 2, 298, 129)
    with torch.no_grad():
        torch.testing.assert_close(encoder(batch)[1:2], encoder(batch[1:2]), rtol=1e-4, atol=1e-5)


def test_encoder_output_size_too_small_is_refused():
    assert encoder_output_size(MIN_FRAMES, MIN_BINS) == (1, 1)
    with pytest.raises(ConfigError, match="use at least 259 frames and 31 bins"):
        encoder_output_size(MIN_FRAMES - 1, MIN_BINS)
    with pytest.raises(ConfigError, match="too small"):
        encoder_output_size(MIN_FRAMES, MIN_BINS - 1)


def test_encoder_more_bins_than_map_is_refused():
    with pytest.raises(ConfigError, match=r"frequency_bins is 57, .* leaves 25 bins: choose at most 25"):
        VoiceEncoder(VoiceEncoderConfig(frequency_bins=57), feature_dimension=8, spectrogram=SHORT)


def test_face_axes_fixed_map_follows_spread_of_faces():
    plain = VoiceEncoder(DEBUG_ENCODER, feature_dimension=3, spectrogram=SHORT)
    config = DEBUG_ENCODER.with_(face_axes=True)
    encoder = VoiceEncoder(config, feature_dimension=3, spectrogram=SHORT)
    assert count_parameters(encoder) == count_parameters(plain)
    # variances 16, 1 and 0, of mean 17/3: lengths are (variance * mean)^(1/4)
    encoder.face_axes.fit(torch.tensor([0.0, 0.0, 5.0]), torch.diag(torch.tensor([16.0, 1.0, 0.0])))
    moved = encoder.face_axes(torch.eye(3)) - torch.tensor([0.0, 0.0, 5.0])
    lengths = sorted(moved.norm(dim=1).tolist())
    assert lengths == pytest.approx([0.0, (17 / 3) ** 0.25, (16 * 17 / 3) ** 0.25], abs=1e-5)
    # a file of weights contains its axes
    state = encoder.state_dict()
    assert {"face_axes.mean", "face_axes.axes"} <= set(state)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("frames", [8, 9])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_time_max_pool_equals_torchs_own(dtype, frames, layout):
    maps = torch.randn(2, 3, frames, 5, generator=torch.Generator().manual_seed(0))
    maps = maps.relu().to(dtype).to(memory_format=layout)  # has ties
    upstream = torch.randn(2, 3, frames // 2, 5, generator=torch.Generator().manual_seed(1)).to(dtype)
    ours, torchs = maps.clone().requires_grad_(), maps.clone().requires_grad_()
    pooled, expected = TimeMaxPool()(ours), torch.nn.functional.max_pool2d(torchs, kernel_size=(2, 1))
    upstream = upstream.to(memory_format=layout)
    (gradient,) = torch.autograd.grad(pooled, ours, upstream)
    expected.backward(upstream)
    assert torch.equal(pooled, expected)
    assert torch.equal(gradient, torchs.grad)
    assert pooled.is_contiguous(memory_format=layout)
    assert gradient.is_contiguous(memory_format=layout)
