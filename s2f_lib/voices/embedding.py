"""Voice embeddings: their common interface, their cache, and one that needs no pretrained network."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np

from s2f_lib.config import SAMPLE_RATE_HZ
from s2f_lib.media.decode import repeat_to
from s2f_lib.media.spectrogram import INT16_SCALE
from s2f_lib.storage import cached_rows, digest

DURATION_S = 6.0  # Speech2Face, section 3
N_SAMPLES = round(DURATION_S * SAMPLE_RATE_HZ)

_N_MELS = 40
_ACOUSTIC_METHOD = "mean and deviation of 40 log mel bands, less the loudness, 1"  # part of the fingerprint


@runtime_checkable
class VoiceEmbedding(Protocol):
    """Map sounds to vectors, one vector per sound.

    Attributes
    ----------
    name
        Name of the network.
    dimension
        Length of a vector.
    blocks
        Name to slice of the vector: the numbers of a block are scaled together.
    fingerprint
        Digest of weights and method. Equal fingerprints give equal vectors.

    See Also
    --------
    s2f_lib.voices.speaker.SpeakerEmbedding : Trained to distinguish speakers.
    s2f_lib.voices.whisper.WhisperEmbedding : Trained to transcribe.
    AcousticEmbedding : Needs no pretrained network.
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
            `(n, samples)` int16, or floating point in [-1, 1], mono at 16 kHz. The first 6 s are used;
            shorter audio is repeated.

        Returns
        -------
        numpy.ndarray
            `(n, dimension)` float32.
        """
        ...


class AcousticEmbedding:
    """Mean and standard deviation of 40 log mel bands; used where no pretrained network is installed.

    Examples
    --------
    >>> noise = np.random.default_rng(0).integers(-9_000, 9_000, (2, 16_000)).astype(np.int16)
    >>> AcousticEmbedding()(noise).shape
    (2, 80)
    """

    name = "acoustic"
    dimension = 2 * _N_MELS
    blocks: Mapping[str, slice] = {"acoustic": slice(0, 2 * _N_MELS)}
    fingerprint = digest(_ACOUSTIC_METHOD, length=16)

    def __call__(self, audio: np.ndarray) -> np.ndarray:
        """Compute `(n, 80)` float32 of `(n, samples)` audio at 16 kHz; see `VoiceEmbedding`."""
        import librosa

        result = np.zeros((len(audio), self.dimension), np.float32)
        for index, wave in enumerate(as_waves(audio)):
            power = librosa.feature.melspectrogram(
                y=wave, sr=SAMPLE_RATE_HZ, n_fft=512, hop_length=160, n_mels=_N_MELS
            )
            log = np.log(power + 1e-8)  # (40, frames)
            mean = log.mean(axis=1)
            result[index] = np.concatenate([mean - mean.mean(), log.std(axis=1)])
        return result


def as_waves(audio: np.ndarray) -> np.ndarray:
    """Return `(n, 96000)` float32 in [-1, 1] of `(n, samples)` audio, repeated or cut to 6 s."""
    audio = np.asarray(audio)
    if audio.ndim != 2 or audio.shape[1] == 0:
        raise ValueError(f"audio is {audio.shape}; expected (n, samples) with at least one sample")
    scale = np.float32(INT16_SCALE if audio.dtype == np.int16 else 1.0)
    waves = np.zeros((len(audio), N_SAMPLES), np.float32)
    for index, samples in enumerate(audio):
        waves[index] = repeat_to(samples[:N_SAMPLES], N_SAMPLES)
    return waves * scale


def embed_voices(
    extractor: VoiceEmbedding,
    audio: np.ndarray,
    *,
    cache: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> np.ndarray:
    """Embed sounds; compute only the embeddings that are not in the cache.

    Parameters
    ----------
    extractor
        Voice embedding to compute.
    audio
        `(n, samples)` int16 mono at 16 kHz.
    cache
        Folder of cached embeddings. The files are named by the digest of the sound, in a folder named by
        the extractor and its fingerprint. None: no cache.
    progress
        Function that is called with the numbers of embedded and of all sounds.

    Returns
    -------
    numpy.ndarray
        `(n, dimension)` float32.

    See Also
    --------
    VoiceEmbedding : The interface of an extractor.

    Examples
    --------
    >>> noise = np.random.default_rng(0).integers(-9_000, 9_000, (2, 16_000)).astype(np.int16)
    >>> embed_voices(AcousticEmbedding(), noise).shape
    (2, 80)
    """
    return cached_rows(
        cache / f"{extractor.name}-{extractor.fingerprint}" if cache is not None else None,
        [digest(f"{sound.dtype.str} {SAMPLE_RATE_HZ}", sound, length=32) for sound in audio],
        lambda indices: extractor(audio[indices]),
        dimension=extractor.dimension,
        progress=progress,
    )
