"""What a voice descriptor is, and its cache: the same sound is described once.

A descriptor is kept in a file of its own, named by the digest of its sound, in a
folder named by extractor and weights.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np

from s2f_lib.media.decode import repeat_to
from s2f_lib.voices.cache import VectorCache

SAMPLE_RATE_HZ = 16_000
DURATION_S = 6.0  # what Speech2Face hears, and so every system here
N_SAMPLES = round(DURATION_S * SAMPLE_RATE_HZ)
_INT16_SCALE = 1 / 32_768

#: Called with (described, of all) clips.
Progress = Callable[[int, int], None]


@runtime_checkable
class VoiceEmbedding(Protocol):
    """Sounds in, one vector each out.

    Attributes
    ----------
    name
        Of the network.
    dimension
        Length of a vector.
    blocks
        Name to part of the vector: what belongs together, and is scaled together.
    fingerprint
        Names weights and method: the same fingerprint gives the same vectors.
    """

    name: str
    dimension: int
    blocks: Mapping[str, slice]
    fingerprint: str

    def __call__(self, audio: np.ndarray) -> np.ndarray:
        """Compute the vectors.

        Parameters
        ----------
        audio
            (n, samples) int16, or floating point in [-1, 1], mono at 16 kHz; its first 6 s
            are heard, and what is shorter is repeated.

        Returns
        -------
        numpy.ndarray
            (n, dimension) float32.
        """
        ...


def as_waves(audio: np.ndarray) -> np.ndarray:
    """Return (n, 96,000) float32 in [-1, 1] of (n, samples) audio, repeated or cut to 6 s.

    Raises
    ------
    ValueError
        It has another shape, or no sample.
    """
    audio = np.asarray(audio)
    if audio.ndim != 2 or audio.shape[1] == 0:
        raise ValueError(f"audio is {audio.shape}; expected (n, samples) with at least one sample")
    scale = _INT16_SCALE if audio.dtype == np.int16 else 1.0
    waves = [repeat_to(sound, N_SAMPLES) for sound in audio[:, :N_SAMPLES]]
    return (np.stack(waves) if len(waves) else np.zeros((0, N_SAMPLES))).astype(np.float32) * np.float32(
        scale
    )


def embed_voices(
    extractor: VoiceEmbedding,
    audio: np.ndarray,
    *,
    cache: Path | None = None,
    batch_size: int = 8,
    progress: Progress | None = None,
) -> np.ndarray:
    """Describe sounds, and keep each descriptor under its sound's digest.

    Parameters
    ----------
    extractor
        The network.
    audio
        (n, samples) int16 mono at 16 kHz.
    cache
        Folder of what was described before; None: nothing is kept.
    batch_size
        Sounds that are computed together.

    Returns
    -------
    numpy.ndarray
        (n, dimension) float32.
    """
    folder = cache / f"{extractor.name}-{extractor.fingerprint}" if cache is not None else None
    store = VectorCache(folder, extractor.dimension)
    result = np.zeros((len(audio), extractor.dimension), np.float32)
    digests = [_digest(sound) for sound in audio]
    pending = store.fill(digests, result)
    if progress:
        progress(len(audio) - len(pending), len(audio))
    for start in range(0, len(pending), batch_size):
        indices = pending[start : start + batch_size]
        result[indices] = extractor(audio[indices])
        for index in indices:
            store.put(digests[index], result[index])
        if progress:
            progress(len(audio) - len(pending) + start + len(indices), len(audio))
    return result


def _digest(sound: np.ndarray) -> str:
    digest = hashlib.sha256(f"{sound.dtype.str} {SAMPLE_RATE_HZ}".encode())
    digest.update(np.ascontiguousarray(sound).data)
    return digest.hexdigest()
