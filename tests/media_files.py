"""Small real media files for tests: faces that the real detector finds, and a tone."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np

WIDTH_PX, HEIGHT_PX, FRAME_RATE_HZ, SAMPLE_RATE_HZ = 320, 240, 10, 16_000


def draw_portraits(
    centres: tuple[tuple[int, int], ...], *, face_px: int = 90, tilt_deg: float = 0.0
) -> np.ndarray:
    """Return (240, 320, 3) uint8 RGB: shaded faces on grey, about as wide as `face_px`."""
    image = np.full((HEIGHT_PX, WIDTH_PX, 3), 120, np.uint8)
    for centre in centres:
        _draw_face(image, centre, face_px, tilt_deg)
    return cv2.GaussianBlur(image, (3, 3), 0)


def _draw_face(image: np.ndarray, centre: tuple[int, int], face_px: int, tilt_deg: float) -> None:
    s = face_px / 100

    def at(dx: float, dy: float) -> tuple[int, int]:
        angle = np.deg2rad(tilt_deg)
        x, y = dx * np.cos(angle) - dy * np.sin(angle), dx * np.sin(angle) + dy * np.cos(angle)
        return round(centre[0] + s * x), round(centre[1] + s * y)

    def oval(dx, dy, rx, ry, colour, start=0, end=360, thickness=-1):
        axes = (max(1, round(s * rx)), max(1, round(s * ry)))
        cv2.ellipse(image, at(dx, dy), axes, tilt_deg, start, end, colour, thickness, cv2.LINE_AA)

    oval(0, -14, 52, 66, (60, 40, 30))  # hair
    for shade in range(12):  # light from the front: paler towards the middle
        tone = np.array([190, 140, 115]) + 3 * shade
        oval(0, 0, 45 - 2.2 * shade, 60 - 3 * shade, tuple(int(c) for c in tone))
    for side in (-1, 1):
        oval(side * 19, -24, 12, 3, (70, 45, 35), 180, 360, max(1, round(3 * s)))  # brow
        oval(side * 19, -12, 10, 5, (245, 245, 240))
        oval(side * 19, -12, 4.5, 4.5, (40, 30, 25))
        oval(side * 5, 14, 3, 2, (120, 70, 60))  # nostril
    oval(0, 10, 9, 5, (170, 115, 95), 20, 160, max(1, round(2 * s)))
    oval(0, 32, 17, 6, (160, 60, 60))
    oval(0, 31, 15, 1, (90, 30, 30))


def tone(duration_s: float, *, rate_hz: int = SAMPLE_RATE_HZ, frequency_hz: float = 440.0) -> np.ndarray:
    """Return (n,) int16: a tone at a third of full scale."""
    seconds = np.arange(round(duration_s * rate_hz)) / rate_hz
    return np.round(32_767 / 3 * np.sin(2 * np.pi * frequency_hz * seconds)).astype(np.int16)


def write_media(
    path: Path,
    *,
    duration_s: float = 2.0,
    image: np.ndarray | Callable[[int], np.ndarray] | None = None,
    sound: np.ndarray | None = None,
    sound_rate_hz: int = SAMPLE_RATE_HZ,
    video_codec: str = "libx264",
    audio_codec: str = "aac",
    rotation_deg: int = 0,
    frame_rate_hz: int = FRAME_RATE_HZ,
) -> Path:
    """Write a media file; without `image` it has no video track, without `sound` no audio track.

    `image` is the image of all frames, or a function of the frame's number.
    """
    with av.open(str(path), "w") as container:
        video = audio = None
        if image is not None:
            video = container.add_stream(video_codec, rate=frame_rate_hz)
            first = image(0) if callable(image) else image
            video.height, video.width, video.pix_fmt = *first.shape[:2], "yuv420p"
            video.codec_context.gop_size = 12
            if rotation_deg:
                video.set_display_rotation(rotation_deg)
        if sound is not None:
            audio = container.add_stream(audio_codec, rate=sound_rate_hz, layout="mono")
        if video is not None:
            for number in range(round(duration_s * frame_rate_hz)):
                pixels = image(number) if callable(image) else image
                frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
                frame.pts, frame.time_base = number, Fraction(1, frame_rate_hz)
                container.mux(video.encode(frame))
            container.mux(video.encode(None))
        if audio is not None:
            frame = av.AudioFrame.from_ndarray(sound[None], format="s16", layout="mono")
            frame.sample_rate, frame.pts, frame.time_base = sound_rate_hz, 0, Fraction(1, sound_rate_hz)
            container.mux(audio.encode(frame))
            container.mux(audio.encode(None))
    return path
