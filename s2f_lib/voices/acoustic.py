"""A voice descriptor without any pretrained network: how loud each mel band is, and how much that varies.

It stands in where the pretrained networks are not installed, so that the study still runs.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import numpy as np

from s2f_lib.voices.embedding import SAMPLE_RATE_HZ, as_waves

_N_MELS = 40
_METHOD = "mean and deviation of 40 log mel bands, less the loudness, 1"


class AcousticStatistics:
    """The descriptor `acoustic`; see `voice.VoiceEmbedding`."""

    name = "acoustic"
    dimension = 2 * _N_MELS
    blocks: Mapping[str, slice] = {"acoustic": slice(0, 2 * _N_MELS)}
    fingerprint = hashlib.sha256(_METHOD.encode()).hexdigest()[:16]

    def __call__(self, audio: np.ndarray) -> np.ndarray:
        """Compute (n, 80) float32 of (n, samples) audio at 16 kHz."""
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
