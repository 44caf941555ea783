"""Is a downloaded file the clip?  Opened with PyAV before it counts as fetched.

Two faults are told apart.  A file that was damaged on its way is NETWORK, and
worth another attempt; one that arrived whole and is not the clip (a page, another
length) is FORMAT.
"""

from __future__ import annotations

from pathlib import Path

from s2f_lib.errors import RefusalReason
from s2f_lib.sources.clip import ClipRef
from s2f_lib.sources.download.failures import Failure, Retry

# Containers only: a playlist or a text would choose what we open, and a page is no video.
_CONTAINERS = "mov,mp4,matroska,webm,mpeg,mpegts,avi,flv,asf,ogg"
_OPTIONS = {"format_whitelist": _CONTAINERS, "protocol_whitelist": "file"}
_SUFFIXES = {"matroska": ".mkv", "mpegts": ".ts", "mpeg": ".mpg", "avi": ".avi", "flv": ".flv", "asf": ".wmv"}
FINISHED_SUFFIXES = (".mp4", *_SUFFIXES.values())


def check_file(
    path: Path, clip: ClipRef, *, whole_file: bool, tolerance_s: float
) -> tuple[str, Failure | None]:
    """Return the suffix that a file should have, and what is wrong with it.

    Parameters
    ----------
    path
        The downloaded file.
    clip
        What was asked for.
    whole_file
        Whether the file may also be the whole video that the clip lies in.
    tolerance_s
        How far its length may be from the clip's, in seconds.

    Returns
    -------
    suffix : str
        ".mp4" for the MP4 family, else the container's own.
    failure : Failure or None
        None where the file is the clip.
    """
    import av

    size = path.stat().st_size if path.is_file() else 0
    if size == 0:
        return "", Failure(RefusalReason.NETWORK, Retry.NOW, "the server sent an empty file")
    try:
        with av.open(str(path), options=_OPTIONS) as file:
            suffix = next((s for name, s in _SUFFIXES.items() if name in file.format.name), ".mp4")
            said_s = (file.duration or 0) / 1e6
            found_s = _decodable_s(file)
    except (av.error.FFmpegError, OSError, ValueError) as error:
        return "", _unreadable(path, size, error)
    if found_s is None:
        return suffix, _not_the_clip(f"{size} bytes with no frame of video that decodes")
    if found_s < said_s - tolerance_s:
        detail = f"the file breaks off at {found_s:.2f} s of the {said_s:.2f} s that its header promises"
        return suffix, Failure(RefusalReason.NETWORK, Retry.NOW, detail)
    is_clip = abs(found_s - clip.duration_s) <= tolerance_s
    is_video = whole_file and found_s >= clip.end_s - tolerance_s
    if is_clip or is_video:
        return suffix, None
    expected = f"{clip.duration_s:.2f} s"
    if not whole_file and found_s < clip.duration_s:
        # ffmpeg ends well where its input broke off; a video that is shorter was refused before
        return suffix, Failure(RefusalReason.NETWORK, Retry.NOW, f"{found_s:.2f} s came, expected {expected}")
    if whole_file:
        expected += f", or a video of {clip.end_s:.2f} s and more"
    return suffix, _not_the_clip(f"the file is whole and lasts {found_s:.2f} s, expected {expected}")


def is_page(head: bytes) -> bool:
    """Return whether a file that begins so is a page of HTML or XML."""
    return head.lstrip().lower().startswith((b"<!doctype", b"<html", b"<?xml", b"<head"))


def _decodable_s(file) -> float | None:
    """Return how far the packets reach, in seconds from the start; None where no picture decodes.

    All packets are read but only pictures until the first is there are decoded: 6 s cost a millisecond.
    """
    import av

    if not file.streams.video:
        return None
    streams = [file.streams.video[0], *file.streams.audio[:1]]
    streams[0].thread_type = "NONE"  # the clips run in parallel, not the codec
    reach: dict[int, float] = {}
    first: dict[int, float] = {}
    decoded = False
    try:
        for packet in file.demux(streams):
            if packet.pts is None:
                continue
            if packet.is_corrupt:
                break
            time_s = float(packet.pts * packet.time_base)
            index = packet.stream_index
            first[index] = min(first.get(index, time_s), time_s)
            end_s = time_s + float((packet.duration or 0) * packet.time_base)
            reach[index] = max(reach.get(index, end_s), end_s)
            if not decoded and packet.stream.type == "video":
                decoded = bool(packet.decode())
        if not decoded:
            decoded = bool(streams[0].decode(None))  # a short file's only pictures may wait in the decoder
    except av.error.FFmpegError:
        pass  # what was reached so far tells
    if not decoded:
        return None
    origin_s = (file.start_time or 0) / 1e6
    return max(reach.values()) - max(origin_s, min(first.values()))


def _unreadable(path: Path, size: int, error: Exception) -> Failure:
    with path.open("rb") as stream:
        head = stream.read(512)
    if head[4:8] == b"ftyp":  # an MP4 whose index, at its end, is missing
        return Failure(RefusalReason.NETWORK, Retry.NOW, f"an MP4 cut off at {size} bytes, before its index")
    if is_page(head):
        return _not_the_clip(f"a page of HTML ({size} bytes) in place of a video")
    said = getattr(error, "strerror", None) or type(error).__name__
    return _not_the_clip(f"{size} bytes that no decoder opens: {said}")


def _not_the_clip(detail: str) -> Failure:
    return Failure(RefusalReason.FORMAT, Retry.NEVER, detail)
