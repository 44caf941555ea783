"""Random changes of audio and spectrogram, in batch, on the device.

Every random number is a hash of (seed, epoch, clip id, counter), computed on the
device for the whole batch at once.  So a clip is changed in one epoch in one way,
whatever the batch it falls into, the number of threads or processes, the
device, and the number of times the run was interrupted.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from s2f_lib.config import AugmentationConfig
from s2f_lib.media.spectrogram import INT16_SCALE

# SplitMix64 (Steele, Lea and Flood 2014), its constants as signed 64-bit numbers
_GOLDEN, _MIX_1, _MIX_2 = -7046029254386353131, -4658895280553007687, -7723592293110705685

# where each purpose's counters start: far enough apart for any clip
_CROP, _GAIN, _SNR, _TIME, _FREQUENCY, _NOISE = (index << 32 for index in range(6))


def clip_keys(clip_ids: Sequence[str]) -> Tensor:
    """Return a number for each clip id, `(n,)` int64, the same on every machine."""
    digests = (hashlib.sha256(clip_id.encode()).digest()[:8] for clip_id in clip_ids)
    return torch.tensor([int.from_bytes(digest, "big", signed=True) for digest in digests])


def epoch_keys(keys: Tensor, *, seed: int, epoch: int) -> Tensor:
    """Return the clips' numbers for one epoch of one seed, `(n,)` int64."""
    return _mix(_mix(keys + seed * 1_000_003) + epoch)


def uniform(keys: Tensor, counters: Tensor) -> Tensor:
    """Return `(n, m)` float32 in [0, 1) for `(n,)` keys and `(m,)` counters."""
    return ((_hash(keys, counters) >> 40) & 0xFFFFFF).float() * 2**-24


def normal(keys: Tensor, *, size: int, first: int) -> Tensor:
    """Return `(n, size)` float32 of the standard normal distribution, by Box and Muller."""
    half = -(-size // 2)
    counters = torch.arange(first, first + half, device=keys.device)
    bits = _hash(keys, counters)
    radius = (((bits >> 40) & 0xFFFFFF).float() + 1).mul_(2**-24).log_().mul_(-2).sqrt_()  # u in (0, 1]
    angle = ((bits >> 16) & 0xFFFFFF).float().mul_(2 * math.pi * 2**-24)
    return torch.cat([radius * angle.cos(), radius * angle.sin()], dim=1)[:, :size]


def augment_audio(audio: Tensor, keys: Tensor, config: AugmentationConfig, *, n_samples: int) -> Tensor:
    """Crop, scale and add noise.

    Parameters
    ----------
    audio
        `(n, samples)` int16.
    keys
        `(n,)` int64 of `epoch_keys`, on the audio's device.
    config
        What is done.
    n_samples
        Length of a crop.

    Returns
    -------
    Tensor
        `(n, n_samples)`, or what there is where clips are shorter: int16, or float32
        (full scale 1.0) where it was scaled or has noise.
    """
    spare = audio.shape[1] - n_samples
    if config.random_crop and spare > 0:
        start = (uniform(keys, _counters(_CROP, keys)) * (spare + 1)).long()  # (n, 1)
        audio = audio.gather(1, start + torch.arange(n_samples, device=audio.device))
    audio = audio[:, :n_samples]
    if not config.gain_db and config.noise_snr_db is None:
        return audio
    audio = audio.float() * INT16_SCALE
    if config.gain_db:
        gain_db = (2 * uniform(keys, _counters(_GAIN, keys)) - 1) * config.gain_db
        audio = audio * 10 ** (gain_db / 20)
    if config.noise_snr_db is not None:
        low, high = config.noise_snr_db
        snr_db = low + (high - low) * uniform(keys, _counters(_SNR, keys))
        level = audio.square().mean(dim=1, keepdim=True).sqrt() * 10 ** (-snr_db / 20)
        audio = audio + level * normal(keys, size=audio.shape[1], first=_NOISE)
    return audio


def mask_spectrogram(spectrogram: Tensor, keys: Tensor, config: AugmentationConfig) -> Tensor:
    """Set random stretches of time and bands of frequency to zero (SpecAugment).

    Parameters
    ----------
    spectrogram
        `(n, 2, frames, bins)`.
    """
    if config.time_masks:
        hidden = _stretches(
            keys, spectrogram.shape[2], config.time_masks, longest=config.time_mask_frames, first=_TIME
        )
        spectrogram = spectrogram.masked_fill(hidden[:, None, :, None], 0.0)
    if config.frequency_masks:
        hidden = _stretches(
            keys,
            spectrogram.shape[3],
            config.frequency_masks,
            longest=config.frequency_mask_bins,
            first=_FREQUENCY,
        )
        spectrogram = spectrogram.masked_fill(hidden[:, None, None, :], 0.0)
    return spectrogram


def _stretches(keys: Tensor, size: int, count: int, *, longest: int, first: int) -> Tensor:
    """Return `(n, size)` bool, true in `count` stretches of at most `longest` each."""
    drawn = uniform(keys, torch.arange(first, first + 2 * count, device=keys.device))  # (n, 2 count)
    length = (drawn[:, :count] * (min(longest, size) + 1)).long()
    start = (drawn[:, count:] * (size - length + 1)).long()
    position = torch.arange(size, device=keys.device).view(1, 1, size)
    inside = (position >= start[..., None]) & (position < (start + length)[..., None])  # (n, count, size)
    return inside.any(dim=1)


def _counters(first: int, keys: Tensor) -> Tensor:
    return torch.tensor([first], device=keys.device)


def _hash(keys: Tensor, counters: Tensor) -> Tensor:
    return _mix(keys[:, None] + counters[None, :] * _GOLDEN)  # (n, m)


def _mix(bits: Tensor) -> Tensor:
    bits = (bits ^ _shifted(bits, 30)) * _MIX_1  # wraps around at 64 bits
    bits = (bits ^ _shifted(bits, 27)) * _MIX_2
    return bits ^ _shifted(bits, 31)


def _shifted(bits: Tensor, by: int) -> Tensor:
    return (bits >> by) & ((1 << (64 - by)) - 1)  # without the sign, which >> would repeat
