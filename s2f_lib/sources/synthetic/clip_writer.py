"""Frames and sound to an MP4 file (H.264 and AAC), whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path

import numpy as np

AUDIO_RATE_HZ = 44_100
_AAC_SAMPLES = 1024  # of one AAC frame
_AUDIO_BIT_RATE = 96_000


def write_clip(
    path: Path,
    frames: Iterable[np.ndarray],
    audio: np.ndarray,
    *,
    frame_rate_hz: float,
    sample_rate_hz: int = AUDIO_RATE_HZ,
) -> None:
    """Write one clip; the name appears only when the file is complete.

    Parameters
    ----------
    path
        Of the MP4 file; its folder exists.
    frames
        Each (height, width, 3) uint8 RGB, height and width even.
    audio
        (n,) float32 in [-1, 1], mono.
    frame_rate_hz, sample_rate_hz
        Of the frames and of the audio.
    """
    import av

    # a hidden name of this process's own: two runs into one folder do not disturb each other
    partial = path.with_name(f".{path.stem}.{os.getpid()}.part")
    rate = Fraction(frame_rate_hz).limit_denominator(1000)
    try:
        with av.open(str(partial), "w", format="mp4") as container:
            # one thread, because x264's threads change the bytes; the clips are what runs in parallel
            video = container.add_stream(
                "libx264", rate=rate, options={"preset": "superfast", "crf": "20", "threads": "1"}
            )
            video.pix_fmt = "yuv420p"
            sound = container.add_stream(
                "aac", rate=sample_rate_hz, layout="mono", options={"aac_coder": "fast"}
            )
            sound.bit_rate = _AUDIO_BIT_RATE
            for number, picture in enumerate(frames):
                if number == 0:
                    video.height, video.width = picture.shape[:2]
                frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
                frame.pts, frame.time_base = number, 1 / rate
                container.mux(video.encode(frame))
            container.mux(video.encode(None))
            for start in range(0, len(audio), _AAC_SAMPLES):
                part = np.ascontiguousarray(audio[None, start : start + _AAC_SAMPLES], dtype=np.float32)
                frame = av.AudioFrame.from_ndarray(part, format="fltp", layout="mono")
                frame.sample_rate = sample_rate_hz
                frame.pts, frame.time_base = start, Fraction(1, sample_rate_hz)
                container.mux(sound.encode(frame))
            container.mux(sound.encode(None))
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
