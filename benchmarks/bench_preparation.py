"""Preparation: the report's recipe against ours, on the same clips, in one run and without network.

The recipe (report, "Data Preparation Details"): one process, clip by clip; moviepy for sound and frames,
dlib's CNN detector, librosa's spectrogram, and one pickle per clip with spectrogram and face features.
Ours: `s2f_lib.preparation.pipeline.prepare` on all cores, with the torch port of this detector; it writes
sound, face and features into shards with checksums, and a ledger. Both compute the same face features
(dlib's 128 dimensions, because VGG-Face's weights cannot be shipped). Both times include the start of
processes and models.

It is measured twice: with three frames per clip, scaled to 640 pixels (our default), and with one frame.
CPU seconds are reported next to elapsed seconds, because other programs hardly change them.

    python benchmarks/bench_preparation.py [--generated 15] [--workers 0] [--json FILE]
    python benchmarks/bench_preparation.py --many 2000

`--many N` prepares N / 10 and then N small clips, and compares the peak memory.
The real clips are in `../shared/data/clips`, if this folder exists.
"""

from __future__ import annotations

import argparse
import json
import logging
import multiprocessing
import os
import pickle
import platform
import resource
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from datetime import date
from itertools import chain
from pathlib import Path

import numpy as np
import psutil

from s2f_lib.config import (
    SAMPLE_RATE_HZ,
    PreparationConfig,
    SpectrogramConfig,
    StudyConfig,
    SyntheticConfig,
)
from s2f_lib.sources.clip import ClipRef

CLIPS = Path(__file__).resolve().parents[2] / "shared" / "data" / "clips"


class TreeMemory:
    """Samples the resident memory of this process's descendants; `peak_mb` is its highest sum.

    Pages that processes share are counted once per process, so the true sum is lower.
    """

    def __init__(self) -> None:
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self.peak_mb = 0.0
        self.processes = 0  # number of processes at the peak

    def __enter__(self) -> TreeMemory:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(0.1):
            sizes = []
            for process in psutil.Process().children(recursive=True):
                try:
                    sizes.append(process.memory_info().rss / 2**20)
                except psutil.NoSuchProcess:
                    continue
            if sum(sizes) > self.peak_mb:
                self.peak_mb, self.processes = sum(sizes), len(sizes)


@dataclass
class Result:
    """Time, memory and size of one method for a list of clips."""

    clips: int
    kept: int
    seconds: float  # elapsed
    cpu_seconds: float  # sum over all processes
    peak_mb: float = 0.0
    processes: int = 0
    bytes_per_clip: float = 0.0

    @property
    def clips_per_s(self) -> float:
        """Clips per elapsed second, including refused clips."""
        return self.clips / self.seconds


def cpu_seconds() -> float:
    """Return the CPU time of this process and of its children that have ended."""
    return sum(
        usage.ru_utime + usage.ru_stime
        for usage in map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    )


def recipe(clips: list[ClipRef], out: Path, config: StudyConfig) -> Result:
    """Prepare clips with the recipe of the report."""
    started = time.perf_counter()
    import warnings

    import librosa
    import moviepy

    from s2f_lib.faces.alignment import align_face
    from s2f_lib.faces.detector import DlibFaceDetector
    from s2f_lib.faces.extractor import make_extractor
    from s2f_lib.preparation.clip import locate_clip

    c, s = config.preparation, config.spectrogram
    detector, extractor = DlibFaceDetector(width_px=c.detection_width_px), make_extractor(config.features)
    warnings.simplefilter("ignore")  # moviepy warns about subtitle tracks
    n_kept = 0
    for clip in clips:
        with moviepy.VideoFileClip(str(clip.media)) as video:
            start_s, end_s = locate_clip(clip, video.duration)
            frames = [video.get_frame(start_s + share * (end_s - start_s)) for share in c.frame_positions]
            sound = video.audio.subclipped(start_s, min(end_s, start_s + c.audio_s, video.audio.duration))
            audio = sound.to_soundarray(fps=SAMPLE_RATE_HZ).mean(axis=1)
        found = detector.detect(frames)
        if any(len(faces) != 1 for faces in found):
            continue
        best = max(range(len(frames)), key=lambda index: found[index][0].confidence)
        face = align_face(frames[best], found[best][0]).image
        features = extractor(face[None])[0]
        spectrum = librosa.stft(
            np.resize(audio, s.n_samples).astype(np.float32),
            n_fft=s.fft_samples,
            hop_length=s.hop_samples,
            win_length=s.window_samples,
            center=False,
        ).T
        parts = np.stack([spectrum.real, spectrum.imag])
        parts = (np.sign(parts) * np.abs(parts) ** s.compression).astype(np.float32)
        with (out / f"{clip.clip_id}.pkl").open("wb") as stream:
            pickle.dump({"spectrogram": parts, "features": features}, stream)
        n_kept += 1
    return Result(len(clips), n_kept, time.perf_counter() - started, cpu_seconds())


def ours(clips: list[ClipRef], out: Path, config: StudyConfig) -> Result:
    """Prepare clips with the pipeline."""
    started = time.perf_counter()
    from s2f_lib.preparation.pipeline import prepare

    summary = prepare(clips, out, preparation=config.preparation, features=config.features)
    seconds = time.perf_counter() - started
    stages = ", ".join(f"{row.stage} {row.seconds_per_clip:.2f}" for row in summary.stages().itertuples())
    print(f"  worker seconds per clip: {stages}", flush=True)
    return Result(len(clips), summary.n_done, seconds, cpu_seconds())


def measured(function: Callable[..., Result], clips: list[ClipRef], out: Path, config: StudyConfig) -> Result:
    """Run a method in its own process, and add the memory of its process tree and the bytes that it wrote."""
    out.mkdir(parents=True)
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn) as pool:
        pool.submit(os.getpid).result()  # starts the process before the time is measured
        with TreeMemory() as memory:
            result = pool.submit(function, clips, out, config).result()
    result.peak_mb, result.processes = memory.peak_mb, memory.processes
    result.bytes_per_clip = size_bytes(out) / max(result.kept, 1)
    return result


def real_clips() -> list[ClipRef]:
    """Return the real clips next to the checkout; an empty list if there are none."""
    from s2f_lib.sources.avspeech import load_clips

    return list(load_clips(CLIPS / "avspeech_clips.csv", CLIPS)) if CLIPS.is_dir() else []


def generated_clips(folder: Path, count: int, *, size_px: tuple[int, int] = (640, 360)) -> list[ClipRef]:
    """Generate clips of synthetic people, with 25 frames per second."""
    from s2f_lib.sources.avspeech import load_clips
    from s2f_lib.sources.synthetic.clips import make_synthetic_clips

    width, height = size_px
    config = SyntheticConfig(
        n_train=max(count - 1, 1), n_test=1, width_px=width, height_px=height, frame_rate_hz=25
    )
    make_synthetic_clips(config, folder)
    return list(load_clips(folder / "clips.csv", folder / "media"))[:count]


def study(n_frames: int, workers: int) -> StudyConfig:
    """Return the settings of both methods."""
    positions = {1: (0.5,), 3: (0.25, 0.5, 0.75)}[n_frames]
    preparation = PreparationConfig(detector="torch", frame_positions=positions, workers=workers)
    return StudyConfig(preparation=preparation, spectrogram=SpectrogramConfig())


def cpu_name() -> str:
    """Return the name of the CPU, or its architecture if there is no name."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def size_bytes(folder: Path) -> int:
    """Return the bytes of pickles or shards in a folder."""
    return sum(path.stat().st_size for path in chain(folder.glob("*.pkl"), folder.glob("shard-*")))


def compare(clips: list[ClipRef], folder: Path, *, n_frames: int, workers: int) -> dict[str, dict]:
    """Measure both methods, print the results, and return them."""
    config = study(n_frames, workers)
    print(f"{n_frames} frame(s) per clip:")
    results = {}
    for name, function in (("the recipe", recipe), ("ours", ours)):
        result = results[name] = measured(function, clips, folder / f"{name.split()[-1]}-{n_frames}", config)
        print(
            f"  {name:10} {result.clips_per_s:6.2f} clips/s ({result.seconds:.1f} s elapsed, "
            f"{result.cpu_seconds / result.clips:.2f} CPU seconds per clip; "
            f"{result.kept} of {result.clips} prepared), peak memory {result.peak_mb:,.0f} MB "
            f"in {result.processes} process(es), {result.bytes_per_clip:,.0f} bytes per clip",
            flush=True,
        )
    old, new = results.values()
    print(
        f"  ratio: {new.clips_per_s / old.clips_per_s:.1f}x the clips/s, "
        f"{old.cpu_seconds / new.cpu_seconds:.1f}x fewer CPU seconds, "
        f"{new.bytes_per_clip / old.bytes_per_clip:.3f} of the bytes"
    )
    return {name: asdict(result) for name, result in results.items()}


def start_up(clips: list[ClipRef], folder: Path, *, workers: int) -> Result:
    """Return the result of ours with one clip per worker: nearly all of its time is loading."""
    result = measured(ours, clips[: workers or os.cpu_count()], folder / "start", study(1, workers))
    print(f"start of ours: {result.seconds:.1f} s elapsed, {result.cpu_seconds:.1f} CPU seconds")
    return result


def many(folder: Path, count: int, *, workers: int) -> None:
    """Measure whether memory grows with the number of clips."""
    originals = generated_clips(folder / "small", 8, size_px=(320, 240))
    base = study(1, workers)
    config = base.with_(preparation__detection_width_px=200)
    for n in (max(count // 10, 1), count):
        clips = [
            ClipRef(f"{number:011d}", f"{number:011d}", 0.0, original.duration_s, 0.5, 0.5, original.media)
            for number in range(n)
            for original in [originals[number % len(originals)]]
        ]
        result = measured(ours, clips, folder / f"many-{n}", config)
        print(
            f"{n} small clips ({result.kept} prepared): peak memory {result.peak_mb:,.0f} MB "
            f"in {result.processes} processes, {result.clips_per_s:.1f} clips/s",
            flush=True,
        )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--generated", type=int, default=15, help="number of synthetic clips, 640x360 (default 15)"
    )
    parser.add_argument(
        "--workers", type=int, default=0, help="number of processes of ours; 0: one per core (default)"
    )
    parser.add_argument("--json", type=Path, help="also write the results into this file")
    parser.add_argument(
        "--many", type=int, default=0, help="measure only the memory, with this number of small clips"
    )
    options = parser.parse_args()
    logging.disable(logging.INFO)
    load = os.getloadavg()[0]  # of other programs, before the benchmark
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        if options.many:
            many(folder, options.many, workers=options.workers)
            return
        real = real_clips()
        clips = real + generated_clips(folder / "generated", options.generated)
        print(
            f"{len(real)} real clips, {len(clips) - len(real)} generated; "
            f"{options.workers or os.cpu_count()} worker(s), {os.cpu_count()} core(s)"
        )
        results = {"start": asdict(start_up(clips, folder, workers=options.workers))}
        for n_frames in (3, 1):
            results[f"frames_{n_frames}"] = compare(clips, folder, n_frames=n_frames, workers=options.workers)
        s = SpectrogramConfig()
        as_spectrogram = 2 * s.n_frames * s.n_bins * 4
        print(
            f"6 s of a clip as 16-bit sound: {2 * s.n_samples:,} bytes; as its spectrogram in float32: "
            f"{as_spectrogram:,} bytes ({as_spectrogram / (2 * s.n_samples):.1f}x), "
            f"in float16 {as_spectrogram // 2:,}"
        )
    if options.json:
        about = {
            "measured_on": f"{date.today():%Y-%m-%d}",
            "cpu": cpu_name(),
            "cores": os.cpu_count(),
            "workers": options.workers or os.cpu_count(),
            "load_average": round(load, 2),
            "real_clips": len(real),
            "generated_clips": len(clips) - len(real),
        }
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(about | results, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
