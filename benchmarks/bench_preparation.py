"""Preparation: the report's recipe against ours, on the same clips, in one run and without network.

The recipe (report, "Data Preparation Details"): one process, clip by clip; moviepy for sound and frames,
dlib's CNN detector, librosa's spectrogram, and a pickle of spectrogram and face features a clip.
Ours: `s2f_lib.preparation.pipeline.prepare` on all cores, with the torch port of that detector; sound, face
and features into shards, checksums and ledger included.  Both compute the same face features (dlib's
128-D: VGG-Face's weights cannot be shipped), and both times include the start of processes and models.

Measured twice: both look at three frames of a clip, scaled to 640 pixels (ours by default), and both at one.
Seconds of the processor are counted beside those of the clock: they hardly change where other programs run.

    python benchmarks/bench_preparation.py [--generated 15] [--workers 0] [--json FILE]
    python benchmarks/bench_preparation.py --many 2000

`--many` prepares so many small clips, and a tenth of them, and compares the peak memory of the two.
Real clips are those of `../shared/data/clips`, where they are.
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

from s2f_lib.config import PreparationConfig, SpectrogramConfig, StudyConfig, SyntheticConfig
from s2f_lib.sources.clip import ClipRef

CLIPS = Path(__file__).resolve().parents[2] / "shared" / "data" / "clips"


class TreeMemory:
    """Samples the resident memory of this process's descendants; `peak_mb` is its highest sum.

    Pages that processes share count for each, so the true sum is lower.
    """

    def __init__(self) -> None:
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self.peak_mb = 0.0
        self.processes = 0  # when it was highest

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
    """What a way took for a list of clips."""

    clips: int
    kept: int
    seconds: float  # by the clock
    cpu_seconds: float  # of all its processes
    peak_mb: float = 0.0
    processes: int = 0
    bytes_per_clip: float = 0.0

    @property
    def clips_per_s(self) -> float:
        """Clips a second by the clock, refused ones included."""
        return self.clips / self.seconds


def cpu_seconds() -> float:
    """Return the processor time of this process and of its children that have ended."""
    return sum(
        usage.ru_utime + usage.ru_stime
        for usage in map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    )


def recipe(clips: list[ClipRef], out: Path, config: StudyConfig) -> Result:
    """Prepare clips as the report did."""
    started = time.perf_counter()
    import warnings

    import librosa
    import moviepy

    from s2f_lib.faces.alignment import align_face
    from s2f_lib.faces.detector import DlibFaceDetector
    from s2f_lib.faces.extractor import make_extractor
    from s2f_lib.preparation.stages import locate_clip

    c, s = config.preparation, config.spectrogram
    detector, extractor = DlibFaceDetector(width_px=c.detection_width_px), make_extractor(config.features)
    warnings.simplefilter("ignore")  # moviepy's, about tracks of subtitles
    n_kept = 0
    for clip in clips:
        with moviepy.VideoFileClip(str(clip.media)) as video:
            start_s, end_s = locate_clip(clip, video.duration)
            frames = [video.get_frame(start_s + share * (end_s - start_s)) for share in c.frame_positions]
            sound = video.audio.subclipped(start_s, min(end_s, start_s + c.audio_s, video.audio.duration))
            audio = sound.to_soundarray(fps=c.sample_rate_hz).mean(axis=1)
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
    """Prepare clips by the pipeline."""
    started = time.perf_counter()
    from s2f_lib.preparation.pipeline import prepare

    summary = prepare(config, clips, out)
    seconds = time.perf_counter() - started
    stages = ", ".join(f"{row.stage} {row.seconds_per_clip:.2f}" for row in summary.stages().itertuples())
    print(f"  seconds of a worker a clip: {stages}", flush=True)
    return Result(len(clips), summary.n_done, seconds, cpu_seconds())


def measured(function: Callable[..., Result], clips: list[ClipRef], out: Path, config: StudyConfig) -> Result:
    """Run a way in a process of its own, and add the memory of its tree and the bytes it wrote."""
    out.mkdir(parents=True)
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn) as pool:
        pool.submit(os.getpid).result()  # the process is there before the clock runs
        with TreeMemory() as memory:
            result = pool.submit(function, clips, out, config).result()
    result.peak_mb, result.processes = memory.peak_mb, memory.processes
    result.bytes_per_clip = size_bytes(out) / max(result.kept, 1)
    return result


def real_clips() -> list[ClipRef]:
    """Return the real clips beside the checkout; none where there are none."""
    from s2f_lib.sources.avspeech import load_clips

    return list(load_clips(CLIPS / "avspeech_clips.csv", CLIPS)) if CLIPS.is_dir() else []


def generated_clips(folder: Path, count: int, *, size_px: tuple[int, int] = (640, 360)) -> list[ClipRef]:
    """Make clips of generated people, 25 frames a second."""
    from s2f_lib.sources.avspeech import load_clips
    from s2f_lib.sources.synthetic.clips import make_synthetic_clips

    width, height = size_px
    config = SyntheticConfig(
        n_train=max(count - 1, 1), n_test=1, width_px=width, height_px=height, frame_rate_hz=25
    )
    make_synthetic_clips(config, folder)
    return list(load_clips(folder / "clips.csv", folder / "media"))[:count]


def study(n_frames: int, workers: int) -> StudyConfig:
    """Return the settings of both ways."""
    positions = {1: (0.5,), 3: (0.25, 0.5, 0.75)}[n_frames]
    preparation = PreparationConfig(detector="torch", frame_positions=positions, workers=workers)
    return StudyConfig(preparation=preparation, spectrogram=SpectrogramConfig())


def cpu_name() -> str:
    """Return the processor's name, or its architecture where it has none."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def size_bytes(folder: Path) -> int:
    """Return the bytes of pickles or shards in a folder."""
    return sum(path.stat().st_size for path in chain(folder.glob("*.pkl"), folder.glob("shard-*")))


def compare(clips: list[ClipRef], folder: Path, *, n_frames: int, workers: int) -> dict[str, dict]:
    """Measure both ways, print, and return the results."""
    config = study(n_frames, workers)
    print(f"{n_frames} frame(s) of a clip looked at:")
    results = {}
    for name, function in (("the recipe", recipe), ("ours", ours)):
        result = results[name] = measured(function, clips, folder / f"{name.split()[-1]}-{n_frames}", config)
        print(
            f"  {name:10} {result.clips_per_s:6.2f} clips/s ({result.seconds:.1f} s by the clock, "
            f"{result.cpu_seconds / result.clips:.2f} s of the processor a clip; "
            f"{result.kept} of {result.clips} kept), peak memory {result.peak_mb:,.0f} MB "
            f"in {result.processes} process(es), {result.bytes_per_clip:,.0f} bytes a clip",
            flush=True,
        )
    old, new = results.values()
    print(
        f"  ratio: {new.clips_per_s / old.clips_per_s:.1f}x the clips/s, "
        f"{old.cpu_seconds / new.cpu_seconds:.1f}x fewer seconds of the processor, "
        f"{new.bytes_per_clip / old.bytes_per_clip:.3f} of the bytes"
    )
    return {name: asdict(result) for name, result in results.items()}


def start_up(clips: list[ClipRef], folder: Path, *, workers: int) -> Result:
    """Return what ours takes for a clip a worker: nearly all of it is loading libraries and models."""
    result = measured(ours, clips[: workers or os.cpu_count()], folder / "start", study(1, workers))
    print(f"start of ours: {result.seconds:.1f} s by the clock, {result.cpu_seconds:.1f} s of the processor")
    return result


def many(folder: Path, count: int, *, workers: int) -> None:
    """Measure whether memory grows with the number of clips."""
    originals = generated_clips(folder / "small", 8, size_px=(320, 240))
    base = study(1, workers)
    settings = {"detection_width_px": 200}
    config = base.model_copy(update={"preparation": base.preparation.model_copy(update=settings)})
    for n in (max(count // 10, 1), count):
        clips = [
            ClipRef(f"{number:011d}", f"{number:011d}", 0.0, original.duration_s, 0.5, 0.5, original.media)
            for number in range(n)
            for original in [originals[number % len(originals)]]
        ]
        result = measured(ours, clips, folder / f"many-{n}", config)
        print(
            f"{n} small clips ({result.kept} kept): peak memory {result.peak_mb:,.0f} MB "
            f"in {result.processes} processes, {result.clips_per_s:.1f} clips/s",
            flush=True,
        )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--generated", type=int, default=15, help="generated clips, 640x360 (default 15)")
    parser.add_argument("--workers", type=int, default=0, help="of ours; 0: one a core")
    parser.add_argument("--json", type=Path, help="write the results there, too")
    parser.add_argument("--many", type=int, default=0, help="measure memory over so many small clips instead")
    options = parser.parse_args()
    logging.disable(logging.INFO)
    load = os.getloadavg()[0]  # other programs, before ours
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
            f"a clip's 6 s as 16-bit sound: {2 * s.n_samples:,} bytes; as its spectrogram in float32: "
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
