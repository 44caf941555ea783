"""Small real videos for the download."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

SAMPLE_RATE_HZ = 16_000


def write_video(
    path: Path,
    duration_s: float,
    *,
    size_px: int = 64,
    rate_hz: int = 10,
    gop: int = 10,
    faststart: bool = True,
    streams: str = "av",
) -> Path:
    """Write an MP4 file whose grey level and tone give the time.

    The grey level is 40 + 4 t at t seconds. The tone has 200 Hz in the first second, and 100 Hz more in each
    second that follows. `streams` names the streams: video (v) and audio (a).
    """
    import av

    options = {"movflags": "faststart"} if faststart else {}
    with av.open(str(path), "w", options=options) as file:
        if "v" in streams:
            video = file.add_stream("libx264", rate=rate_hz)
            video.width = video.height = size_px
            video.pix_fmt = "yuv420p"
            video.options = {
                "g": str(gop),
                "keyint_min": str(gop),
                "sc_threshold": "0",
                "preset": "ultrafast",
            }
        if "a" in streams:
            audio = file.add_stream("aac", rate=SAMPLE_RATE_HZ, layout="mono")
        if "v" in streams:
            for index in range(round(duration_s * rate_hz)):
                grey = np.full((size_px, size_px, 3), round(40 + 4 * index / rate_hz), np.uint8)
                frame = av.VideoFrame.from_ndarray(grey, format="rgb24")
                frame.pts = index
                file.mux(video.encode(frame))
            file.mux(video.encode())
        if "a" in streams:
            file.mux(audio.encode(_tones(duration_s)))
            file.mux(audio.encode())
    return path


def _tones(duration_s: float):
    import av

    times_s = np.arange(round(duration_s * SAMPLE_RATE_HZ)) / SAMPLE_RATE_HZ
    tone = np.sin(2 * np.pi * (200 + 100 * np.floor(times_s)) * times_s)
    sound = av.AudioFrame.from_ndarray((8000 * tone).astype(np.int16)[None], format="s16", layout="mono")
    sound.sample_rate, sound.pts = SAMPLE_RATE_HZ, 0
    return sound


@pytest.fixture(scope="session")
def make_video(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., bytes]:
    """A function like `write_video` that returns the bytes of the file; each file is made once."""
    made: dict[tuple, bytes] = {}

    def make(duration_s: float, **options: object) -> bytes:
        key = (duration_s, *sorted(options.items()))
        if key not in made:
            path = tmp_path_factory.mktemp("video") / "video.mp4"
            made[key] = write_video(path, duration_s, **options).read_bytes()
        return made[key]

    return make
