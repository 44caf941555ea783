"""One attempt at one clip with yt-dlp, which is used as a library.

A link to a file (`.../{id}.mp4`) is passed directly to yt-dlp's downloader: it sends one request, which
resumes a partial file. Any other address is a page: yt-dlp's extractors find the media, and ffmpeg downloads
only the seconds of the clip (`download_ranges`). ffmpeg encodes them again, so that the file starts at
`start_s` and not at the key frame before.

yt-dlp's own retries are off, because its downloader ignores Retry-After and its waits cannot be interrupted.
`sources.download.attempts` retries instead.
"""

from __future__ import annotations

import errno
import functools
import io
import logging
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil
import yt_dlp
from imageio_ffmpeg import get_ffmpeg_exe
from yt_dlp.networking import Request
from yt_dlp.networking.exceptions import HTTPError, RequestError
from yt_dlp.postprocessor.ffmpeg import FFmpegPostProcessor
from yt_dlp.utils import YoutubeDLError, download_range_func

from s2f_lib.config import DownloadConfig
from s2f_lib.errors import MissingFileError, RefusalReason
from s2f_lib.sources.avspeech import MEDIA_EXTENSIONS
from s2f_lib.sources.clip import ClipRef
from s2f_lib.sources.download.check import DURATION_TOLERANCE_S, is_page
from s2f_lib.sources.download.failures import (
    AttemptFailed,
    LocalFailure,
    Retry,
    classify_message,
    classify_status,
    http_status,
    one_line,
    parse_retry_after,
)
from s2f_lib.sources.download.pacing import Stopped, is_youtube

logger = logging.getLogger(__name__)

_LOCAL_ERRORS = {  # errors of this machine, not of the clip
    errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS, errno.EMFILE, errno.ENFILE,
}  # fmt: skip
_DISK_FULL_BYTES = 16 << 20
_ENCODING = ["-preset", "veryfast", "-crf", "18", "-threads", "1"]  # clips are encoded in parallel


def clip_url(clip: ClipRef, config: DownloadConfig) -> str:
    """Return the address of a clip."""
    return config.url_template.format(
        id=clip.video_id, clip_id=clip.clip_id, start_s=clip.start_s, end_s=clip.end_s
    )


def is_file_link(config: DownloadConfig) -> bool:
    """Return whether the URL template gives links to media files, not to pages."""
    return urlsplit(config.url_template).path.lower().endswith(MEDIA_EXTENSIONS)


def takes_whole_file(config: DownloadConfig) -> bool:
    """Return whether whole files are downloaded, and not only the seconds of the clip."""
    return is_file_link(config) if config.whole_file is None else config.whole_file


def fetch_once(clip: ClipRef, work_dir: Path, config: DownloadConfig, *, check: Callable[[], None]) -> Path:
    """Download a clip into `work_dir`, or resume the partial file that an earlier attempt left there.

    `check` is called repeatedly; an exception that it raises ends the download. AttemptFailed is raised if
    the clip or the server fails, and LocalFailure if this machine fails.
    """
    url = clip_url(clip, config)
    FFmpegPostProcessor._ffmpeg_location.set(get_ffmpeg_exe())  # a context variable: each thread has its own
    params = _parameters(clip, work_dir, config, check=check)
    with _Client(params, auto_init=not is_file_link(config)) as client, _kill_ffmpeg(work_dir, check=check):
        client.work_dir = work_dir
        try:
            info = _file_info(clip, url) if is_file_link(config) else _page_info(client, url)
            _check_length(info, clip)
            done = client.process_ie_result(info, download=True)
            return Path(done["requested_downloads"][0]["filepath"])
        except (YoutubeDLError, RequestError) as error:
            check()  # raises the cause if ffmpeg was killed
            raise _failure(client, error) from None
        except (AttemptFailed, Stopped):
            raise
        except OSError as error:
            if error.errno in _LOCAL_ERRORS:
                raise LocalFailure(f"cannot store downloads in {work_dir.parent}: {error}") from None
            raise AttemptFailed(RefusalReason.NETWORK, Retry.NOW, one_line(str(error))) from None
        except Exception as error:  # an extractor that fails for one video must not end the run
            detail = one_line(f"yt-dlp failed with {type(error).__name__}: {error}")
            raise AttemptFailed(RefusalReason.FORMAT, Retry.LATER, detail) from error


def read_cookies(path: Path) -> str:
    """Return the text of a Netscape cookies file, or raise MissingFileError if it is missing or invalid.

    Each client gets a copy of the text, because yt-dlp writes its cookies back to the file.
    """
    if not path.is_file():
        raise MissingFileError(f"no cookies file at {path}: expected a Netscape cookies.txt")
    return _checked_cookies(path, path.stat().st_mtime_ns)


@functools.cache
def _checked_cookies(path: Path, _changed_ns: int) -> str:
    text = path.read_text(encoding="utf-8", errors="replace")
    try:
        with yt_dlp.YoutubeDL({"quiet": True, "cookiefile": io.StringIO(text)}, auto_init=False) as client:
            n_cookies = len(client.cookiejar)
    except (YoutubeDLError, OSError) as error:
        raise MissingFileError(f"{path} is not a Netscape cookies.txt: {one_line(str(error))}") from None
    logger.info("%d cookies from %s", n_cookies, path.name)
    return text


@contextmanager
def _kill_ffmpeg(work_dir: Path, *, check: Callable[[], None]) -> Iterator[None]:
    """Kill the ffmpeg process that writes into `work_dir` as soon as `check` raises.

    yt-dlp calls no hook while it waits for ffmpeg, and a slow trickle never exceeds ffmpeg's `-rw_timeout`.
    """
    done = threading.Event()

    def watch() -> None:
        while not done.wait(0.25):
            try:
                check()
            except Exception:
                for child in psutil.Process().children():
                    with suppress(psutil.Error):  # the process has ended
                        if str(work_dir) in " ".join(child.cmdline()):
                            child.kill()

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        done.set()
        watcher.join()


class _Client(yt_dlp.YoutubeDL):
    """A yt-dlp client that stores the last HTTP error with its headers, and the address of the media."""

    http_error: HTTPError | None = None
    media_url: str | None = None
    work_dir: Path

    def process_info(self, info_dict: dict[str, Any]) -> None:
        formats = info_dict.get("requested_formats") or [info_dict]
        self.media_url = formats[0].get("url")
        super().process_info(info_dict)

    def urlopen(self, req: Any) -> Any:
        try:
            return super().urlopen(req)
        except HTTPError as error:
            self.http_error = error
            raise


class _Quiet:
    """A logger that hides yt-dlp's messages from the terminal; its errors are also raised as exceptions."""

    def debug(self, message: str) -> None:
        logger.debug("%s", message)

    info = warning = error = debug


def _parameters(
    clip: ClipRef, work_dir: Path, config: DownloadConfig, *, check: Callable[[], None]
) -> dict[str, Any]:
    height = f"[height<=?{config.max_height_px}]"
    params: dict[str, Any] = {
        "quiet": True,
        "noprogress": True,
        "no_color": True,
        "logger": _Quiet(),
        "cachedir": False,
        "noplaylist": True,
        "playlist_items": "1",
        "outtmpl": {"default": str(work_dir / "clip").replace("%", "%%") + ".%(ext)s"},
        "overwrites": True,
        "updatetime": False,
        "format": f"b{height}[ext=mp4]/bv*{height}+ba/b{height}",  # one file; otherwise two are merged
        "format_sort": [f"res:{config.max_height_px}", "ext:mp4:m4a"],
        "merge_output_format": "mp4",
        "ffmpeg_location": get_ffmpeg_exe(),
        "socket_timeout": config.socket_timeout_s,
        "retries": 0,
        "extractor_retries": 0,
        "fragment_retries": 0,
        "file_access_retries": 0,
        "skip_unavailable_fragments": False,
        "progress_hooks": [lambda status: check() if status["status"] == "downloading" else None],
    }
    if config.cookies is not None:
        params["cookiefile"] = io.StringIO(read_cookies(config.cookies))
    if config.max_bytes_per_s:
        params["ratelimit"] = config.max_bytes_per_s / config.concurrency
    if not takes_whole_file(config):
        params["download_ranges"] = download_range_func(None, [(clip.start_s, clip.end_s)])
        params["force_keyframes_at_cuts"] = True
        params["external_downloader_args"] = {
            "ffmpeg_i": ["-rw_timeout", str(round(config.socket_timeout_s * 1e6)), "-threads", "1"],
            "ffmpeg_o": _ENCODING,
        }
    return params


def _file_info(clip: ClipRef, url: str) -> dict[str, Any]:
    """Return the dictionary that an extractor would return for a link to a file, without a request."""
    ext = Path(urlsplit(url).path).suffix[1:].lower()
    names = {"id": clip.video_id, "title": clip.video_id, "extractor": "file", "extractor_key": "Generic"}
    return names | {"url": url, "webpage_url": url, "ext": ext}


def _page_info(client: _Client, url: str) -> dict[str, Any]:
    info = client.extract_info(url, download=False)
    if info and info.get("_type") in ("playlist", "multi_video"):  # also returned for a page with one video
        info = next(iter(info.get("entries") or ()), None)
    if not info:
        raise YoutubeDLError(f"no media in the page {url}")
    return info


def _check_length(info: dict[str, Any], clip: ClipRef) -> None:
    """Refuse a clip that ends after its video; uploaders sometimes shorten a video."""
    length_s = info.get("duration")
    if length_s is not None and length_s < clip.end_s - DURATION_TOLERANCE_S - 1:  # YouTube rounds to seconds
        detail = f"the video lasts {length_s:g} s, the clip ends at {clip.end_s:g} s"
        raise AttemptFailed(RefusalReason.FORMAT, Retry.NEVER, detail)


def _failure(client: _Client, error: Exception) -> AttemptFailed:
    message = str(error)
    if "ffmpeg exited with code" in message:
        return _ffmpeg_failure(client, message)
    failure = classify_message(message)
    answer = client.http_error
    if answer is None:
        return failure
    # an extractor may ignore "too many requests" and then report that part of the page is missing
    unclear = (failure.reason, failure.retry) == (RefusalReason.FORMAT, Retry.LATER)
    if http_status(message) == answer.status or (unclear and answer.status == 429):
        return _http_failure(answer, one_line(message))
    return failure


def _http_failure(answer: HTTPError, detail: str) -> AttemptFailed:
    header = answer.response.headers.get("Retry-After")
    return classify_status(
        answer.status,
        detail=detail,
        youtube=is_youtube(answer.response.url or ""),
        redirect_loop=answer.redirect_loop,
        retry_after_s=parse_retry_after(header, now_s=time.time()),
    )


def _ffmpeg_failure(client: _Client, message: str) -> AttemptFailed:
    """Find the reason, which ffmpeg's exit code does not give: request the first bytes of the media again."""
    if shutil.disk_usage(client.work_dir).free < _DISK_FULL_BYTES:
        raise LocalFailure(
            f"the disk of {client.work_dir.parent} is full; no finished clip is lost: free space, run again"
        )
    if client.media_url is None:
        return classify_message(message)
    try:
        with client.urlopen(Request(client.media_url, headers={"Range": "bytes=0-511"})) as answer:
            head = answer.read(512)
    except HTTPError as error:
        return _http_failure(error, f"{one_line(message)}: {error}")
    except RequestError as error:
        detail = f"{one_line(message)}: {one_line(str(error))}"
        return AttemptFailed(RefusalReason.NETWORK, Retry.NOW, detail)
    if is_page(head):
        return AttemptFailed(RefusalReason.FORMAT, Retry.NEVER, "a page of HTML instead of a video")
    return classify_message(message)
