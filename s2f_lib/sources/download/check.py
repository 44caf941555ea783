"""Check that a downloaded file is the clip, by opening it with PyAV.

A file that was damaged during the transfer is refused as NETWORK: another attempt may succeed. A complete
file that is not the clip (a web page, another length) is refused as FORMAT.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from s2f_lib.errors import RefusalReason
from s2f_lib.sources.clip import ClipRef
from s2f_lib.sources.download.failures import AttemptFailed, Retry

DURATION_TOLERANCE_S = 0.5  # largest difference between a file's length and the clip's

# Containers only: a playlist or a text file could make FFmpeg open other files and addresses.
_CONTAINERS = "mov,mp4,matroska,webm,mpeg,mpegts,avi,flv,asf,ogg"
_OPTIONS = {"format_whitelist": _CONTAINERS, "protocol_whitelist": "file"}
_SUFFIXES = {"matroska": ".mkv", "mpegts": ".ts", "mpeg": ".mpg", "avi": ".avi", "flv": ".flv", "asf": ".wmv"}
FINISHED_SUFFIXES = (".mp4", *_SUFFIXES.values())


def check_file(path: Path, clip: ClipRef, *, whole_file: bool) -> str:
    """Return the suffix for a downloaded file: ".mp4", or the suffix of another container.

    With `whole_file`, the file may be the clip or the whole video that contains it. For other files,
    AttemptFailed is raised.
    """
    import av

    size = path.stat().st_size if path.is_file() else 0
    if size == 0:
        raise _damaged("the server sent an empty file")
    try:
        with av.open(str(path), options=_OPTIONS) as file:
            suffix = next((s for name, s in _SUFFIXES.items() if name in file.format.name), ".mp4")
            header_s = (file.duration or 0) / 1e6
            found_s = _decodable_s(file)
    except (av.error.FFmpegError, OSError, ValueError) as error:
        raise _unreadable(path, size, error) from None
    if found_s is None:
        raise _not_the_clip(f"{size} bytes without a video frame that can be decoded")
    if found_s < header_s - DURATION_TOLERANCE_S:
        raise _damaged(f"the file ends at {found_s:.2f} s of the {header_s:.2f} s that its header states")
    is_clip = abs(found_s - clip.duration_s) <= DURATION_TOLERANCE_S
    is_video = whole_file and found_s >= clip.end_s - DURATION_TOLERANCE_S
    if is_clip or is_video:
        return suffix
    expected = f"{clip.duration_s:.2f} s"
    if not whole_file and found_s < clip.duration_s:
        # ffmpeg reports success even if its input is cut off; the client refuses videos that are too short
        raise _damaged(f"{found_s:.2f} s arrived, expected {expected}")
    if whole_file:
        expected += f", or a video of at least {clip.end_s:.2f} s"
    raise _not_the_clip(f"the file is complete and lasts {found_s:.2f} s, expected {expected}")


def is_page(head: bytes) -> bool:
    """Return whether the first bytes of a file are those of an HTML or XML page."""
    return head.lstrip().lower().startswith((b"<!doctype", b"<html", b"<?xml", b"<head"))


def _decodable_s(file: Any) -> float | None:
    """Return the end of the last packet, in seconds from the start; None if no video frame can be decoded.

    All packets are read, but frames are decoded only until the first success.
    """
    import av

    if not file.streams.video:
        return None
    streams = [file.streams.video[0], *file.streams.audio[:1]]
    streams[0].thread_type = "NONE"  # clips are checked in parallel already
    first_s, last_s = math.inf, -math.inf
    decoded = False
    try:
        for packet in file.demux(streams):
            if packet.pts is None:
                continue
            if packet.is_corrupt:
                break
            time_s = float(packet.pts * packet.time_base)
            first_s = min(first_s, time_s)
            last_s = max(last_s, time_s + float((packet.duration or 0) * packet.time_base))
            if not decoded and packet.stream.type == "video":
                decoded = bool(packet.decode())
        if not decoded:
            decoded = bool(streams[0].decode(None))  # the decoder may still hold the frames of a short file
    except av.error.FFmpegError:
        pass  # use what was decoded before the error
    if not decoded:
        return None
    return last_s - max((file.start_time or 0) / 1e6, first_s)


def _unreadable(path: Path, size: int, error: Exception) -> AttemptFailed:
    with path.open("rb") as stream:
        head = stream.read(512)
    if head[4:8] == b"ftyp":  # an MP4 file without its index, which is at the end
        return _damaged(f"an MP4 file that ends after {size} bytes, before its index")
    if is_page(head):
        return _not_the_clip(f"a page of HTML ({size} bytes) instead of a video")
    message = getattr(error, "strerror", None) or type(error).__name__
    return _not_the_clip(f"{size} bytes that no decoder can open: {message}")


def _damaged(detail: str) -> AttemptFailed:
    return AttemptFailed(RefusalReason.NETWORK, Retry.NOW, detail)


def _not_the_clip(detail: str) -> AttemptFailed:
    return AttemptFailed(RefusalReason.FORMAT, Retry.NEVER, detail)
