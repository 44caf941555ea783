"""Clips for the preparation, each as soon as its file exists: download and preparation run in parallel."""

from __future__ import annotations

import queue
import threading
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from s2f_lib.config import DownloadConfig
from s2f_lib.errors import RefusalReason
from s2f_lib.preparation.clip import ClipState
from s2f_lib.preparation.ledger import Reopen, read_pending
from s2f_lib.sources.clip import ClipRef
from s2f_lib.sources.download.attempts import DownloadResult, download_clips, finished_file
from s2f_lib.sources.download.failures import DOWNLOAD_REASONS
from s2f_lib.sources.download.ledger import LEDGER_NAME, DownloadLedger

_POLL_S = 0.2


@dataclass(frozen=True)
class Download:
    """Where and how missing media files are downloaded.

    Attributes
    ----------
    folder
        Folder of the finished files, `<clip id>.mp4`. Other media files in it are used, too.
    config
        Settings of the download.

    Examples
    --------
    >>> from pathlib import Path
    >>> Download(Path("media"), DownloadConfig(concurrency=2)).config.concurrency
    2
    """

    folder: Path
    config: DownloadConfig

    @contextmanager
    def reopens(self, retry: Collection[RefusalReason] = ()) -> Iterator[Reopen]:
        """Open the download's ledger and yield a function: whether to try a refused clip again.

        A clip is tried again if a download with these settings may succeed. Refusals for the reasons in
        `retry` are forgotten.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with DownloadLedger(self.folder / LEDGER_NAME) as ledger:
            ledger.forget(retry)

            def reopen(clip: ClipRef, reason: RefusalReason) -> bool:
                may_download = reason == RefusalReason.MEDIA_MISSING or reason in DOWNLOAD_REASONS
                return may_download and ledger.final_refusal(clip.clip_id, self.config) is None

            yield reopen


class DownloadFeed:
    """Yields the pending clips of a ledger that have media files, while a thread downloads the others.

    At most `size` clips wait in the queue, so a slow preparation slows the download down. A clip that could
    not be downloaded is yielded as a refused clip. If the server limits the rate of all requests, this run
    sends no more of them: clips without a file stay pending, and clips with a file are yielded.
    """

    def __init__(self, ledger: Path, download: Download, *, size: int) -> None:
        self._ledger, self._download = ledger, download
        self._ready: queue.Queue[ClipState | BaseException | None] = queue.Queue(size)
        self._positions: dict[str, int] = {}  # clips that are being downloaded
        self._seconds: dict[int, float] = {}  # download times of clips that are being prepared
        self._stop = threading.Event()
        self._is_throttled = False  # this run requests no more clips
        self._thread = threading.Thread(target=self._run, name="download-feed", daemon=True)

    def __enter__(self) -> DownloadFeed:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def tasks(self) -> Iterator[ClipState | None]:
        """Yield clips with their files, refused clips, and None while no clip is ready.

        An error that ended the download, such as a full disk, is raised again here.
        """
        while True:
            try:
                item = self._ready.get(timeout=_POLL_S)
            except queue.Empty:
                yield None
                continue
            if isinstance(item, BaseException):
                raise item
            if item is None:
                return
            yield item

    def seconds(self, position: int) -> dict[str, float]:
        """Return the time that the download of a clip took, once; empty if the file existed."""
        seconds = self._seconds.pop(position, None)
        return {} if seconds is None else {"download": round(seconds, 4)}

    def _run(self) -> None:
        try:
            folder, config = self._download.folder, self._download.config
            for result in download_clips(self._missing(), folder, config, stop=self._stop):
                self._put_result(result)
            self._put(None)
        except BaseException as error:
            self._put(error)

    def _missing(self) -> Iterator[ClipRef]:
        """Yield the clips to download, in order; clips that have a file are ready at once."""
        folder = self._download.folder
        for position, clip in read_pending(self._ledger):
            if self._stop.is_set():
                return
            file = finished_file(clip, folder)
            if clip.media is not None and clip.media != file:
                self._put(ClipState(position, clip))  # a file of the user
            elif not self._is_throttled:
                self._positions[clip.clip_id] = position
                yield clip
            elif file is not None:
                self._put(ClipState(position, replace(clip, media=file)))

    def _put_result(self, result: DownloadResult) -> None:
        position = self._positions.pop(result.clip.clip_id)
        if result.n_attempts:
            self._seconds[position] = result.seconds
        if result.is_done:
            self._put(ClipState(position, result.clip))
        elif result.can_retry and not result.n_attempts:
            self._is_throttled = True  # the clip was not requested, so it stays pending
        else:
            self._put(ClipState(position, result.clip, reason=result.reason, detail=result.detail))

    def _put(self, item: ClipState | BaseException | None) -> None:
        while not self._stop.is_set():
            with suppress(queue.Full):
                self._ready.put(item, timeout=_POLL_S)
                return
