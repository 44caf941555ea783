"""Functions of two training benchmarks: artificial clips, peak memory, and new processes."""

from __future__ import annotations

import multiprocessing as mp
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from s2f_lib.config import SAMPLE_RATE_HZ
from s2f_lib.media.jpeg import encode_jpeg
from s2f_lib.preparation.shards import PreparedRow, shard_name, write_shard


def make_shards(
    folder: Path, *, n: int, duration_s: float = 6.0, dimension: int = 128, seed: int = 0
) -> None:
    """Write shards of artificial clips: vowel-like voices that correlate with the face features."""
    rng = np.random.default_rng(seed)
    mixing = rng.normal(size=(4, dimension))
    time_s = np.arange(round(duration_s * SAMPLE_RATE_HZ)) / SAMPLE_RATE_HZ
    face = encode_jpeg(rng.integers(0, 255, (224, 224, 3), np.uint8), quality=80)
    rows: list[PreparedRow] = []
    for index in range(n):
        latents = rng.normal(size=4)
        pitch_hz = 150 * 2 ** (0.4 * latents[0]) * (1 + 0.02 * np.sin(2 * np.pi * 5 * time_s))
        phase = 2 * np.pi * np.cumsum(pitch_hz) / SAMPLE_RATE_HZ
        audio = np.zeros_like(time_s)
        for harmonic in range(1, 20):
            at_hz = 150 * 2 ** (0.4 * latents[0]) * harmonic
            formants = [700 * 2 ** (0.2 * latents[1]), 1_800 * 2 ** (0.2 * latents[2])]
            level = sum(np.exp(-(((at_hz - f) / 300) ** 2)) for f in formants) + 0.05
            audio += level * np.sin(harmonic * phase)
        audio = 3_000 * audio * np.clip(np.sin(2 * np.pi * 2 * time_s + latents[3]), 0, 1)
        audio = (audio + rng.normal(0, 100, len(audio))).clip(-32_768, 32_767)
        features = 3 + latents @ mixing + 0.3 * rng.normal(size=dimension)
        rows.append(
            PreparedRow(
                clip_id=f"clip{index:05d}", video_id=f"video{index:05d}", split="train", start_s=0.0,
                end_s=duration_s, x=0.5, y=0.5, media="made-up", audio=audio.astype(np.int16),
                n_audio_samples=len(audio), crop=face, box=(0, 0, 1, 1), detection_confidence=1.0,
                eye_angle_deg=0.0, frame_time_s=0.0, features=features.astype(np.float16),
            )
        )  # fmt: skip
        if len(rows) == 256 or index == n - 1:
            write_shard(folder / shard_name(index // 256), rows, provenance={"made": "for a benchmark"})
            rows = []


class PeakMemory:
    """Samples this process's resident memory in a thread; `peak_mb` is its maximum."""

    def __init__(self) -> None:
        self._process = psutil.Process()
        self._stop = threading.Event()
        self.peak_mb = 0.0

    def __enter__(self) -> PeakMemory:
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.is_set():
            self.peak_mb = max(self.peak_mb, self._process.memory_info().rss / 2**20)
            time.sleep(0.02)


def in_own_process(function: Callable[..., Any], *arguments: Any) -> Any:
    """Return the result of a function that runs in a new process with its own memory."""
    context = mp.get_context("spawn")
    with context.Pool(1) as pool:
        return pool.apply(function, arguments)
