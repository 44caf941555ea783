"""The complex spectrogram of Speech2Face, computed in batches with torch.

The framing is that of `tf.signal.stft`, because Speech2Face has 598 frames: frame i covers samples
[160 i, 160 i + 400) without centring or padding, a periodic Hann window covers the 400 samples, and zeros at
the *end* fill the 512 samples of the FFT. `librosa.stft` pads its window on both sides, which changes the
phase.

The power law x -> sign(x)|x|^0.3 has an infinite slope at zero: a difference of 1e-7, the rounding of
float32, becomes 0.008. So the transform runs in float64, and below `LINEAR_BELOW` a straight line replaces
the power law. Its slope is 1e-12^-0.7 = 2.5e8, so a rounding error of about 1e-14 moves a value by at most
3e-6.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from s2f_lib.config import SpectrogramConfig
from s2f_lib.errors import InputError

if TYPE_CHECKING:
    import torch

LINEAR_BELOW = 1e-12  # full scale is 1.0
INT16_SCALE = 1 / 32_768


def complex_spectrogram(
    audio: torch.Tensor | np.ndarray, config: SpectrogramConfig | None = None
) -> torch.Tensor:
    """Compute the compressed complex spectrograms of a batch, on the device of the audio.

    Parameters
    ----------
    audio
        `(n, samples)` int16, or floating point in [-1, 1], at 16 kHz. Audio shorter than
        `config.n_samples` is repeated, longer audio is cut.
    config
        Framing, compression and highest frequency. None: 6 s up to 8 kHz.

    Returns
    -------
    torch.Tensor
        `(n, 2, n_frames, n_bins)` float32: real and imaginary part, each compressed. The size is 598 x 257
        for 6 s up to 8 kHz, and 298 x 129 for 3 s up to 4 kHz.

    Raises
    ------
    InputError
        The audio has another shape or type.

    Examples
    --------
    >>> complex_spectrogram(np.zeros((2, 96_000), np.int16)).shape
    torch.Size([2, 2, 598, 257])
    """
    import torch

    config = config or SpectrogramConfig()
    if not isinstance(audio, torch.Tensor):
        audio = torch.from_numpy(np.ascontiguousarray(audio))
    check_audio(audio)
    audio = _fit(audio, config.n_samples)
    n_pad = config.fft_samples - config.window_samples
    window = torch.hann_window(config.window_samples, periodic=True, dtype=torch.float64, device=audio.device)
    window = torch.nn.functional.pad(window, (0, n_pad))  # zeros fill the end of the FFT
    result = torch.empty(
        (len(audio), 2, config.n_frames, config.n_bins), dtype=torch.float32, device=audio.device
    )
    # the 2.4 MB of one clip's frames fit into a CPU's cache; a GPU is faster with 64 clips at once
    n_together = 1 if audio.device.type == "cpu" else 64
    for first in range(0, len(audio), n_together):
        part = slice(first, first + n_together)
        result[part] = _compressed(audio[part], window, config)
    return result


def check_audio(audio: torch.Tensor | np.ndarray) -> None:
    """Raise an InputError if audio is not `(n, samples)` int16 or floating point."""
    if audio.ndim != 2 or not audio.shape[1]:
        raise InputError(f"audio has the shape {tuple(audio.shape)}: expected (n, samples)")
    kind = str(audio.dtype).removeprefix("torch.")
    if kind != "int16" and "float" not in kind:
        raise InputError(f"audio is {kind}: expected int16, or floating point in [-1, 1]")


def _compressed(audio: torch.Tensor, window: torch.Tensor, config: SpectrogramConfig) -> torch.Tensor:
    """Return `(n, 2, frames, bins)` float32 of `(n, n_samples)` audio; `window` is as long as the FFT."""
    import torch

    scale = INT16_SCALE if audio.dtype == torch.int16 else 1.0
    n_pad = config.fft_samples - config.window_samples
    samples = torch.nn.functional.pad(audio.to(torch.float64) * scale, (0, n_pad))
    frames = samples.unfold(-1, config.fft_samples, config.hop_samples) * window  # (n, frames, fft)
    spectrum = torch.fft.rfft(frames)[..., : config.n_bins]
    parts = torch.view_as_real(spectrum).to(torch.float32)  # (n, frames, bins, 2)
    # |x|^(p-1) as exp((p-1) log|x|) is three times as fast as pow on a CPU, and exact to float32
    slope = parts.abs().clamp_(min=LINEAR_BELOW).log_().mul_(config.compression - 1).exp_()
    return parts.mul_(slope).permute(0, 3, 1, 2)  # (n, 2, frames, bins)


def _fit(audio: torch.Tensor, n_samples: int) -> torch.Tensor:
    """Repeat or cut `(n, samples)` to `(n, n_samples)`."""
    if audio.shape[-1] < n_samples:
        audio = audio.repeat(1, -(-n_samples // audio.shape[-1]))
    return audio[:, :n_samples]
