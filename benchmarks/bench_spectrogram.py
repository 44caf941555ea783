"""Complex spectrograms: librosa, clip by clip, against the batched transform in torch, in one run.

The recipe (report, "Data Preparation Details") is `librosa.stft` of each clip, with compressed real and
imaginary parts. librosa pads the window on both sides, so its numbers differ from TensorFlow's framing, which
Speech2Face used. Agreement is therefore measured with librosa's primitives and TensorFlow's framing
(`complex_spectrogram_librosa`, float64), which are timed, too.

    python -m benchmarks.bench_spectrogram [--clips 64] [--threads 1] [--device cpu]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import numpy as np
import torch

from s2f_lib.config import SAMPLE_RATE_HZ, SpectrogramConfig
from s2f_lib.media.spectrogram import complex_spectrogram
from tests.media.reference_spectrogram import complex_spectrogram_librosa


def voices(count: int, config: SpectrogramConfig) -> np.ndarray:
    """Return (count, samples) int16: harmonics with a slow envelope, noise and silence."""
    rng = np.random.default_rng(0)
    time_s = np.arange(config.n_samples) / SAMPLE_RATE_HZ
    made = []
    for _ in range(count):
        phase = 2 * np.pi * np.cumsum(rng.uniform(90, 250) * (1 + 0.05 * np.sin(2 * np.pi * 4 * time_s)))
        tone = sum(np.sin(k * phase / SAMPLE_RATE_HZ) / k for k in range(1, 25))
        envelope = np.clip(np.sin(2 * np.pi * rng.uniform(1, 3) * time_s), 0, 1)
        sound = 5_000 * envelope * tone + rng.normal(0, 30, len(time_s)) * (time_s < 5)
        made.append(np.clip(sound, -32_768, 32_767).astype(np.int16))
    return np.stack(made)


def recipe(audio: np.ndarray, config: SpectrogramConfig) -> np.ndarray:
    """Return a clip's spectrogram, (2, frames, bins) float32, as the report made it."""
    import librosa

    spectrum = librosa.stft(
        audio.astype(np.float32) / 32_768,
        n_fft=config.fft_samples,
        hop_length=config.hop_samples,
        win_length=config.window_samples,
        center=False,
    ).T
    parts = np.stack([spectrum.real, spectrum.imag])
    return (np.sign(parts) * np.abs(parts) ** config.compression).astype(np.float32)


def clips_per_s(function: Callable[[], object], count: int, repeats: int, device: str) -> float:
    """Return clips/s: the best of several repeats, after a warm-up."""
    best = np.inf
    for repeat in range(repeats + 1):
        started = time.perf_counter()
        function()
        if device == "cuda":
            torch.cuda.synchronize()
        if repeat:
            best = min(best, time.perf_counter() - started)
    return count / best


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--clips", type=int, default=64, help="number of clips of 6 s, in one batch (default 64)"
    )
    parser.add_argument("--threads", type=int, default=1, help="number of CPU threads of torch (default 1)")
    parser.add_argument(
        "--repeats", type=int, default=5, help="number of repeats; the best is reported (default 5)"
    )
    parser.add_argument("--device", default="cpu", help="device of torch (default cpu)")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    config = SpectrogramConfig()
    audio = voices(options.clips, config)
    batch = torch.from_numpy(audio).to(options.device)

    measured = {
        "librosa.stft, clip by clip": lambda: [recipe(clip, config) for clip in audio],
        "librosa's primitives, float64": lambda: [
            complex_spectrogram_librosa(clip, config) for clip in audio
        ],
        "torch, one batch": lambda: complex_spectrogram(batch, config),
    }
    where = f"{options.threads} thread(s) of torch, {options.device}"
    print(f"{options.clips} clips of {config.duration_s:g} s, {where}")
    rates = {
        name: clips_per_s(function, options.clips, options.repeats, options.device)
        for name, function in measured.items()
    }
    reference = rates["librosa.stft, clip by clip"]
    for name, rate in rates.items():
        print(f"{name:30} {rate:8.1f} clips/s, {rate / reference:.2f}x librosa.stft")
    ours = complex_spectrogram(batch, config).cpu().numpy()
    theirs = np.stack([complex_spectrogram_librosa(clip, config) for clip in audio])
    print(f"largest difference from librosa's primitives: {np.abs(ours - theirs).max():.1e} (values up to "
          f"{np.abs(theirs).max():.2f})")  # fmt: skip


if __name__ == "__main__":
    main()
