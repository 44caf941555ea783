"""Clips for preparation, each as soon as its file is there: downloads run while others are prepared."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from s2f_lib.config import DownloadConfig
from s2f_lib.errors import RefusalReason
from s2f_lib.preparation.clip import Outcome
from s2f_lib.preparation.ledger import Reopen
from s2f_lib.preparation.ledger_file import read_pending
from s2f_lib.preparation.workers import Known, Task
from s2f_lib.sources.clip import ClipRef
from s2f_lib.sources.download.attempts import finished_file
from s2f_lib.sources.download.ledger import DownloadLedger
from s2f_lib.sources.download.run import LEDGER_NAME, DownloadResult, download_clips

logger = logging.getLogger(__name__)

DOWNLOAD_REASONS = frozenset(
    {
        RefusalReason.PRIVATE,
        RefusalReason.REMOVED,
        RefusalReason.GEO_BLOCKED,
        RefusalReason.AGE_GATED,
        RefusalReason.THROTTLED,
        RefusalReason.NETWORK,
        RefusalReason.FORMAT,
    }
)
_LOOK_EVERY_S = 0.2  # whether a clip is there, or the run is ending


@dataclass(frozen=True)
class Download:
    """That missing media are to be fetched, and how.

    Attributes
    ----------
    folder
        Of the finished files, `<clip id>.mp4`; what other files of the list lie there is used as it is.
    config
        Settings.
    """

    folder: Path
    config: DownloadConfig

    @contextmanager
    def reopens(self) -> Iterator[Reopen]:
        """Open the download's ledger, and give what `Ledger.enter` asks: try a refused clip again?

        Yes where its media were missing, and where the server may grant the download now, or grant
        it to these settings.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with DownloadLedger(self.folder / LEDGER_NAME) as ledger:

            def reopen(clip: ClipRef, reason: RefusalReason) -> bool:
                if reason != RefusalReason.MEDIA_MISSING and reason not in DOWNLOAD_REASONS:
                    return False
                return ledger.final_refusal(clip.clip_id, self.config) is None

            yield reopen


class DownloadFeed:
    """Gives out pending clips whose media are there, and fetches the others meanwhile.

    A thread runs the download.  At most `size` clips wait between it and whoever takes them, so
    slow preparation slows it down; a clip that is not fetched comes as its outcome.

    Once the server refuses everything as too many requests, no more is asked for in this run: those
    clips stay pending, those whose files are there still come.

    Parameters
    ----------
    ledger
        The preparation's ledger file; what is pending in it is what is wanted.
    download
        Where and how.
    size
        Clips that may wait.
    """

    def __init__(self, ledger: Path, download: Download, *, size: int) -> None:
        self._ledger, self._download = ledger, download
        self._ready: queue.Queue[Task | Known | BaseException | None] = queue.Queue(size)
        self._positions: dict[str, int] = {}  # of clips that are asked for: a few, however long the list
        self._seconds: dict[int, float] = {}  # of clips that are in preparation
        self._stop = threading.Event()
        self._gave_up = False
        self._thread = threading.Thread(target=self._run, name="download-feed", daemon=True)

    def __enter__(self) -> DownloadFeed:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def tasks(self) -> Iterator[Task | Known | None]:
        """Yield clips with their places, outcomes of those not fetched, and None while none is there.

        Raises
        ------
        StudyError
            What ended the download: a full disk, a cookies file that is none.
        """
        while True:
            try:
                item = self._ready.get(timeout=_LOOK_EVERY_S)
            except queue.Empty:
                yield None
                continue
            if isinstance(item, BaseException):
                raise item
            if item is None:
                return
            yield item

    def seconds(self, position: int) -> dict[str, float]:
        """Return what the download of a clip took, once; nothing for a file that was there."""
        seconds = self._seconds.pop(position, None)
        return {} if seconds is None else {"download": round(seconds, 4)}

    def _run(self) -> None:
        try:
            folder, config = self._download.folder, self._download.config
            results = download_clips(self._wanted(), folder, config, stop=self._stop)
            with closing(results):
                for result in results:
                    self._hand_on(result)
            self._put(None)
        except BaseException as error:
            self._put(error)

    def _wanted(self) -> Iterator[ClipRef]:
        """Yield the clips to fetch, in order; those whose files are there go straight on."""
        folder = self._download.folder
        for position, clip in read_pending(self._ledger):
            if self._stop.is_set():
                return
            there = finished_file(clip, folder)
            if clip.media is not None and clip.media != there:
                self._put((position, clip))  # a file of the user's own
            elif self._gave_up:
                if there is not None:
                    self._put((position, replace(clip, media=there)))
            else:
                self._positions[clip.clip_id] = position
                yield clip

    def _hand_on(self, result: DownloadResult) -> None:
        position = self._positions.pop(result.clip.clip_id)
        if result.n_attempts:
            self._seconds[position] = result.seconds
        if result.is_done:
            self._put((position, result.clip))
        elif result.can_retry and not result.n_attempts:
            self._gave_up = True  # it was not asked for: it stays pending
        else:
            self._put((position, Outcome(None, result.reason, result.detail)))

    def _put(self, item: Task | Known | BaseException | None) -> None:
        while not self._stop.is_set():
            with suppress(queue.Full):
                self._ready.put(item, timeout=_LOOK_EVERY_S)
                return
