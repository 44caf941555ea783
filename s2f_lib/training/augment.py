"""Random changes of audio, in batches on the device.

Every random number is a hash of (seed, epoch, clip id, counter). The change of a clip in an epoch therefore
does not depend on its batch, the device, the number of threads or processes, or interruptions.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from s2f_lib.config import AugmentationConfig
from s2f_lib.media.spectrogram import INT16_SCALE
from s2f_lib.storage import digest

# SplitMix64 (Steele, Lea and Flood 2014), with its constants as signed 64-bit numbers
_GOLDEN, _MIX_1, _MIX_2 = -7046029254386353131, -4658895280553007687, -7723592293110705685

# first counter of each purpose
_CROP, _GAIN = 0, 1 << 32


def clip_keys(clip_ids: Sequence[str]) -> Tensor:
    """Return a hash of each clip id, `(n,)` int64, the same on every machine."""
    digests = (bytes.fromhex(digest(clip_id, length=16)) for clip_id in clip_ids)
    return torch.tensor([int.from_bytes(value, "big", signed=True) for value in digests])


def epoch_keys(keys: Tensor, *, seed: int, epoch: int) -> Tensor:
    """Return the hashes of the clips for one epoch and seed, `(n,)` int64."""
    return _mix(_mix(keys + seed * 1_000_003) + epoch)


def uniform(keys: Tensor, counters: Tensor) -> Tensor:
    """Return `(n, m)` float32 in [0, 1) for `(n,)` keys and `(m,)` counters."""
    bits = _mix(keys[:, None] + counters[None, :] * _GOLDEN)  # (n, m)
    return ((bits >> 40) & 0xFFFFFF).float() * 2**-24


def augment_audio(audio: Tensor, keys: Tensor, config: AugmentationConfig, *, n_samples: int) -> Tensor:
    """Crop clips at random positions and change their level: `(n, samples)` int16 to `(n, n_samples)`.

    `keys` are `(n,)` int64 from `epoch_keys`, on the device of the audio. The result has fewer samples if the
    clips are shorter. It is int16, or float32 (full scale 1.0) if the level was changed.
    """
    spare = audio.shape[1] - n_samples
    if config.random_crop and spare > 0:
        start = (uniform(keys, torch.tensor([_CROP], device=keys.device)) * (spare + 1)).long()  # (n, 1)
        audio = audio.gather(1, start + torch.arange(n_samples, device=audio.device))
    audio = audio[:, :n_samples]
    if not config.gain_db:
        return audio
    gain_db = (2 * uniform(keys, torch.tensor([_GAIN], device=keys.device)) - 1) * config.gain_db
    return audio.float() * INT16_SCALE * 10 ** (gain_db / 20)


def _mix(bits: Tensor) -> Tensor:
    bits = (bits ^ _shifted(bits, 30)) * _MIX_1  # wraps around at 64 bits
    bits = (bits ^ _shifted(bits, 27)) * _MIX_2
    return bits ^ _shifted(bits, 31)


def _shifted(bits: Tensor, by: int) -> Tensor:
    return (bits >> by) & ((1 << (64 - by)) - 1)  # clears the copies of the sign bit
