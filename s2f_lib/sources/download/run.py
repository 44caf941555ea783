"""Download clips: many at once, each of them once.

`fetch_clip` is one clip, `download_clips` a list.  A finished clip stands in the
folder as `<clip id>.mp4`, under that name only after it was checked; a killed run
goes on where it was, and asks again only for what can still succeed.

What is retried, and when
-------------------------
- *In this run*: throttled (429, 503; YouTube's 403) and network faults (stalls, resets, cut-off
  bodies, 5xx), up to `max_attempts`, with back-off and jitter; Retry-After is honoured, by all threads.
- *In the next run*: what still failed of these; a redirect loop; words that this yt-dlp does not know.
- *Never with the same settings*: private, removed, geo-blocked, age-gated, not a video, another length.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from s2f_lib.config import DownloadConfig
from s2f_lib.errors import InputError, RefusalReason
from s2f_lib.sources.clip import ClipRef
from s2f_lib.sources.download.attempts import (
    PARTIAL_DIR,
    delete_partial_files,
    fetch_with_retries,
    finished_file,
)
from s2f_lib.sources.download.failures import DownloadRefused
from s2f_lib.sources.download.ledger import DownloadLedger
from s2f_lib.sources.download.pacing import Pacer
from s2f_lib.sources.download.urls import clips_per_s

logger = logging.getLogger(__name__)

LEDGER_NAME = "downloads.sqlite"
_LOCK_NAME = ".downloads.lock"
_LOOK_EVERY_S = 0.5  # whether to stop


@dataclass(frozen=True, slots=True)
class DownloadResult:
    """What came of one clip.

    Attributes
    ----------
    clip
        The clip; `media` is its file where it is done.
    reason, detail
        Why it was refused; None and "" where it is done.
    can_retry
        Whether a later run with the same settings asks again.
    n_attempts
        Requests made for it in this run; 0 where nothing was asked.
    seconds
        By the clock, waits between attempts and for the rate limit included.
    """

    clip: ClipRef
    reason: RefusalReason | None = None
    detail: str = ""
    can_retry: bool = False
    n_attempts: int = 0
    seconds: float = 0.0

    @property
    def is_done(self) -> bool:
        """Whether the file is there."""
        return self.reason is None


def fetch_clip(clip: ClipRef, out_dir: Path, config: DownloadConfig, *, pacer: Pacer | None = None) -> Path:
    """Fetch one clip, with retries; a clip that is there is not asked for.

    Parameters
    ----------
    clip
        What to fetch; its `media` is not looked at.
    out_dir
        Folder of the finished files.
    config
        Settings.
    pacer
        Shared by the clips of a run: rate, pauses, the end.

    Returns
    -------
    Path
        `<clip id>.mp4` (another suffix for another container), checked.

    Raises
    ------
    DownloadRefused
        A `ClipRefused` with PRIVATE, REMOVED, GEO_BLOCKED, AGE_GATED, THROTTLED, NETWORK or FORMAT.
    LocalFailure
        This machine is at fault: the disk is full, a folder cannot be written.
    """
    return fetch_with_retries(clip, Path(out_dir), config, pacer or Pacer())[0]


def download_clips(
    clips: Iterable[ClipRef],
    out_dir: Path,
    config: DownloadConfig,
    *,
    progress: Callable[[DownloadResult], None] | None = None,
    stop: threading.Event | None = None,
) -> Iterator[DownloadResult]:
    """Fetch a list of clips, several at once; yield each as it ends.

    At most `2 * concurrency` clips are in work or waiting to be taken, whatever the list's
    length, so a slow consumer slows the download down.  Closing the iterator ends the run.

    Parameters
    ----------
    clips
        The list; it is read as it is needed.
    out_dir
        Folder of the finished files and of the ledger `downloads.sqlite`.
    config
        Settings.
    progress
        Called with each result, in the caller's thread.
    stop
        Set by another thread, it ends the run as closing the iterator does: within a second, or the
        socket's timeout where a server stalls.

    Yields
    ------
    DownloadResult
        One for each item of the list, in the order in which they end.

    Raises
    ------
    InputError
        Another run uses the folder; the cookies file is not one.
    LocalFailure
        As `fetch_clip`.
    """
    out_dir = Path(out_dir)
    if config.cookies is not None:
        from s2f_lib.sources.download.client import read_cookies

        read_cookies(config.cookies)  # before the first clip, not at it
    for result in _Run(out_dir, config, stop or threading.Event()).results(iter(clips)):
        if progress is not None:
            progress(result)
        yield result


class _Run:
    """One run over a folder: threads, ledger, and the stop after a series of throttled clips."""

    def __init__(self, out_dir: Path, config: DownloadConfig, stop: threading.Event) -> None:
        self.out_dir, self.config, self._stop = out_dir, config, stop
        self._pacer = Pacer(clips_per_s(config))
        self._throttled_in_a_row = 0
        self._lock = threading.Lock()

    def results(self, clips: Iterator[ClipRef]) -> Iterator[DownloadResult]:
        from filelock import FileLock, Timeout

        if self.out_dir.exists() and not self.out_dir.is_dir():
            raise InputError(f"{self.out_dir} is a file: expected a folder for the clips")
        self.out_dir.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.out_dir / _LOCK_NAME)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise InputError(
                f"another run downloads into {self.out_dir}: wait for it, or give another folder"
            ) from None
        try:
            with DownloadLedger(self.out_dir / LEDGER_NAME) as self._ledger:
                yield from self._overlapped(clips)
        finally:
            with suppress(OSError):  # not empty: parts that serve the next run
                (self.out_dir / PARTIAL_DIR).rmdir()
            lock.release()

    def _overlapped(self, clips: Iterator[ClipRef]) -> Iterator[DownloadResult]:
        waiting: dict[Future[DownloadResult], list[ClipRef]] = {}
        by_id: dict[str, Future[DownloadResult]] = {}  # a clip that stands twice in the list is fetched once
        threads = ThreadPoolExecutor(self.config.concurrency, thread_name_prefix="download")
        try:
            more = True
            while (more or waiting) and not self._stop.is_set():
                while more and len(waiting) < 2 * self.config.concurrency:
                    clip = next(clips, None)
                    if clip is None:
                        more = False
                    elif clip.clip_id in by_id:
                        waiting[by_id[clip.clip_id]].append(clip)
                    else:
                        future = by_id[clip.clip_id] = threads.submit(self._one, clip)
                        waiting[future] = [clip]
                ended, _ = wait(waiting, timeout=_LOOK_EVERY_S, return_when=FIRST_COMPLETED)
                for future in ended:
                    same = waiting.pop(future)
                    del by_id[same[0].clip_id]
                    result = future.result()
                    for clip in same:
                        yield replace(result, clip=replace(clip, media=result.clip.media))
        finally:
            self._pacer.stop()
            threads.shutdown(wait=True, cancel_futures=True)

    def _one(self, clip: ClipRef) -> DownloadResult:
        """Fetch one clip, or say what is known of it already; the ledger has it before this returns."""
        self._pacer.check()
        begun = time.monotonic()
        if (file := self._usable(clip)) is not None:
            return DownloadResult(replace(clip, media=file))
        refusal = self._ledger.final_refusal(clip.clip_id, self.config)
        if refusal is None and self._throttled_in_a_row >= self.config.stop_after_throttled:
            n = self._throttled_in_a_row
            detail = f"not asked: the server refused the {n} clips before as too many; run again later"
            refusal = DownloadRefused(RefusalReason.THROTTLED, detail, can_retry=True, n_attempts=0)
            self._ledger.refused(clip.clip_id, refusal, config=self.config)
        if refusal is None:
            try:
                file, n_attempts = fetch_with_retries(clip, self.out_dir, self.config, self._pacer)
            except DownloadRefused as error:
                refusal = error
                self._ledger.refused(clip.clip_id, refusal, config=self.config)
            else:
                self._ledger.done(clip.clip_id, file, config=self.config, n_attempts=n_attempts)
            self._count_throttled(refusal)
        if refusal is not None:
            result = DownloadResult(
                clip, refusal.reason, refusal.detail, refusal.can_retry, refusal.n_attempts
            )
        else:
            result = DownloadResult(replace(clip, media=file), n_attempts=n_attempts)
        return replace(result, seconds=time.monotonic() - begun)

    def _usable(self, clip: ClipRef) -> Path | None:
        """Return the finished file; one that has changed since it was entered is removed."""
        file = finished_file(clip, self.out_dir)
        if file is None:
            return None
        size = self._ledger.size_bytes(clip.clip_id)
        if size is None:  # killed between the file and its row
            delete_partial_files(clip, self.out_dir, self.config)
            self._ledger.done(clip.clip_id, file, config=self.config, n_attempts=0)
        elif size != file.stat().st_size:
            logger.warning("%s is not as it was downloaded; fetching it again", file.name)
            file.unlink()
            return None
        return file

    def _count_throttled(self, refusal: DownloadRefused | None) -> None:
        with self._lock:
            throttled = refusal is not None and refusal.reason == RefusalReason.THROTTLED
            self._throttled_in_a_row = self._throttled_in_a_row + 1 if throttled else 0
            if self._throttled_in_a_row == self.config.stop_after_throttled:
                logger.warning(
                    "the server refused %d clips in a row as too many; no more is asked in this run. "
                    "Run again later, with a lower max_clips_per_s or with cookies",
                    self._throttled_in_a_row,
                )
