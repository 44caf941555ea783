"""Download clips with retries: one clip (`fetch_clip`), or a list of clips in parallel (`download_clips`).

A finished clip is the file `<clip id>.mp4` in the folder; a file gets this name only after it was checked. A
run that was killed is resumed, and sends requests only for clips that can still succeed.

Retries
-------
- *In the same run*: rate limits (429, 503; YouTube's 403) and network faults (stalls, resets, bodies that are
  cut off, 5xx), up to `max_attempts`, with back-off and jitter. All threads respect a Retry-After.
- *In the next run*: the same failures if they last; redirect loops; unknown messages.
- *Never with the same settings*: private, removed, geo-blocked and age-gated videos; files that are not the
  clip.
"""

from __future__ import annotations

import logging
import os
import shutil
import threading
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from s2f_lib.config import DownloadConfig
from s2f_lib.errors import InputError, RefusalReason
from s2f_lib.sources.clip import ClipRef
from s2f_lib.sources.download.check import FINISHED_SUFFIXES, check_file
from s2f_lib.sources.download.failures import AttemptFailed, DownloadRefused, LocalFailure, Retry
from s2f_lib.sources.download.ledger import LEDGER_NAME, DownloadLedger, request_key
from s2f_lib.sources.download.pacing import Pacer, backoff_s, clips_per_s
from s2f_lib.storage import digest, locked

if TYPE_CHECKING:
    from tenacity import RetryCallState

logger = logging.getLogger(__name__)

MAX_RETRY_AFTER_S = 120.0  # after a longer Retry-After, only the next run requests the clip again

_PARTIAL_DIR = ".partial"  # one folder per clip that is being downloaded
_STOP_CHECK_S = 0.5


@dataclass(frozen=True, slots=True)
class DownloadResult:
    """The outcome of one clip."""

    clip: ClipRef  # with its file in `media` if the clip was downloaded
    reason: RefusalReason | None = None  # None if the clip was downloaded
    detail: str = ""
    can_retry: bool = False  # whether a later run with the same settings requests the clip again
    n_attempts: int = 0  # in this run; 0 if no request was necessary or allowed
    seconds: float = 0.0  # elapsed time, including the waits between attempts and for the rate limit

    @property
    def is_done(self) -> bool:
        """Whether the file exists."""
        return self.reason is None


def download_clips(
    clips: Iterable[ClipRef],
    out_dir: Path,
    config: DownloadConfig,
    *,
    stop: threading.Event | None = None,
) -> Iterator[DownloadResult]:
    """Download a list of clips, several at the same time, and yield each outcome as soon as it is known.

    At most `2 * concurrency` clips are being downloaded or wait for the caller, so a slow caller slows the
    download down. Closing the iterator ends the run.

    Parameters
    ----------
    clips
        Clips to download. Clips are read only when they are needed, so the list may be endless.
    out_dir
        Folder of the finished files and of the ledger `downloads.sqlite`.
    config
        Settings of the download.
    stop
        Event that ends the run within a second, or within the socket timeout if a server stalls.

    Yields
    ------
    DownloadResult
        One outcome for each clip of the list, in the order in which they are known.

    Raises
    ------
    InputError
        Another run uses the folder, or the cookies file is not valid.
    LocalFailure
        This machine failed: the disk is full, or the folder cannot be written.

    Examples
    --------
    >>> from pathlib import Path
    >>> from tempfile import mkdtemp
    >>> clip = ClipRef("AAAAAAAAAAA_1-4", "AAAAAAAAAAA", 1.0, 4.0, 0.5, 0.5)
    >>> folder = Path(mkdtemp())
    >>> (folder / "AAAAAAAAAAA_1-4.mp4").touch()
    >>> [result.is_done for result in download_clips([clip], folder, DownloadConfig())]
    [True]
    """
    out_dir = Path(out_dir)
    if config.cookies is not None:
        from s2f_lib.sources.download.client import read_cookies

        read_cookies(config.cookies)  # reports a bad file before the first clip
    if out_dir.exists() and not out_dir.is_dir():
        raise InputError(f"{out_dir} is a file: expected a folder for the clips")
    busy = f"another run downloads into {out_dir}: wait for it, or use another folder"
    with locked(out_dir / LEDGER_NAME, busy=busy), DownloadLedger(out_dir / LEDGER_NAME) as ledger:
        try:
            yield from _Run(out_dir, config, ledger).results(iter(clips), stop or threading.Event())
        finally:
            with suppress(OSError):  # not empty if partial files are left for the next run
                (out_dir / _PARTIAL_DIR).rmdir()


def finished_file(clip: ClipRef, out_dir: Path) -> Path | None:
    """Return the finished file of a clip in a download folder, or None."""
    paths = (out_dir / f"{clip.clip_id}{suffix}" for suffix in FINISHED_SUFFIXES)
    return next((path for path in paths if path.is_file()), None)


class _Run:
    """One run in a folder: its threads, and the stop after many rate-limit answers."""

    def __init__(self, out_dir: Path, config: DownloadConfig, ledger: DownloadLedger) -> None:
        self.out_dir, self.config, self._ledger = out_dir, config, ledger
        self._pacer = Pacer(clips_per_s(config))
        self._n_throttled = 0  # consecutive clips
        self._lock = threading.Lock()

    def results(self, clips: Iterator[ClipRef], stop: threading.Event) -> Iterator[DownloadResult]:
        """Yield the outcomes; a clip that is twice in the list is downloaded once."""
        in_flight: dict[Future[DownloadResult], list[ClipRef]] = {}
        by_id: dict[str, Future[DownloadResult]] = {}
        threads = ThreadPoolExecutor(self.config.concurrency, thread_name_prefix="download")
        try:
            more = True
            while (more or in_flight) and not stop.is_set():
                while more and len(in_flight) < 2 * self.config.concurrency:
                    clip = next(clips, None)
                    if clip is None:
                        more = False
                    elif clip.clip_id in by_id:
                        in_flight[by_id[clip.clip_id]].append(clip)
                    else:
                        future = by_id[clip.clip_id] = threads.submit(self._outcome, clip)
                        in_flight[future] = [clip]
                for future in wait(in_flight, timeout=_STOP_CHECK_S, return_when=FIRST_COMPLETED).done:
                    same = in_flight.pop(future)
                    del by_id[same[0].clip_id]
                    result = future.result()
                    for clip in same:
                        yield replace(result, clip=replace(clip, media=result.clip.media))
        finally:
            self._pacer.stop()
            threads.shutdown(wait=True, cancel_futures=True)

    def _outcome(self, clip: ClipRef) -> DownloadResult:
        """Return the known or new outcome of a clip; it is in the ledger when this returns."""
        self._pacer.check()
        started_s = time.monotonic()
        if (file := self._known_file(clip)) is not None:
            return DownloadResult(replace(clip, media=file))
        try:
            file, n_attempts = self._download(clip)
            result = DownloadResult(replace(clip, media=file), n_attempts=n_attempts)
        except DownloadRefused as error:
            result = DownloadResult(clip, error.reason, error.detail, error.can_retry, error.n_attempts)
        return replace(result, seconds=time.monotonic() - started_s)

    def _known_file(self, clip: ClipRef) -> Path | None:
        """Return the finished file; a file that has changed since its download is deleted."""
        file = finished_file(clip, self.out_dir)
        if file is None:
            return None
        size = self._ledger.size_bytes(clip.clip_id)
        if size is None:  # an earlier run was killed after it renamed the file
            shutil.rmtree(_work_dir(clip, self.out_dir, self.config), ignore_errors=True)
            self._ledger.done(clip.clip_id, file, config=self.config, n_attempts=0)
        elif size != file.stat().st_size:
            logger.warning("%s has changed since it was downloaded: it is downloaded again", file.name)
            file.unlink()
            return None
        return file

    def _download(self, clip: ClipRef) -> tuple[Path, int]:
        if (known := self._ledger.final_refusal(clip.clip_id, self.config)) is not None:
            raise known
        n_throttled = self._n_throttled
        try:
            if n_throttled >= self.config.stop_after_throttled:
                detail = f"not requested: the server limited the last {n_throttled} clips; run again later"
                raise DownloadRefused(RefusalReason.THROTTLED, detail, can_retry=True, n_attempts=0)
            file, n_attempts = fetch_clip(clip, self.out_dir, self.config, self._pacer)
        except DownloadRefused as refusal:
            self._ledger.refused(clip.clip_id, refusal, config=self.config)
            if refusal.n_attempts:
                self._count_throttled(refusal.reason == RefusalReason.THROTTLED)
            raise
        self._ledger.done(clip.clip_id, file, config=self.config, n_attempts=n_attempts)
        self._count_throttled(False)
        return file, n_attempts

    def _count_throttled(self, throttled: bool) -> None:
        with self._lock:
            self._n_throttled = self._n_throttled + 1 if throttled else 0
            if self._n_throttled == self.config.stop_after_throttled:
                logger.warning(
                    "the server rate-limited %d clips in a row: this run sends no more requests. "
                    "Run again later, with a lower max_clips_per_s or with cookies",
                    self._n_throttled,
                )


def _work_dir(clip: ClipRef, out_dir: Path, config: DownloadConfig) -> Path:
    """Return the folder of a clip's partial files; each mirror and height has its own."""
    return out_dir / _PARTIAL_DIR / f"{clip.clip_id}.{digest(request_key(config), length=8)}"


def fetch_clip(clip: ClipRef, out_dir: Path, config: DownloadConfig, pacer: Pacer) -> tuple[Path, int]:
    """Return the checked file of a clip and the number of attempts, or raise DownloadRefused."""
    work_dir = _work_dir(clip, out_dir, config)
    try:
        work_dir.mkdir(parents=True, exist_ok=True)
        file, n_attempts = _fetch_with_retries(clip, work_dir, config, pacer)
        with file.open("rb+") as stream:
            os.fsync(stream.fileno())  # before the rename, so that the final name means a complete file
        file = file.replace(out_dir / f"{clip.clip_id}{file.suffix}")
    except OSError as error:
        raise LocalFailure(f"cannot store {clip.clip_id} in {out_dir}: {error}") from None
    shutil.rmtree(work_dir, ignore_errors=True)
    return file, n_attempts


def _fetch_with_retries(
    clip: ClipRef, work_dir: Path, config: DownloadConfig, pacer: Pacer
) -> tuple[Path, int]:
    """Return a checked file in `work_dir` and the number of attempts."""
    from tenacity import Retrying, retry_if_exception, stop_after_attempt, stop_before_delay

    def pause_all(state: RetryCallState) -> None:
        failure = _failure_of(state)
        logger.debug("%s, attempt %d: %s", clip.clip_id, state.attempt_number, failure.detail)
        if failure.reason == RefusalReason.THROTTLED:  # the server limits the address, not the clip
            pacer.pause(state.upcoming_sleep)

    def sleep(seconds: float) -> None:
        pacer.sleep(seconds)
        pacer.wait_turn()

    pacer.wait_turn()
    deadline_s = time.monotonic() + config.max_clip_s
    retrying = Retrying(
        retry=retry_if_exception(_passes_soon),
        wait=lambda state: max(
            _failure_of(state).retry_after_s or 0.0, backoff_s(state.attempt_number, config)
        ),
        stop=stop_after_attempt(config.max_attempts) | stop_before_delay(config.max_clip_s),
        before_sleep=pause_all,
        sleep=sleep,
        reraise=True,
    )
    try:
        file = retrying(_attempt, clip, work_dir, config, pacer, deadline_s)
        return file, retrying.statistics["attempt_number"]
    except AttemptFailed as error:
        can_retry = error.retry != Retry.NEVER
        if not can_retry:  # otherwise the next run resumes the partial file
            shutil.rmtree(work_dir, ignore_errors=True)
        n = retrying.statistics["attempt_number"]
        raise DownloadRefused(error.reason, error.detail, can_retry=can_retry, n_attempts=n) from None


def _failure_of(state: RetryCallState) -> AttemptFailed:
    error = state.outcome.exception() if state.outcome else None
    assert isinstance(error, AttemptFailed)
    return error


def _passes_soon(error: BaseException) -> bool:
    if not isinstance(error, AttemptFailed) or error.retry != Retry.NOW:
        return False
    return (error.retry_after_s or 0.0) <= MAX_RETRY_AFTER_S


def _attempt(clip: ClipRef, work_dir: Path, config: DownloadConfig, pacer: Pacer, deadline_s: float) -> Path:
    from s2f_lib.sources.download.client import fetch_once, takes_whole_file

    def check() -> None:
        pacer.check()
        if time.monotonic() > deadline_s:  # a slow trickle of bytes never exceeds the socket timeout
            detail = f"not complete after {config.max_clip_s:g} s"
            raise AttemptFailed(RefusalReason.NETWORK, Retry.LATER, detail)

    is_resumed = any(work_dir.iterdir())
    try:
        file = fetch_once(clip, work_dir, config, check=check)
        try:
            suffix = check_file(file, clip, whole_file=takes_whole_file(config))
        except AttemptFailed:
            file.unlink(missing_ok=True)  # a damaged file must not be resumed
            raise
    except AttemptFailed as error:
        if not is_resumed or error.reason != RefusalReason.FORMAT:
            raise
        # The server's file has changed, or the partial file is complete: then yt-dlp requests the bytes after
        # its end and treats the answer 416 as final. A download from the start may succeed.
        shutil.rmtree(work_dir)
        work_dir.mkdir()
        raise AttemptFailed(error.reason, Retry.NOW, error.detail) from None
    return file.rename(file.with_suffix(suffix))
