"""Augmentation: what it changes, by how much, and that it depends only on seed, epoch and clip."""

from __future__ import annotations

import math

import pytest
import torch

from s2f_lib.config import AugmentationConfig
from s2f_lib.training.augment import augment_audio, clip_keys, epoch_keys, uniform

ALL = AugmentationConfig(random_crop=True, gain_db=6)
IDS = [f"clip{index:04d}" for index in range(64)]


def _audio(n: int = 64, samples: int = 3000) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(-3000, 3000, (n, samples), generator=generator, dtype=torch.int16)


def test_uniform_hash_is_splitmix64():
    # the first two outputs of the reference implementation seeded with 0, which adds the constant once first
    expected = [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4]
    got = uniform(torch.tensor([0]), torch.tensor([1, 2]))[0]
    assert got.tolist() == [(value >> 40) / 2**24 for value in expected]


def test_uniform_numbers_are_uniform():
    keys = epoch_keys(clip_keys(IDS), seed=0, epoch=0)
    u = uniform(keys, torch.arange(4000))
    assert 0 <= u.min() < 1e-4
    assert 1 - 1e-4 < u.max() < 1
    assert u.mean() == pytest.approx(0.5, abs=4 * math.sqrt(1 / 12 / u.numel()))
    z = (u - 0.5) * math.sqrt(12)  # variance 1
    assert z.var() == pytest.approx(1, abs=4 * math.sqrt(2 / z.numel()))
    neighbours = (z[:, 1:] * z[:, :-1]).mean()
    assert neighbours == pytest.approx(0, abs=4 / math.sqrt(z.numel()))


def test_augment_audio_depends_on_clip_epoch_and_seed():
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


def test_augment_audio_default_changes_nothing():
    audio, keys = _audio(), clip_keys(IDS)
    off = AugmentationConfig()
    assert not off.active
    assert torch.equal(augment_audio(audio, keys, off, n_samples=3000), audio)


def test_random_crop_is_contiguous_and_reaches_both_ends():
    audio = torch.arange(100, dtype=torch.int16).repeat(640, 1)
    keys = clip_keys([str(index) for index in range(640)])
    crops = augment_audio(audio, keys, AugmentationConfig(random_crop=True), n_samples=90)
    assert crops.dtype == torch.int16
    assert (crops.diff(dim=1) == 1).all()
    assert set(crops[:, 0].tolist()) == set(range(11))


def test_gain_stays_in_range():
    audio, keys = _audio(samples=20_000), clip_keys(IDS)
    plain = audio.float() / 32_768
    scaled = augment_audio(audio, keys, AugmentationConfig(gain_db=6), n_samples=20_000)
    gains_db = 20 * torch.log10(scaled.norm(dim=1) / plain.norm(dim=1))
    assert gains_db.abs().max() <= 6.001
    assert gains_db.min() < -4
    assert gains_db.max() > 4
