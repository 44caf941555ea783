"""Training: the report's recipe against ours, at equal model, batch and clips, in one run.

The recipe (report, "Data Preparation Details", and the code on which it is probably based): one pickle per
clip with the int16 audio and the features; the spectrogram by librosa on the CPU when a clip is loaded;
float32, eager mode, PyTorch's default memory format, one process.
Ours: memory-mapped shards; a thread that prefetches batches; the spectrogram of a batch on the device;
channels last; bf16 if the hardware supports it (AMX, AVX-512 bf16, GPUs).

    python benchmarks/bench_training.py [--width 0.125] [--batch 16] [--clips 64] [--steps 12]
    python benchmarks/bench_training.py --accuracy [--seeds 3]
    python benchmarks/bench_training.py --device cuda --width 1 --batch 64 --clips 512 --steps 40 --compile
"""

from __future__ import annotations

import argparse
import json
import pickle
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.training_common import PeakMemory, in_own_process, make_shards
from s2f_lib.config import SpectrogramConfig, StudyConfig, TrainingConfig, VoiceEncoderConfig
from s2f_lib.models.voice_encoder import VoiceEncoder, summarize
from s2f_lib.preparation.shards import read_prepared
from s2f_lib.training.distributed import resolve_precision
from s2f_lib.training.losses import l1_loss

WARM_UP = 2  # steps that are not measured


def study(options: argparse.Namespace, **training: object) -> StudyConfig:
    """Return the settings of both methods."""
    return StudyConfig(
        spectrogram=SpectrogramConfig(duration_s=options.duration, max_frequency_hz=options.bandwidth),
        encoder=VoiceEncoderConfig(width=options.width, hidden=options.hidden, frequency_bins=9),
        training=TrainingConfig(
            batch_size=options.batch, device=options.device, validation_share=0.0, learning_rate=1e-3,
            checkpoint_every_s=None, **training,
        ),
    )  # fmt: skip


def write_pickles(shards: Path, out: Path) -> None:
    """Write one pickle per clip, as in the report."""
    clips = read_prepared(shards)
    for clip_id, audio, features in zip(clips.clip_ids, clips.audio, clips.features, strict=True):
        with (out / f"{clip_id}.pkl").open("wb") as stream:
            pickle.dump({"audio": audio, "features": features}, stream)


class PickledClips(torch.utils.data.Dataset):
    """The data set of the recipe: one file per clip; librosa computes the spectrogram when it is read."""

    def __init__(self, folder: Path, config: SpectrogramConfig) -> None:
        self._paths = sorted(folder.glob("*.pkl"))
        self._config = config

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        import librosa

        with self._paths[index].open("rb") as stream:
            clip = pickle.load(stream)
        c = self._config
        audio = np.resize(clip["audio"], c.n_samples).astype(np.float32) / 32_768
        spectrum = librosa.stft(
            audio, n_fft=c.fft_samples, hop_length=c.hop_samples, win_length=c.window_samples, center=False
        )[: c.n_bins].T  # (frames, bins)
        missing = c.n_frames - len(
            spectrum
        )  # librosa's frames have the 512 samples of the FFT: one frame less
        spectrum = np.pad(spectrum, ((0, missing), (0, 0)))
        parts = np.stack([spectrum.real, spectrum.imag])
        parts = np.sign(parts) * np.abs(parts) ** c.compression
        return torch.from_numpy(parts.astype(np.float32)), torch.from_numpy(clip["features"])


def run_recipe(folder: str, options: argparse.Namespace, epochs: int, seed: int) -> dict[str, float]:
    """Train with the recipe; return samples/s, the share of time spent waiting, and peak memory."""
    torch.set_num_threads(options.threads)
    config = study(options)
    data = PickledClips(Path(folder), config.spectrogram)
    torch.manual_seed(seed)
    features = data[0][1].shape[0]
    model = VoiceEncoder(config.encoder, feature_dimension=features, spectrogram=config.spectrogram)
    model.to(options.device).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=1e-4, fused=False)
    loader = torch.utils.data.DataLoader(data, batch_size=options.batch, shuffle=True, drop_last=True)
    steps, waited, started, loss = 0, 0.0, 0.0, torch.tensor(0.0)
    with PeakMemory() as memory:
        for _ in range(epochs):
            batches = iter(loader)
            while True:
                if steps == WARM_UP:
                    _synchronise(options.device)
                    started, waited = time.perf_counter(), 0.0
                requested_s = time.perf_counter()
                batch = next(batches, None)
                if batch is None:
                    break
                waited += time.perf_counter() - requested_s
                spectrogram, face = (tensor.to(options.device) for tensor in batch)
                loss = l1_loss(face, model(spectrogram))
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                steps += 1
        _synchronise(options.device)
    seconds = time.perf_counter() - started
    return {
        "samples_per_s": (steps - WARM_UP) * options.batch / seconds,
        "wait_share": waited / seconds,
        "peak_mb": memory.peak_mb,
        "gpu_peak_mb": _gpu_peak_mb(options.device),
    }


def run_ours(folder: str, options: argparse.Namespace, epochs: int, seed: int) -> dict[str, float]:
    """Train with this package; return the same numbers as `run_recipe`."""
    from s2f_lib.training.encoder import train_voice_encoder

    torch.set_num_threads(options.threads)
    config = study(
        options, epochs=epochs, seed=seed, precision=options.precision, channels_last=options.channels_last,
        compile=options.compile, loader_threads=options.loader_threads,
    )  # fmt: skip
    times: list[float] = []
    clips = read_prepared(Path(folder))

    def after_step(step: int, loss: float) -> None:
        times.append(time.perf_counter())

    with tempfile.TemporaryDirectory() as out, PeakMemory() as memory:
        trained = train_voice_encoder(
            clips,
            spectrogram=config.spectrogram,
            encoder=config.encoder,
            training=config.training,
            loss="l1",
            parent=Path(out),
            after_step=after_step,
        )
    rows = trained.metrics.iloc[-1]
    # the time between the first and last step includes the checkpoints
    return {
        "samples_per_s": (len(times) - WARM_UP) * options.batch / (times[-1] - times[WARM_UP - 1]),
        "wait_share": float(rows["wait_share"]),
        "peak_mb": memory.peak_mb,
        "gpu_peak_mb": _gpu_peak_mb(options.device),
    }


def accuracy(shards: str, options: argparse.Namespace, precision: str, seed: int) -> float:
    """Return the cosine on held-out clips after training with one precision."""
    from s2f_lib.training.encoder import train_voice_encoder

    torch.set_num_threads(options.threads)
    fast = precision == options.precision
    config = study(
        options, epochs=options.epochs, seed=seed, precision=precision,
        channels_last=fast and options.channels_last,
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as out:
        trained = train_voice_encoder(
            read_prepared(Path(shards)),
            spectrogram=config.spectrogram,
            encoder=config.encoder,
            training=config.training.with_(validation_share=0.25),
            loss="l1",
            parent=Path(out),
        )
    return float(trained.metrics["validation_cosine"].iloc[-1])


def matmul_rate(device: str, *, size: int = 8192, repeats: int = 30) -> float:
    """Return the measured rate of a large bf16 matrix product, in FLOP/s."""
    a, b = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
    for _ in range(3):
        a @ b
    _synchronise(device)
    started = time.perf_counter()
    for _ in range(repeats):
        a @ b
    _synchronise(device)
    return repeats * 2 * size**3 / (time.perf_counter() - started)


def flops_a_clip(config: StudyConfig, dimension: int) -> float:
    """Return the FLOPs of one clip's two passes; a multiplication and an addition count as two.

    The backward pass computes each product twice, for the weights and for the input; the input of the first
    layer needs no gradient.
    """
    model = VoiceEncoder(config.encoder, feature_dimension=dimension, spectrogram=config.spectrogram)
    rows = [row.mega_flops * 1e6 for row in summarize(model, config.spectrogram) if row.mega_flops]
    return 3 * sum(rows) - rows[0]


def main() -> None:
    """Measure and print."""
    options = parse()
    options.precision = resolve_precision(options.precision, device=options.device)
    with tempfile.TemporaryDirectory() as text:
        shards, pickles = Path(text) / "shards", Path(text) / "pickles"
        pickles.mkdir()
        make_shards(shards, n=options.clips, duration_s=options.duration, dimension=options.dimension)
        print(
            f"torch {torch.__version__}, {options.device}, {options.threads} threads; encoder of width "
            f"{options.width:g}, batches of {options.batch}, {options.clips} clips of {options.duration:g} s"
        )
        if options.accuracy:
            compare_accuracy(str(shards), options)
            return
        write_pickles(shards, pickles)
        epochs = -(-(options.steps + WARM_UP) // (options.clips // options.batch))
        recipe = in_own_process(run_recipe, str(pickles), options, epochs, 0)
        ours = in_own_process(run_ours, str(shards), options, epochs, 0)
        for name, result in (("recipe", recipe), (f"ours ({options.precision})", ours)):
            gpu = f", GPU {result['gpu_peak_mb']:.0f} MB" if options.device == "cuda" else ""
            print(
                f"{name:12} {result['samples_per_s']:8.2f} samples/s, waits for data "
                f"{result['wait_share']:.1%} of the time, peak memory {result['peak_mb']:.0f} MB{gpu}"
            )
        print(f"ratio {ours['samples_per_s'] / recipe['samples_per_s']:.2f}x (samples/s, ours over recipe)")
        report_flops(ours, options)
    print(json.dumps({"recipe": recipe, "ours": ours}))


def report_flops(ours: dict[str, float], options: argparse.Namespace) -> None:
    """Print the achieved rate, and its share of the rate of a large bf16 product on the same device."""
    size = 8192 if options.device == "cuda" else 1024
    torch.set_num_threads(options.threads)
    achieved = ours["samples_per_s"] * flops_a_clip(study(options), options.dimension)
    rate = matmul_rate(options.device, size=size)
    print(
        f"achieved {achieved / 1e12:.3f} TFLOP/s in forward and backward pass, {achieved / rate:.1%} of the "
        f"measured bf16 matmul rate of {rate / 1e12:.3f} TFLOP/s"
    )


def compare_accuracy(shards: str, options: argparse.Namespace) -> None:
    """Print held-out cosines over seeds: in float32, and in the fast precision and memory format."""
    found = {
        precision: [
            in_own_process(accuracy, shards, options, precision, seed) for seed in range(options.seeds)
        ]
        for precision in ("no", options.precision)
    }
    for precision, values in found.items():
        spread = np.std(values, ddof=1) if len(values) > 1 else float("nan")
        print(f"{precision:5} held-out cosine {np.mean(values):.4f} +- {spread:.4f} over {len(values)} seeds")
    plain, fast = (np.array(values) for values in found.values())
    gap = (fast - plain).mean()
    error = np.std(fast - plain, ddof=1) / len(plain) ** 0.5 if len(plain) > 1 else float("nan")
    print(f"difference {gap:+.4f}, standard error of the paired seeds {error:.4f}")


def _synchronise(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def _gpu_peak_mb(device: str) -> float:
    return torch.cuda.max_memory_allocated() / 2**20 if device == "cuda" else 0.0


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--width", type=float, default=0.125, help="factor of the encoder's channels (default 1/8)")
    add("--hidden", type=int, default=512, help="units of the first fully connected layer (default 512)")
    add("--dimension", type=int, default=128, help="dimension of the face features (default 128)")
    add("--batch", type=int, default=16, help="pairs per step (default 16)")
    add("--clips", type=int, default=64, help="number of artificial clips (default 64)")
    add("--steps", type=int, default=12, help="smallest number of measured steps (default 12)")
    add("--duration", type=float, default=6.0, help="seconds per clip (default 6)")
    add("--bandwidth", type=float, default=8000.0, help="highest frequency in Hz (default 8000)")
    add("--threads", type=int, default=2, help="number of CPU threads of torch (default 2)")
    add("--loader-threads", type=int, default=1, help="number of threads that prefetch batches (default 1)")
    add("--device", default="cpu", choices=["cpu", "cuda"], help="default cpu")
    add(
        "--precision",
        default="auto",
        choices=["auto", "no", "bf16"],
        help="default: bf16 if the hardware supports it",
    )
    add(
        "--channels-last",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="memory format of ours (default on)",
    )
    add("--compile", action="store_true", help="use torch.compile for ours")
    add("--accuracy", action="store_true", help="compare held-out cosines instead of speed")
    add("--seeds", type=int, default=3, help="number of seeds of --accuracy (default 3)")
    add("--epochs", type=int, default=10, help="number of epochs of --accuracy (default 10)")
    return parser.parse_args()


if __name__ == "__main__":
    main()
