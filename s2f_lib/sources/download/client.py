"""One attempt at one clip with yt-dlp, used as a library.

Two ways.  A link to a file (`.../{id}.mp4`) goes straight to yt-dlp's downloader: one
request, which goes on where a cut-off one ended.  Anything else is a page: yt-dlp's
extractors find the media, and ffmpeg fetches the clip's seconds alone
(`download_ranges`), encoded anew so that the file begins at `start_s` and not at the
key frame before it.

yt-dlp's own retries are off: its downloader does not know Retry-After, and its waits
could not be ended.  `sources.download.run` retries around this.
"""

from __future__ import annotations

import errno
import functools
import io
import logging
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yt_dlp
from imageio_ffmpeg import get_ffmpeg_exe
from yt_dlp.networking import Request
from yt_dlp.networking.exceptions import HTTPError, RequestError
from yt_dlp.postprocessor.ffmpeg import FFmpegPostProcessor
from yt_dlp.utils import YoutubeDLError, download_range_func

from s2f_lib.config import DownloadConfig
from s2f_lib.errors import MissingFileError, RefusalReason
from s2f_lib.sources.clip import ClipRef
from s2f_lib.sources.download.check import is_page
from s2f_lib.sources.download.failures import (
    Failure,
    LocalFailure,
    Retry,
    classify_message,
    classify_status,
    http_status,
    one_line,
    parse_retry_after,
)
from s2f_lib.sources.download.pacing import Stopped
from s2f_lib.sources.download.urls import clip_url, is_file_link, is_youtube, takes_whole_file

logger = logging.getLogger(__name__)

_LOCAL_ERRORS = {
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.EMFILE,
    errno.ENFILE,
}
_DISK_FULL_BYTES = 16 << 20
_ENCODING = ["-preset", "veryfast", "-crf", "18", "-threads", "1"]  # the clips run in parallel, not the codec


class AttemptFailed(Exception):
    """One attempt failed; `failure` says why."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.detail)
        self.failure = failure


def fetch_once(clip: ClipRef, work_dir: Path, config: DownloadConfig, *, check: Callable[[], None]) -> Path:
    """Fetch a clip, or go on with what an earlier attempt left in `work_dir`.

    Parameters
    ----------
    clip
        What to fetch.
    work_dir
        A folder for this clip alone; parts of a whole file stay there.
    config
        Settings.
    check
        Called again and again meanwhile; what it raises ends the download.

    Returns
    -------
    Path
        The file, in `work_dir`, not checked yet.

    Raises
    ------
    AttemptFailed
        With the reason.
    LocalFailure
        This machine is at fault.
    """
    url = clip_url(clip, config)
    FFmpegPostProcessor._ffmpeg_location.set(get_ffmpeg_exe())  # see `_parameters`; a thread has its own
    params = _parameters(clip, work_dir, config, check=check)
    with _Client(params, auto_init=not is_file_link(config)) as client, _ended_by(check):
        client.work_dir = work_dir
        try:
            info = _file_info(clip, url) if is_file_link(config) else _page_info(client, url)
            _check_length(info, clip, config)
            done = client.process_ie_result(info, download=True)
            return Path(done["requested_downloads"][0]["filepath"])
        except (YoutubeDLError, RequestError) as error:
            check()  # where ffmpeg was ended, this says why
            raise AttemptFailed(_failure(client, error)) from None
        except (AttemptFailed, Stopped):
            raise
        except OSError as error:
            if error.errno in _LOCAL_ERRORS:
                raise LocalFailure(f"cannot store downloads in {work_dir.parent}: {error}") from None
            raise AttemptFailed(Failure(RefusalReason.NETWORK, Retry.NOW, one_line(str(error)))) from None
        except Exception as error:  # an extractor that trips over one video must not end the run
            detail = one_line(f"yt-dlp failed with {type(error).__name__}: {error}")
            raise AttemptFailed(Failure(RefusalReason.FORMAT, Retry.LATER, detail)) from error


def read_cookies(path: Path) -> str:
    """Return a cookies file's text, checked.

    Every client gets a copy: yt-dlp writes its cookies back, and threads would tear the file.

    Raises
    ------
    MissingFileError
        No file is there, or it is not a Netscape cookies file.
    """
    if not path.is_file():
        raise MissingFileError(f"no cookies file at {path}: expected a Netscape cookies.txt")
    return _checked_cookies(path, path.stat().st_mtime_ns)


@functools.cache
def _checked_cookies(path: Path, changed_ns: int) -> str:
    text = path.read_text(encoding="utf-8", errors="replace")
    try:
        with yt_dlp.YoutubeDL({"quiet": True, "cookiefile": io.StringIO(text)}, auto_init=False) as client:
            n_cookies = len(client.cookiejar)
    except (YoutubeDLError, OSError) as error:
        raise MissingFileError(f"{path} is not a Netscape cookies.txt: {one_line(str(error))}") from None
    logger.info("%d cookies from %s", n_cookies, path.name)
    return text


@contextmanager
def _ended_by(check: Callable[[], None]) -> Iterator[None]:
    """End the processes that this thread starts meanwhile (ffmpeg) as soon as `check` raises.

    A stall ends ffmpeg by itself, a trickle does not.  yt-dlp keeps the process to itself; Linux
    lists a thread's children, elsewhere only the stall counts.
    """
    children = Path(f"/proc/self/task/{threading.get_native_id()}/children")
    over = threading.Event()

    def watch() -> None:
        while not over.wait(0.25):
            try:
                check()
            except Exception:
                for pid in children.read_text().split():
                    with suppress(ProcessLookupError):  # it ended by itself meanwhile
                        os.kill(int(pid), signal.SIGKILL)

    if not children.exists():
        yield
        return
    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()


class _Client(yt_dlp.YoutubeDL):
    """yt-dlp that remembers what it drops: the last HTTP error with its headers, the media's address."""

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
    """Takes yt-dlp's lines off the terminal; errors come as exceptions anyway."""

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
        "format": f"b{height}[ext=mp4]/bv*{height}+ba/b{height}",  # one file with sound, else two merged
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
    """Return what an extractor would say about a link to a file, without asking for it."""
    ext = Path(urlsplit(url).path).suffix[1:].lower()
    return {"id": clip.video_id, "title": clip.video_id, "url": url, "ext": ext, "extractor": "file"} | {
        "extractor_key": "Generic",
        "webpage_url": url,
    }


def _page_info(client: _Client, url: str) -> dict[str, Any]:
    info = client.extract_info(url, download=False)
    if info and info.get("_type") in ("playlist", "multi_video"):  # a page with one video in it, at best
        info = next(iter(info.get("entries") or ()), None)
    if not info:
        raise YoutubeDLError(f"no media in the page {url}")
    return info


def _check_length(info: dict[str, Any], clip: ClipRef, config: DownloadConfig) -> None:
    """Refuse a clip that lies behind the end of its video: uploaders cut their videos shorter."""
    length_s = info.get("duration")
    if length_s is not None and length_s < clip.end_s - config.duration_tolerance_s - 1:  # YouTube rounds
        detail = f"the video lasts {length_s:g} s, the clip ends at {clip.end_s:g} s"
        raise AttemptFailed(Failure(RefusalReason.FORMAT, Retry.NEVER, detail))


def _failure(client: _Client, error: Exception) -> Failure:
    message = str(error)
    if "ffmpeg exited with code" in message:
        return _ask_again(client, message)
    failure = classify_message(message)
    answer = client.http_error
    if answer is None:
        return failure
    # an extractor may swallow "too many requests" and then miss what it did not get
    unclear = (failure.reason, failure.retry) == (RefusalReason.FORMAT, Retry.LATER)
    if http_status(message) == answer.status or (unclear and answer.status == 429):
        return _of_answer(answer, one_line(message))
    return failure


def _of_answer(answer: HTTPError, detail: str) -> Failure:
    url = answer.response.url or ""
    header = answer.response.headers.get("Retry-After")
    return classify_status(
        answer.status,
        detail=detail,
        youtube=is_youtube(url),
        redirect_loop=answer.redirect_loop,
        retry_after_s=parse_retry_after(header, now_s=time.time()),
    )


def _ask_again(client: _Client, message: str) -> Failure:
    """Ask for the first bytes of what ffmpeg could not fetch: its exit code does not say why."""
    if shutil.disk_usage(client.work_dir).free < _DISK_FULL_BYTES:
        raise LocalFailure(f"the disk of {client.work_dir.parent} is full; nothing done is lost, run again")
    url = client.media_url
    if url is None:
        return classify_message(message)
    try:
        with client.urlopen(Request(url, headers={"Range": "bytes=0-511"})) as answer:
            head = answer.read(512)
    except HTTPError as error:
        return _of_answer(error, f"{one_line(message)}: {error}")
    except RequestError as error:
        return Failure(RefusalReason.NETWORK, Retry.NOW, f"{one_line(message)}: {one_line(str(error))}")
    if is_page(head):
        return Failure(RefusalReason.FORMAT, Retry.NEVER, "a page of HTML in place of a video")
    return classify_message(message)
