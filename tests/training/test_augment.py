"""Augmentation: what it changes, by how much, and that it hangs on seed, epoch and clip alone."""

from __future__ import annotations

import math

import pytest
import torch

from s2f_lib.config import AugmentationConfig
from s2f_lib.training.augment import (
    augment_audio,
    clip_keys,
    epoch_keys,
    mask_spectrogram,
    normal,
    uniform,
)

ALL = AugmentationConfig(random_crop=True, gain_db=6, noise_snr_db=(0, 20), time_masks=2, frequency_masks=2)
IDS = [f"clip{index:04d}" for index in range(64)]


def _audio(n: int = 64, samples: int = 3000) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(-3000, 3000, (n, samples), generator=generator, dtype=torch.int16)


def test_hash_is_splitmix64():
    # the first two outputs of the reference implementation seeded with 0, which adds the constant once first
    expected = [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4]
    got = uniform(torch.tensor([0]), torch.tensor([1, 2]))[0]
    assert got.tolist() == [(value >> 40) / 2**24 for value in expected]


def test_uniform_and_normal_numbers_are_spread_as_they_should():
    keys = epoch_keys(clip_keys(IDS), seed=0, epoch=0)
    u = uniform(keys, torch.arange(4000))
    assert 0 <= u.min() < 1e-4
    assert 1 - 1e-4 < u.max() < 1
    assert u.mean() == pytest.approx(0.5, abs=4 * math.sqrt(1 / 12 / u.numel()))
    z = normal(keys, size=4001, first=7)
    assert z.shape == (64, 4001)
    assert z.mean() == pytest.approx(0, abs=4 / math.sqrt(z.numel()))
    assert z.var() == pytest.approx(1, abs=4 * math.sqrt(2 / z.numel()))
    neighbours = (z[:, 1:] * z[:, :-1]).mean()
    assert neighbours == pytest.approx(0, abs=4 / math.sqrt(z.numel()))


def test_a_clip_is_changed_alike_in_any_batch_and_otherwise_in_another_epoch_or_seed():
    audio, keys = _audio(), clip_keys(IDS)

    def changed(rows: list[int], *, seed: int = 0, epoch: int = 0) -> torch.Tensor:
        those = epoch_keys(keys[rows], seed=seed, epoch=epoch)
        return augment_audio(audio[rows], those, ALL, n_samples=2000)

    whole = changed(list(range(64)))
    for row in (0, 13, 63):
        assert torch.equal(changed([row])[0], whole[row])
        assert torch.equal(changed([5, row, 9])[1], whole[row])
        assert not torch.equal(changed([row], epoch=1)[0], whole[row])
        assert not torch.equal(changed([row], seed=1)[0], whole[row])
    assert torch.equal(changed([3]), changed([3]))


def test_nothing_is_changed_by_default():
    audio, keys = _audio(), clip_keys(IDS)
    off = AugmentationConfig()
    assert not off.active
    assert torch.equal(augment_audio(audio, keys, off, n_samples=3000), audio)
    spectrogram = torch.randn(64, 2, 30, 20)
    assert torch.equal(mask_spectrogram(spectrogram, keys, off), spectrogram)


def test_crops_are_stretches_of_the_clip_and_reach_both_ends():
    audio = torch.arange(100, dtype=torch.int16).repeat(640, 1)
    keys = clip_keys([str(index) for index in range(640)])
    crops = augment_audio(audio, keys, AugmentationConfig(random_crop=True), n_samples=90)
    assert crops.dtype == torch.int16
    assert (crops.diff(dim=1) == 1).all()
    assert set(crops[:, 0].tolist()) == set(range(11))


def test_gain_and_noise_have_the_asked_levels():
    audio, keys = _audio(samples=20_000), clip_keys(IDS)
    plain = audio.float() / 32_768
    scaled = augment_audio(audio, keys, AugmentationConfig(gain_db=6), n_samples=20_000)
    gains_db = 20 * torch.log10(scaled.norm(dim=1) / plain.norm(dim=1))
    assert gains_db.abs().max() <= 6.001
    assert gains_db.min() < -4
    assert gains_db.max() > 4
    noisy = augment_audio(audio, keys, AugmentationConfig(noise_snr_db=(10, 10)), n_samples=20_000)
    snr_db = 20 * torch.log10(plain.norm(dim=1) / (noisy - plain).norm(dim=1))
    torch.testing.assert_close(snr_db, torch.full((64,), 10.0), atol=0.2, rtol=0)


def test_masks_are_whole_bands_no_wider_than_asked():
    keys = clip_keys(IDS)
    config = AugmentationConfig(time_masks=1, time_mask_frames=5)
    masked = mask_spectrogram(torch.ones(64, 2, 30, 20), keys, config)
    hidden = masked == 0
    assert (hidden.any(dim=(1, 3)) == hidden.all(dim=(1, 3))).all()  # all bins of a frame, or none
    lengths = hidden[:, 0, :, 0].sum(dim=1)
    assert set(lengths.tolist()) == {0, 1, 2, 3, 4, 5}
    edges = hidden[:, 0, :, 0].int().diff(dim=1).abs().sum(dim=1)
    assert edges.max() <= 2  # one stretch
    bands = mask_spectrogram(torch.ones(64, 2, 30, 20), keys, AugmentationConfig(frequency_masks=2))
    assert (bands[:, :, 0] == bands[:, :, 29]).all()  # all frames alike
    assert (bands == 0).any()
