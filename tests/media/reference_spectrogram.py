"""A slow reference for `complex_spectrogram`, from librosa's primitives; the benchmark uses it, too."""

from __future__ import annotations

import librosa
import numpy as np
import scipy.fft

from s2f_lib.config import SpectrogramConfig
from s2f_lib.media.spectrogram import INT16_SCALE, LINEAR_BELOW


def complex_spectrogram_librosa(audio: np.ndarray, config: SpectrogramConfig) -> np.ndarray:
    """Return `(2, n_frames, n_bins)` float64 of one clip, `(samples,)` int16 or floating point in [-1, 1].

    `librosa.stft` pads its window on both sides, so this uses only librosa's framing and window.
    """
    scale = INT16_SCALE if audio.dtype == np.int16 else 1.0
    samples = np.resize(audio, config.n_samples).astype(np.float64) * scale
    frames = librosa.util.frame(
        samples, frame_length=config.window_samples, hop_length=config.hop_samples, axis=0
    )  # (frames, window)
    window = librosa.filters.get_window("hann", config.window_samples, fftbins=True)  # fftbins: periodic
    spectrum = scipy.fft.rfft(frames * window, n=config.fft_samples, axis=1)[:, : config.n_bins]
    parts = np.stack([spectrum.real, spectrum.imag])  # (2, frames, bins)
    slope_limited = np.maximum(np.abs(parts), LINEAR_BELOW)
    return parts * slope_limited ** (config.compression - 1)
