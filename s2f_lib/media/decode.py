"""Sound and frames of a media file, decoded with PyAV.

The functions seek, and decode only what is needed. Times are seconds from the start of the file. Every
problem of a file is raised as `ClipRefused` with its reason, never as a decoder's error.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np

from s2f_lib.errors import ClipRefused, RefusalReason

# Formats of videos with sound. Playlists and text formats are missing on purpose: they name other files, and
# a downloaded file must not decide which files are opened. The second and third lines are audio formats.
_FORMATS = (
    "mov,mp4,matroska,webm,mpeg,mpegts,avi,flv,asf,ogg,wav,mp3,flac,aac,mpegvideo,h264,m4v,3gp,"
    "aiff,caf,au,amr,amrnb,amrwb,ac3,eac3,dts,wv,w64,tta,ape,tak,shn,mpc,mpc8,voc,gsm,sln,ircam,"
    "nistsphere,pvf,sox,dsf,dss,iff,oma,xwma,qcp,wve,loas,lc3,codec2"
)

_ESTIMATED = frozenset({"mp3", "aac", "ac3", "eac3", "dts", "amr", "loas"})  # estimated as size / bit rate
SHORTFALL_S = 0.5  # a track may end this much before the clip: two tracks rarely end together
_SILENCE_PEAK = 2  # of 32,768: a codec may turn digital silence into this
_SEEK_GAP_S = 2.0  # closer targets are reached by decoding: key frames are about as far apart
_SEEK_EARLY_S = 1.0  # a seek without an index is inexact; this margin covers two key frames


@dataclass(frozen=True, slots=True)
class MediaInfo:
    """Properties of a media file, as the file states them."""

    duration_s: float  # 0.0 if it is unknown
    has_audio: bool
    has_video: bool


def probe(path: Path) -> MediaInfo:
    """Return the properties of a media file, without decoding.

    If the file does not state its duration, its packets are read. It raises `ClipRefused`: MEDIA_MISSING,
    NOT_MEDIA or TRUNCATED (an MP4 without its index).
    """
    with _opened(path) as container:
        streams = container.streams
        return MediaInfo(_duration_s(container), bool(streams.audio), bool(streams.video))


def read_audio(path: Path, *, start_s: float, end_s: float, sample_rate_hz: int) -> np.ndarray:
    """Decode a part of the sound, mixed to mono.

    Parameters
    ----------
    path
        Media file.
    start_s, end_s
        Start and end of the part, in seconds.
    sample_rate_hz
        Sample rate of the result.

    Returns
    -------
    numpy.ndarray
        `(n,)` int16, n at most `round((end_s - start_s) * sample_rate_hz)`.

    Raises
    ------
    ClipRefused
        NO_AUDIO, SILENT, TRUNCATED (the sound ends more than 0.5 s early), and the reasons of `probe`.

    See Also
    --------
    read_frames : Decodes the images.

    Examples
    --------
    >>> import wave
    >>> from pathlib import Path
    >>> from tempfile import mkdtemp
    >>> path = Path(mkdtemp()) / "ramp.wav"
    >>> with wave.open(str(path), "wb") as file:
    ...     file.setparams((1, 2, 8_000, 0, "NONE", ""))
    ...     file.writeframes(np.arange(8_000, dtype=np.int16).tobytes())
    >>> read_audio(path, start_s=0.5, end_s=1.0, sample_rate_hz=8_000)[:3]
    array([4000, 4001, 4002], dtype=int16)
    """
    audio = _mono(path, start_s=start_s, end_s=end_s, sample_rate_hz=sample_rate_hz)
    found_s = len(audio) / sample_rate_hz
    if found_s < (end_s - start_s) - SHORTFALL_S:
        raise ClipRefused(
            RefusalReason.TRUNCATED,
            f"{path.name}: the sound ends {found_s:.2f} s into the clip, expected {end_s - start_s:.2f} s",
        )
    return _not_silent(audio, path, sample_rate_hz=sample_rate_hz)


def read_recording(path: Path, *, longest_s: float, sample_rate_hz: int) -> np.ndarray:
    """Decode the first `longest_s` seconds of a recording, mixed to mono, `(n,)` int16 with n >= 1.

    It does not use the length that the file states: a browser's recorder writes none, and in some formats it
    is an estimate.
    """
    audio = _mono(path, start_s=0.0, end_s=longest_s, sample_rate_hz=sample_rate_hz)
    if len(audio) == 0:
        raise ClipRefused(RefusalReason.TRUNCATED, f"{path.name}: no sound in it can be decoded")
    return _not_silent(audio, path, sample_rate_hz=sample_rate_hz)


def read_frames(path: Path, *, times_s: Sequence[float]) -> list[np.ndarray]:
    """Decode the video frames nearest to some times.

    Parameters
    ----------
    path
        Media file.
    times_s
        Ascending times, in seconds.

    Returns
    -------
    list of numpy.ndarray
        One `(height, width, 3)` uint8 RGB image per time, turned upright by the file's rotation mark.

    Raises
    ------
    ClipRefused
        NO_VIDEO, TRUNCATED (the video ends more than 0.5 s before a time), and the reasons of `probe`.

    Examples
    --------
    >>> import av
    >>> from pathlib import Path
    >>> from tempfile import mkdtemp
    >>> path = Path(mkdtemp()) / "grey.mp4"
    >>> with av.open(str(path), "w") as container:
    ...     stream = container.add_stream("mpeg4", rate=10, width=64, height=48)
    ...     frames = [av.VideoFrame.from_ndarray(np.full((48, 64, 3), 90, np.uint8)) for _ in range(5)]
    ...     for frame in [*frames, None]:
    ...         container.mux(stream.encode(frame))
    >>> read_frames(path, times_s=[0.2])[0].shape
    (48, 64, 3)
    """
    with _opened(path) as container:
        if not container.streams.video:
            raise ClipRefused(RefusalReason.NO_VIDEO, f"{path.name} has no video track")
        stream = container.streams.video[0]
        stream.thread_type = "NONE"  # clips are decoded in parallel, so the codec uses one thread
        return [_upright_rgb(frame) for frame in _frames_at(container, stream, times_s, name=path.name)]


def repeat_to(audio: np.ndarray, n_samples: int) -> np.ndarray:
    """Repeat short audio, or cut long audio, to a length (Speech2Face, section 3).

    Parameters
    ----------
    audio
        `(n,)` samples, n >= 1.
    n_samples
        Length of the result.

    Returns
    -------
    numpy.ndarray
        `(n_samples,)`, in the dtype of `audio`.

    Raises
    ------
    ValueError
        There are no samples.

    Examples
    --------
    >>> repeat_to(np.array([1, 2, 3]), 5)
    array([1, 2, 3, 1, 2])
    """
    if len(audio) == 0:
        raise ValueError("repeat_to: given no samples, expected at least one")
    return np.resize(audio, n_samples)  # numpy's resize repeats from the start


def _mono(path: Path, *, start_s: float, end_s: float, sample_rate_hz: int) -> np.ndarray:
    """Return the sound of the part that can be decoded, `(n,)` int16."""
    n_wanted = round((end_s - start_s) * sample_rate_hz)
    with _opened(path) as container:
        if not container.streams.audio:
            raise ClipRefused(RefusalReason.NO_AUDIO, f"{path.name} has no audio track")
        stream = container.streams.audio[0]
        stream.thread_type = "NONE"  # clips are decoded in parallel, so the codec uses one thread
        resampler = av.AudioResampler(format="s16", layout="mono", rate=sample_rate_hz)
        parts: list[np.ndarray] = []
        for frame in _audio_frames(container, stream, start_s=start_s, end_s=end_s):
            parts += [out.to_ndarray()[0] for out in resampler.resample(frame)]
        if parts:  # the resampler still holds the end
            parts += [out.to_ndarray()[0] for out in resampler.resample(None)]
    return np.ascontiguousarray(np.concatenate(parts)[:n_wanted]) if parts else np.zeros(0, np.int16)


def _not_silent(audio: np.ndarray, path: Path, *, sample_rate_hz: int) -> np.ndarray:
    if len(audio) == 0 or np.abs(audio.astype(np.int32)).max() <= _SILENCE_PEAK:
        found_s = len(audio) / sample_rate_hz
        raise ClipRefused(RefusalReason.SILENT, f"{path.name}: {found_s:.2f} s of digital silence")
    return audio


def _audio_frames(container: Any, stream: Any, *, start_s: float, end_s: float) -> Iterator[Any]:
    """Yield the decoded frames that overlap [start_s, end_s), trimmed to the sample at both ends."""
    origin_s = _origin_s(container)
    frames = _decoded(container, stream)
    if start_s > _SEEK_GAP_S:
        frames, frame = _after_seek(container, stream, start_s, origin_s)
        frames = itertools.chain([frame] if frame is not None else [], frames)
    for frame in frames:
        if frame.pts is None:
            continue
        first_s = float(frame.pts * frame.time_base) - origin_s
        skip = max(0, round((start_s - first_s) * frame.sample_rate))
        keep = min(frame.samples, round((end_s - first_s) * frame.sample_rate))
        if keep <= 0:
            return
        if skip >= frame.samples:
            continue
        if skip or keep < frame.samples:
            samples = frame.to_ndarray()
            channels = 1 if frame.format.is_planar else len(frame.layout.channels)
            cut = av.AudioFrame.from_ndarray(
                np.ascontiguousarray(samples[:, skip * channels : keep * channels]),
                format=frame.format.name,
                layout=frame.layout.name,
            )
            cut.sample_rate, cut.time_base = frame.sample_rate, frame.time_base
            frame = cut
        frame.pts = None  # the resampler then counts samples and does not fill gaps with silence
        yield frame


def _frames_at(container: Any, stream: Any, times_s: Sequence[float], *, name: str) -> Iterator[Any]:
    """Yield the decoded frame nearest to each of some ascending times."""
    origin_s = _origin_s(container)
    half_frame_s = 0.5 / float(stream.average_rate or 25)
    frames, frame, now_s = _decoded(container, stream), None, 0.0
    for time_s in times_s:
        if time_s - now_s > _SEEK_GAP_S:
            frames, frame = _after_seek(container, stream, time_s, origin_s)
            now_s = _time_s(frame, origin_s) if frame is not None else now_s
        while frame is None or now_s < time_s - half_frame_s:
            following = next(frames, None)
            if following is None:
                break
            frame, now_s = following, _time_s(following, origin_s)
        if frame is None or now_s < time_s - SHORTFALL_S:
            raise ClipRefused(
                RefusalReason.TRUNCATED,
                f"{name}: the video ends at {now_s:.2f} s, expected a frame at {time_s:.2f} s",
            )
        yield frame


def _after_seek(container: Any, stream: Any, time_s: float, origin_s: float) -> tuple[Iterator[Any], Any]:
    """Seek to a little before a time. Return the frames from there on, and the first of them.

    If the seek lands after the time, decoding starts at the beginning of the file.
    """
    for target_s in (max(0.0, time_s - _SEEK_EARLY_S), 0.0):
        target = round((target_s + origin_s) / stream.time_base)
        try:
            container.seek(target, stream=stream, backward=True)
        except av.error.FFmpegError:
            container.seek(0)
        frames = _decoded(container, stream)
        frame = next(frames, None)
        if frame is not None and _time_s(frame, origin_s) <= time_s:
            break
    return frames, frame


def _decoded(container: Any, stream: Any) -> Iterator[Any]:
    """Yield decoded frames until the file ends.

    Packets that cannot be decoded are skipped, because after a seek in an MPEG file the first one is often
    half a frame. The callers check what is missing.
    """
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets, None)
        except av.error.FFmpegError:  # the rest of the container is damaged
            return
        if packet is None:
            return
        try:
            yield from packet.decode()
        except av.error.EOFError:
            return
        except av.error.FFmpegError:
            continue


def _time_s(frame: Any, origin_s: float) -> float:
    return (frame.time or 0.0) - origin_s


def _origin_s(container: Any) -> float:
    """Return the time stamp of the start of the file; in MPEG files it is rarely 0."""
    return (container.start_time or 0) / 1e6


def _duration_s(container: Any) -> float:
    if container.duration and container.format.name not in _ESTIMATED:
        return container.duration / 1e6
    lengths = [float(s.duration * s.time_base) for s in container.streams if s.duration and s.time_base]
    if lengths and container.format.name not in _ESTIMATED:
        return max(lengths)
    end_s = 0.0
    with suppress(av.error.FFmpegError):  # the file may be truncated
        for packet in container.demux():
            if packet.pts is not None:
                end_s = max(end_s, float((packet.pts + (packet.duration or 0)) * packet.time_base))
    return max(0.0, end_s - _origin_s(container))


def _upright_rgb(frame: Any) -> np.ndarray:
    image = frame.to_ndarray(format="rgb24")
    quarter_turns = round(getattr(frame, "rotation", 0) / 90) % 4  # PyAV 12 has no `rotation`
    return np.ascontiguousarray(np.rot90(image, quarter_turns))  # both count anticlockwise


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """Open a media file, or raise `ClipRefused` with the reason."""
    if not path.is_file():
        raise ClipRefused(RefusalReason.MEDIA_MISSING, f"no file at {path}")
    try:
        container = av.open(str(path), options={"format_whitelist": _FORMATS, "protocol_whitelist": "file"})
    except (av.error.FFmpegError, OSError, ValueError) as error:
        raise _unreadable(path, error) from None
    with container:
        if not container.streams.audio and not container.streams.video:
            raise ClipRefused(RefusalReason.NOT_MEDIA, f"{path.name} holds neither sound nor video")
        yield container


def _unreadable(path: Path, error: Exception) -> ClipRefused:
    with path.open("rb") as stream:
        head = stream.read(12)
    if head[4:8] == b"ftyp":  # an MP4 whose index, at its end, is missing
        return ClipRefused(
            RefusalReason.TRUNCATED,
            f"{path.name} starts as an MP4 but has no index: it is incomplete; download it again",
        )
    reason = getattr(error, "strerror", None) or type(error).__name__
    return ClipRefused(
        RefusalReason.NOT_MEDIA, f"{path.name} ({path.stat().st_size} bytes) is not a media file: {reason}"
    )
