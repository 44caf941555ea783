"""From a clip list to shards.

Stages overlap, with a bounded number of clips between them: threads download
(`download_feed`), processes decode, detect, align and describe (`workers`; or those
of a cluster, `cluster`), a thread writes shards.  This process alone writes the ledger.
A run that is killed at any moment loses at most the last second: the next run with
the same arguments goes on, and every clip is there exactly once.

Memory, whatever the number of clips: here the libraries, three rows of 0.2 MB a worker and
one shard of 0.2 MB a row, some three times while it is written (0.15 GB with 256 clips a shard);
in each worker process the libraries, the networks and one clip's frames.
"""

from __future__ import annotations

import importlib.metadata
import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock, Timeout

from s2f_lib.config import PreparationConfig, StudyConfig
from s2f_lib.errors import InputError
from s2f_lib.faces.extractor import FaceFeatureExtractor, make_extractor
from s2f_lib.preparation.clip import Outcome
from s2f_lib.preparation.download_feed import Download, DownloadFeed
from s2f_lib.preparation.ledger import PENDING, REFUSED, Ledger
from s2f_lib.preparation.shards import (
    FORMAT_VERSION,
    rows_from_bytes,
    rows_to_bytes,
    shard_name,
    sidecar,
    verify_shard,
    write_shard,
)
from s2f_lib.preparation.stages import with_features
from s2f_lib.preparation.summary import PreparationSummary, summarise
from s2f_lib.preparation.workers import Known, Task, prepare_clips
from s2f_lib.sources.avspeech import BadRow
from s2f_lib.sources.clip import ClipRef

logger = logging.getLogger(__name__)

LEDGER_NAME = "ledger.sqlite"
_COMMIT_EVERY_S = 1.0  # what a kill may cost
_GPU_DEVICES = ("/dev/nvidiactl", "/dev/dxg", "/dev/kfd")  # NVIDIA's driver; on Windows' Linux; AMD's

Progress = Callable[[int, int, int], None]
Engine = Literal["local", "ray"]


def prepare(
    config: StudyConfig,
    clips: Iterable[ClipRef | BadRow],
    out: Path,
    *,
    progress: Progress | None = None,
    download: Download | None = None,
    engine: Engine = "local",
    address: str | None = None,
) -> PreparationSummary:
    """Prepare a clip list into shards, or go on with it.

    Parameters
    ----------
    config
        Its `preparation` and `features` are used.
    clips
        The list; read once, in bounded memory.
    out
        Folder of the ledger and the shards; made where it is not there.
    progress
        Called with (finished, all, refused) numbers of clips.
    download
        Fetch the media that the list has not, while others are prepared.
    engine
        "local": processes of this machine.  "ray": the cluster at `address`, see `cluster`.
    address
        Of the Ray cluster; None starts one on this machine alone.

    Returns
    -------
    PreparationSummary
        Of all that the folder's ledger knows.

    Raises
    ------
    InputError
        The folder was begun with other settings, or another run is at work in it; a download was
        asked for on a cluster.
    MissingFileError
        The extractor's weights are not there.
    """
    if engine == "ray" and download is not None:
        raise InputError(
            "a cluster does not download: servers count requests by address, so download first "
            "(without --engine ray; several machines may each take a part of the list), then prepare"
        )
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    begun = time.perf_counter()
    extractor = make_extractor(config.features, device="auto")
    lock = FileLock(out / ".lock", timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise InputError(f"another run is at work in {out}: wait for it, or give another folder") from None
    try:
        with Ledger(out / LEDGER_NAME, block_size=config.preparation.clips_per_shard) as ledger:
            ledger.check_same(
                settings_of(config.preparation, extractor) | {"shards": {"format": FORMAT_VERSION}}
            )
            _reopen_lost_shards(ledger, out)
            with ExitStack() as stack:
                reopen = stack.enter_context(download.reopens()) if download else None
                ledger.enter(clips, reopen=reopen)
            run = _Run(config, ledger, out, extractor, progress)
            n_worked = run.work(download=download, engine=engine, address=address)
            return summarise(ledger, n_this_run=n_worked, wall_s=time.perf_counter() - begun)
    finally:
        lock.release()


def settings_of(preparation: PreparationConfig, extractor: FaceFeatureExtractor) -> dict[str, Any]:
    """Return what decides the rows: settings that change them, and the weights' fingerprint."""
    settings = preparation.model_dump(mode="json", exclude={"workers"})
    features = {"extractor": extractor.name, "fingerprint": extractor.fingerprint}
    return {"preparation": settings, "features": features}


class _Run:
    """One run over what is pending in a ledger."""

    def __init__(
        self,
        config: StudyConfig,
        ledger: Ledger,
        out: Path,
        extractor: FaceFeatureExtractor,
        progress: Progress | None,
    ) -> None:
        self._config, self._ledger, self._out, self._extractor = config, ledger, out, extractor
        created = ledger.meta_default("created", datetime.now(UTC).isoformat(timespec="seconds"))
        self._provenance = settings_of(config.preparation, extractor) | {
            "s2f_lib": _version(),
            "created": created,
            "dimension": extractor.dimension,
        }
        counts = ledger.counts()
        self._total = sum(counts.values())
        self._n_pending = sum(n for (status, _), n in counts.items() if status == PENDING)
        self._n_refused = sum(n for (status, _), n in counts.items() if status == REFUSED)
        self._finished = self._total - self._n_pending
        self._progress = progress or (lambda *_: None)
        self._feed: DownloadFeed | None = None
        self._writing: tuple[int, str, tuple[int, ...], Future[int]] | None = None

    def work(self, *, download: Download | None, engine: Engine, address: str | None) -> int:
        """Prepare what is pending, write what is finished; return how many clips were worked on."""
        self._progress(self._finished, self._total, self._n_refused)
        with ThreadPoolExecutor(1, thread_name_prefix="shards") as self._writer:
            self._write_blocks(wait=True)  # a killed run may have left some
            if not self._n_pending:
                return 0
            with ExitStack() as stack:
                tasks: Iterator[Task | Known | None] = self._ledger.pending()
                if download is not None:
                    feed = DownloadFeed(self._ledger.path, download, size=2 * self._workers())
                    tasks, self._feed = stack.enter_context(feed).tasks(), feed
                n_worked = self._take(stack.enter_context(closing(self._outcomes(tasks, engine, address))))
            self._write_blocks(wait=True)
        return n_worked

    def _take(self, outcomes: Iterator[Known | None]) -> int:
        """Enter outcomes as they come."""
        n_worked, committed = 0, time.monotonic()
        self._ledger.begin()
        try:
            for item in outcomes:
                if item is not None:
                    self._enter(*item)
                    n_worked += 1
                if time.monotonic() - committed > _COMMIT_EVERY_S:
                    self._ledger.commit()
                    self._write_blocks()
                    self._ledger.begin()
                    committed = time.monotonic()
        finally:  # also on Ctrl-C: what is finished is kept
            self._ledger.commit()
        return n_worked

    def _outcomes(
        self, tasks: Iterator[Task | Known | None], engine: Engine, address: str | None
    ) -> Iterator[Known | None]:
        if engine == "ray":
            from s2f_lib.preparation.cluster import prepare_on_cluster

            return prepare_on_cluster(tasks, self._config, address=address)
        device = "cuda" if self._config.preparation.detector == "torch" and _has_gpu() else "cpu"
        return prepare_clips(
            tasks,
            self._config,
            workers=self._workers(),
            with_features=self._extractor.runs_in_workers,
            device=device,
        )

    def _workers(self) -> int:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        return min(self._config.preparation.workers or cores, self._n_pending)

    def _enter(self, position: int, outcome: Outcome) -> None:
        seconds = outcome.seconds
        if self._feed is not None:
            seconds = self._feed.seconds(position) | seconds
        if outcome.row is not None:
            self._ledger.finish(position, rows_to_bytes([outcome.row]), seconds=seconds)
        else:
            self._ledger.refuse(position, outcome.reason, outcome.detail, seconds=seconds)
            self._n_refused += 1
        self._finished += 1
        self._progress(self._finished, self._total, self._n_refused)

    def _write_blocks(self, *, wait: bool = False) -> None:
        """Write finished blocks as shards, one after the other, in a thread; `wait` for all of them."""
        while True:
            if self._writing is not None:
                block, name, positions, done = self._writing
                if not wait and not done.done():
                    return
                n_rows = done.result()
                self._ledger.close_block(block, name, positions)
                self._writing = None
                logger.info("%s: %d clips", name, n_rows)
            block = next(iter(self._ledger.finished_blocks()), None)
            if block is None:
                return
            positions, packed = zip(*self._ledger.spooled(block), strict=True)
            name = shard_name(block)
            self._writing = block, name, positions, self._writer.submit(self._write, name, packed)

    def _write(self, name: str, packed: tuple[bytes, ...]) -> int:
        rows = [row for data in packed for row in rows_from_bytes(data)]
        if rows[0].features is None:  # a batch is a block: the same numbers whoever prepared its clips
            rows = with_features(rows, self._extractor)
        write_shard(self._out / name, rows, provenance=self._provenance)
        return len(rows)


def _reopen_lost_shards(ledger: Ledger, out: Path) -> None:
    """Do again what a lost or damaged shard held."""
    for name in ledger.shards():
        if not verify_shard(out / name):
            n_clips = ledger.reopen_shard(name)
            for path in (out / name, sidecar(out / name)):  # none comes in its place where media are gone
                path.unlink(missing_ok=True)
            logger.warning("%s is missing or damaged: its %d clips are prepared again", name, n_clips)


def _version() -> str:
    try:
        return importlib.metadata.version("s2f_lib")
    except importlib.metadata.PackageNotFoundError:
        return "uninstalled"


def _has_gpu() -> bool:
    """Return whether torch sees a GPU; only where there may be one is torch imported, which takes seconds."""
    if not any(Path(device).exists() for device in _GPU_DEVICES):
        return False
    import torch

    return torch.cuda.is_available()
