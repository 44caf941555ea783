"""The complex spectrogram: batched in torch, and a slow reference from librosa's primitives.

Framing is TensorFlow's, which Speech2Face's 598 frames imply: frame i covers
samples [160 i, 160 i + 400), nothing is centred or padded, a periodic Hann
window covers the 400 samples, and zeros at the *end* fill the FFT's 512
(`tf.signal.stft`).  librosa pads its window on both sides instead, which changes
the phase, so the reference uses librosa's framing and window, not `librosa.stft`.

The power law x -> sign(x)|x|^0.3 has an infinite slope at zero: a difference of
1e-7, float32's rounding, becomes 0.008.  So the transform runs in float64, and
the law is continued by a straight line below `LINEAR_BELOW`, far under the
audio's own step of 3e-5 and above float64's rounding.  Its slope is then at most
1e-12^-0.7 = 2.5e8, and rounding of about 1e-14 moves a value by at most 3e-6.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from s2f_lib.config import SpectrogramConfig

if TYPE_CHECKING:
    import torch

LINEAR_BELOW = 1e-12  # of full scale 1.0
INT16_SCALE = 1 / 32_768


def complex_spectrogram(audio: torch.Tensor, config: SpectrogramConfig) -> torch.Tensor:
    """Compute the compressed complex spectrogram of a batch, on the audio's device.

    Parameters
    ----------
    audio
        (n, samples) int16, or floating point in [-1, 1], at `config.sample_rate_hz`.
        Shorter than `config.n_samples` it is repeated, longer it is cut.
    config
        Framing, compression and the highest frequency kept.

    Returns
    -------
    torch.Tensor
        (n, 2, n_frames, n_bins) float32: real and imaginary part, each compressed;
        598 x 257 for 6 s up to 8 kHz, 298 x 129 for 3 s up to 4 kHz.

    See Also
    --------
    complex_spectrogram_librosa : the reference, equal within 1e-5.
    """
    import torch

    audio = _fit(audio, config.n_samples)
    n_pad = config.fft_samples - config.window_samples
    window = torch.hann_window(config.window_samples, periodic=True, dtype=torch.float64, device=audio.device)
    window = torch.nn.functional.pad(window, (0, n_pad))  # zeros fill the FFT's end
    result = torch.empty(
        (len(audio), 2, config.n_frames, config.n_bins), dtype=torch.float32, device=audio.device
    )
    # A clip's 2.4 MB of frames stay in a CPU's cache; a GPU wants many at once, yet not all of them.
    n_together = 1 if audio.device.type == "cpu" else 64
    for first in range(0, len(audio), n_together):
        part = slice(first, first + n_together)
        result[part] = _compressed(audio[part], window, config)
    return result


def _compressed(audio: torch.Tensor, window: torch.Tensor, config: SpectrogramConfig) -> torch.Tensor:
    """Return (n, 2, frames, bins) float32 of (n, n_samples) audio; `window` is as long as the FFT."""
    import torch

    scale = INT16_SCALE if audio.dtype == torch.int16 else 1.0
    n_pad = config.fft_samples - config.window_samples
    samples = torch.nn.functional.pad(audio.to(torch.float64) * scale, (0, n_pad))
    frames = samples.unfold(-1, config.fft_samples, config.hop_samples) * window  # (n, frames, fft)
    spectrum = torch.fft.rfft(frames)[..., : config.n_bins]
    parts = torch.view_as_real(spectrum).to(torch.float32)  # (n, frames, bins, 2); now float32 suffices
    # |x|^(p-1) as exp((p-1) log|x|): three times as fast as pow on a CPU, and as exact as float32 is
    slope = parts.abs().clamp_(min=LINEAR_BELOW).log_().mul_(config.compression - 1).exp_()
    return parts.mul_(slope).permute(0, 3, 1, 2)  # (n, 2, frames, bins)


def complex_spectrogram_librosa(audio: np.ndarray, config: SpectrogramConfig) -> np.ndarray:
    """Compute the same for one clip, in float64, from librosa's primitives.

    Parameters
    ----------
    audio
        (samples,) int16, or floating point in [-1, 1].
    config
        As `complex_spectrogram`.

    Returns
    -------
    numpy.ndarray
        (2, n_frames, n_bins) float64.
    """
    import librosa
    import scipy.fft

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


def _fit(audio: torch.Tensor, n_samples: int) -> torch.Tensor:
    """Repeat or cut (n, samples) to (n, n_samples)."""
    if audio.shape[-1] < n_samples:
        audio = audio.repeat(1, -(-n_samples // audio.shape[-1]))
    return audio[:, :n_samples]
