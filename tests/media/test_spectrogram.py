"""The complex spectrogram against librosa's primitives and against values computed by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from s2f_lib.config import SpectrogramConfig
from s2f_lib.errors import InputError
from s2f_lib.media.spectrogram import complex_spectrogram
from tests.media.reference_spectrogram import complex_spectrogram_librosa

SIX_S = SpectrogramConfig()
THREE_S = SpectrogramConfig(duration_s=3.0, max_frequency_hz=4_000.0)


def _signals() -> dict[str, np.ndarray]:
    generator = np.random.default_rng(0)
    n = np.arange(96_000)
    impulse = np.zeros(96_000, np.int16)
    impulse[1_000] = 32_767
    half_silent = (generator.standard_normal(96_000) * 3_000).astype(np.int16)
    half_silent[40_000:] = 0
    return {
        "noise": (generator.standard_normal(96_000) * 8_000).clip(-32_768, 32_767).astype(np.int16),
        "sine": np.round(20_000 * np.sin(2 * np.pi * 1_000 * n / 16_000)).astype(np.int16),
        "constant": np.full(96_000, 12_345, np.int16),  # many bins are zero, except for rounding
        "impulse": impulse,
        "half silent": half_silent,
        "loud": np.full(96_000, -32_768, np.int16),
        "short": (generator.standard_normal(30_000) * 500).astype(np.int16),
        "float": generator.uniform(-1, 1, 96_000).astype(np.float32),
    }


@pytest.mark.parametrize("name", _signals())
@pytest.mark.parametrize("config", [SIX_S, THREE_S], ids=["6 s", "3 s"])
def test_complex_spectrogram_equals_librosa(name, config):
    audio = _signals()[name]
    reference = complex_spectrogram_librosa(audio, config)
    computed = complex_spectrogram(torch.from_numpy(audio)[None], config)[0].numpy()
    assert np.abs(reference).max() > 0.1
    np.testing.assert_allclose(computed, reference, rtol=0, atol=1e-5)


def test_reference_on_noise_is_the_plain_power_law():
    audio = _signals()["noise"]
    scaled = audio / 32_768
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(400) / 400)  # periodic Hann
    for frame in (0, 300, 597):
        spectrum = np.fft.rfft(scaled[160 * frame : 160 * frame + 400] * window, 512)
        parts = np.stack([spectrum.real, spectrum.imag])
        expected = np.sign(parts) * np.abs(parts) ** 0.3
        np.testing.assert_allclose(complex_spectrogram_librosa(audio, SIX_S)[:, frame], expected, atol=1e-5)


def test_complex_spectrogram_shapes():
    assert complex_spectrogram(torch.ones(2, 96_000, dtype=torch.int16), SIX_S).shape == (2, 2, 598, 257)
    assert complex_spectrogram(torch.ones(3, 96_000, dtype=torch.int16), THREE_S).shape == (3, 2, 298, 129)
    assert complex_spectrogram(torch.ones(1, 48_000), SIX_S).dtype == torch.float32


def test_complex_spectrogram_impulse_by_hand():
    # sample 200 of the audio is sample 200 of frame 0 and sample 40 of frame 1
    audio = np.zeros(96_000, np.int16)
    audio[200] = 16_384  # 0.5 of full scale
    spectrogram = complex_spectrogram(torch.from_numpy(audio)[None], SIX_S)[0]
    # frame 0: window(200) = 1, so X[k] = 0.5 exp(-2 pi i 200 k / 512): X[0] = 0.5,
    # X[16] = 0.5 exp(-12.5 pi i) = -0.5i; zeros before the window would give another phase
    assert spectrogram[0, 0, 0] == pytest.approx(0.5**0.3, abs=1e-6)
    assert spectrogram[1, 0, 0] == 0
    assert spectrogram[0, 0, 16] == pytest.approx(0, abs=1e-5)
    assert spectrogram[1, 0, 16] == pytest.approx(-(0.5**0.3), abs=1e-6)
    # frame 1: window(40) = (1 - cos(0.2 pi)) / 2
    assert spectrogram[0, 1, 0] == pytest.approx((0.25 * (1 - np.cos(0.2 * np.pi))) ** 0.3, abs=1e-6)
    assert (spectrogram[:, 2:] == 0).all()


def test_complex_spectrogram_repeats_short_and_cuts_long():
    short = torch.from_numpy(_signals()["short"])[None]
    repeated = torch.from_numpy(np.resize(_signals()["short"], 96_000))[None]
    torch.testing.assert_close(complex_spectrogram(short, SIX_S), complex_spectrogram(repeated, SIX_S))
    noise = torch.from_numpy(_signals()["noise"])[None]
    torch.testing.assert_close(
        complex_spectrogram(noise, THREE_S), complex_spectrogram(noise[:, :48_000], THREE_S)
    )


def test_complex_spectrogram_batch_equals_single_clips():
    noise = torch.from_numpy(_signals()["noise"])
    batch = torch.stack([noise, noise.flip(0)])
    both = complex_spectrogram(batch, THREE_S)
    torch.testing.assert_close(both[1:], complex_spectrogram(batch[1:], THREE_S), rtol=0, atol=0)
    torch.testing.assert_close(both, complex_spectrogram(batch.double() / 32_768, THREE_S), rtol=0, atol=0)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_complex_spectrogram_on_gpu_equals_cpu():
    audio = torch.from_numpy(_signals()["noise"])[None]
    on_gpu = complex_spectrogram(audio.cuda(), SIX_S).cpu()
    torch.testing.assert_close(on_gpu, complex_spectrogram(audio, SIX_S), rtol=0, atol=1e-5)


def test_complex_spectrogram_takes_numpy_and_names_bad_audio():
    audio = np.random.default_rng(0).uniform(-1, 1, (2, 8_000))
    config = SpectrogramConfig(duration_s=0.5)
    expected = complex_spectrogram(torch.from_numpy(audio), config)
    torch.testing.assert_close(complex_spectrogram(audio, config), expected, rtol=0, atol=0)
    for bad, message in (
        (audio[0], r"audio has the shape \(8000,\): expected \(n, samples\)"),
        (audio[:, :0], r"audio has the shape \(2, 0\)"),
        (audio.astype(np.int32), "audio is int32: expected int16, or floating point"),
    ):
        with pytest.raises(InputError, match=message):
            complex_spectrogram(bad, config)
