"""From a clip list to shards.

The steps overlap, with a bounded number of clips between them: threads download (`download_feed`), processes
prepare (`workers`, or those of a cluster, `cluster`), a thread writes shards. Only this process writes the
ledger. A run that is killed loses at most the last second: the next run with the same arguments resumes it,
and every clip is written exactly once.

The memory does not depend on the number of clips. This process needs the libraries, three rows of 0.2 MB per
worker, and one shard of 0.2 MB per row, about three times while it is written (0.15 GB with 256 clips per
shard). Each worker process needs the libraries, the networks and the frames of one clip.
"""

from __future__ import annotations

import importlib.metadata
import logging
import os
import time
from collections.abc import Callable, Collection, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from s2f_lib import registry
from s2f_lib.config import FeatureConfig, PreparationConfig
from s2f_lib.errors import InputError, check_main_process
from s2f_lib.faces.extractor import FaceFeatureExtractor, check_extractor, make_extractor
from s2f_lib.preparation.clip import ClipState, with_features
from s2f_lib.preparation.download_feed import Download, DownloadFeed
from s2f_lib.preparation.ledger import (
    LEDGER_NAME,
    PENDING,
    REFUSED,
    Ledger,
    PreparationSummary,
    refusal_reasons,
    summarise,
)
from s2f_lib.preparation.shards import (
    FORMAT_VERSION,
    rows_from_bytes,
    rows_to_bytes,
    shard_name,
    sidecar,
    verify_shard,
    write_shard,
)
from s2f_lib.preparation.workers import States, prepare_clips
from s2f_lib.sources.avspeech import BadRow
from s2f_lib.sources.clip import ClipRef
from s2f_lib.sources.folder import list_media
from s2f_lib.storage import locked

logger = logging.getLogger(__name__)

_COMMIT_EVERY_S = 1.0  # a kill loses the work since the last commit
_GPU_DEVICES = ("/dev/nvidiactl", "/dev/dxg", "/dev/kfd")  # NVIDIA's driver; Windows' Linux; AMD's driver

Progress = Callable[[int, int, int], None]
Engine = Literal["local", "ray"]


def prepare(
    clips: Iterable[ClipRef | BadRow],
    out: str | Path,
    *,
    preparation: PreparationConfig | None = None,
    features: FeatureConfig | None = None,
    extractor: FaceFeatureExtractor | None = None,
    progress: Progress | None = None,
    download: Download | None = None,
    engine: Engine = "local",
    address: str | None = None,
    retry: str | Collection[str] = (),
) -> PreparationSummary:
    """Prepare a clip list into shards, or resume an interrupted run.

    A script must call this function under `if __name__ == "__main__":`, because the worker processes import
    the script. A clip that crashes a process is tried in at most three runs.

    Parameters
    ----------
    clips
        Clip list, read once in bounded memory.
    out
        Folder of the ledger and the shards. It is created if needed.
    preparation, features
        Settings. None: the library's defaults.
    extractor
        Custom extractor that replaces the one that `features` names: a callable object with `name`,
        `dimension` and `fingerprint`, see `FaceFeatureExtractor`. The main process runs it, on all faces of
        a shard at once. Its name and fingerprint are stored in the folder.
    progress
        Function of the numbers of finished, all and refused clips.
    download
        Where and how missing media are downloaded while other clips are prepared. None: clips without media
        are refused.
    engine
        "local": processes of this machine. "ray": the cluster at `address`, see `cluster`.
    address
        Address of the Ray cluster. None starts one on this machine.
    retry
        Reasons of earlier refusals, such as "crashed" or "truncated": these clips are tried again.

    Returns
    -------
    PreparationSummary
        Outcomes of all clips in the ledger of the folder.

    Raises
    ------
    InputError
        The folder was begun with other settings or by an older version, another run is at work in it, a
        download is requested on a cluster, or the call comes from a child process.
    MissingFileError
        The weights of the extractor are missing.
    StudyError
        The worker processes die before their first clip.

    See Also
    --------
    prepare_folder : Prepares a folder of videos without a list.
    prepare_recordings : Prepares voices without faces.
    s2f_lib.preparation.shards.read_prepared : Reads the shards.

    Examples
    --------
    >>> from tempfile import mkdtemp
    >>> bad_row = BadRow(1, "AAAAAAAAAAA", "row 1: 1 column, expected 5")
    >>> prepare([bad_row], mkdtemp()).by_reason
    {'bad-row': 1}
    """
    check_main_process("prepare")
    if engine == "ray" and download is not None:
        raise InputError(
            "a cluster does not download: servers count requests by address, so download first "
            "(without --engine ray; several machines may each take a part of the list), then prepare"
        )
    return _prepare(
        clips,
        Path(out),
        preparation,
        features,
        extractor=extractor,
        progress=progress,
        download=download,
        engine=engine,
        address=address,
        retry=retry,
    )


def prepare_folder(
    media: str | Path,
    out: str | Path,
    *,
    max_clip_s: float | None = None,
    split_csv: str | Path | None = None,
    test_share: float = 0.05,
    preparation: PreparationConfig | None = None,
    features: FeatureConfig | None = None,
    extractor: FaceFeatureExtractor | None = None,
    progress: Progress | None = None,
    engine: Engine = "local",
    address: str | None = None,
    retry: str | Collection[str] = (),
) -> PreparationSummary:
    """Prepare a folder of videos without a clip list; see `prepare` and `sources.folder.list_media`.

    Each file is one clip, named by its path in the folder. The frames come from the whole clip. The sound is
    that of the first `preparation.audio_s` seconds; to use all sound of long files, cut them with
    `max_clip_s`.

    Parameters
    ----------
    media
        Folder of videos of one speaker each. Subfolders are searched.
    out
        Folder of the ledger and the shards. An existing run in it is resumed.
    max_clip_s
        Length of the clips into which longer files are cut, in seconds. None: files are not cut.
    split_csv, test_share
        Stored split, CSV `clip_id,split`, or share of the files in the test split. No split divides a file.
    preparation, features, extractor, progress, engine, address, retry
        As for `prepare`.

    Returns
    -------
    PreparationSummary
        Outcomes of all clips in the ledger of the folder.

    Raises
    ------
    InputError
        The folder holds no media, or `preparation.faces` is "at-xy", which needs a list; and the cases of
        `prepare`.

    Examples
    --------
    >>> from tempfile import mkdtemp
    >>> media = Path(mkdtemp())
    >>> _ = (media / "Zoë 1.mp4").write_text("not a video")
    >>> out = mkdtemp()
    >>> prepare_folder(media, out).by_reason
    {'not-media': 1}
    """
    check_main_process("prepare_folder")
    preparation = preparation or PreparationConfig()
    if preparation.faces == "at-xy":
        raise InputError(
            "faces at-xy needs the speaker's x and y: give a clip list with them (--csv), or use faces one"
        )
    clips = list_media(media, max_clip_s=max_clip_s, split_csv=split_csv, test_share=test_share)
    return _prepare(
        clips,
        Path(out),
        preparation,
        features,
        extractor=extractor,
        progress=progress,
        engine=engine,
        address=address,
        retry=retry,
        max_clip_s=max_clip_s,
    )


def prepare_recordings(
    media: str | Path,
    out: str | Path,
    *,
    max_clip_s: float | None = None,
    split_csv: str | Path | None = None,
    test_share: float = 0.05,
    preparation: PreparationConfig | None = None,
    progress: Progress | None = None,
    retry: str | Collection[str] = (),
) -> PreparationSummary:
    """Prepare a folder of voices without faces; `prepare_folder` explains the arguments.

    The files are sound files or videos. The shards contain no faces and no features. Functions that
    need faces refuse such clips.

    Examples
    --------
    >>> import wave
    >>> from tempfile import mkdtemp
    >>> from s2f_lib.preparation import read_prepared
    >>> media, out = Path(mkdtemp()), mkdtemp()
    >>> noise = np.random.default_rng(0).integers(-9_999, 9_999, 16_000 * 3)
    >>> with wave.open(str(media / "my voice.wav"), "wb") as file:
    ...     file.setparams((1, 2, 16_000, 0, "NONE", ""))
    ...     file.writeframes(noise.astype(np.int16).tobytes())
    >>> prepare_recordings(media, out, preparation=PreparationConfig(workers=1)).n_done
    1
    >>> read_prepared(out)
    PreparedClips(1 clips of 6 s: 1 train; no faces)
    """
    check_main_process("prepare_recordings")
    return _prepare(
        list_media(media, max_clip_s=max_clip_s, split_csv=split_csv, test_share=test_share),
        Path(out),
        preparation,
        sound_only=True,
        progress=progress,
        retry=retry,
        max_clip_s=max_clip_s,
    )


def _prepare(
    clips: Iterable[ClipRef | BadRow],
    out: Path,
    preparation: PreparationConfig | None,
    features: FeatureConfig | None = None,
    *,
    extractor: FaceFeatureExtractor | None = None,
    sound_only: bool = False,
    progress: Progress | None,
    download: Download | None = None,
    engine: Engine = "local",
    address: str | None = None,
    retry: str | Collection[str],
    max_clip_s: float | None = None,
) -> PreparationSummary:
    """Prepare clips, or with `sound_only` only their sound."""
    begun, reasons = time.perf_counter(), refusal_reasons(retry)
    preparation, features = preparation or PreparationConfig(), features or FeatureConfig()
    by_name = extractor is None and registry.is_known_to_workers("extractors", features.extractor)
    if engine == "ray" and not by_name:
        raise InputError(
            "the processes of a cluster do not know this extractor: give its name in features.extractor, "
            "and install a distribution with that entry point on all machines"
        )
    if not sound_only:
        extractor = check_extractor(extractor or make_extractor(features, device="auto"))
    in_workers = by_name and getattr(extractor, "runs_in_workers", False)
    busy = f"another run is at work in {out}: wait for it, or give another folder"
    with (
        locked(out / LEDGER_NAME, busy=busy),
        Ledger(out / LEDGER_NAME, block_size=preparation.clips_per_shard) as ledger,
    ):
        settings = settings_of(preparation, extractor) | {"shards": {"format": FORMAT_VERSION}}
        ledger.check_same(settings | {"media": {"max_clip_s": max_clip_s}})
        _reopen_lost_shards(ledger, out)
        with ExitStack() as stack:
            reopen = stack.enter_context(download.reopens(reasons)) if download else None
            ledger.enter(clips, reopen=reopen, retry=reasons)
        run = _Run(
            preparation,
            features,
            ledger=ledger,
            out=out,
            extractor=extractor,
            in_workers=in_workers,
            progress=progress,
        )
        n_worked = run.work(download=download, engine=engine, address=address)
        return summarise(ledger, n_this_run=n_worked, wall_s=time.perf_counter() - begun)


def settings_of(preparation: PreparationConfig, extractor: FaceFeatureExtractor | None) -> dict[str, Any]:
    """Return everything that decides the rows: settings, and the fingerprint of the extractor's weights."""
    return {
        "preparation": preparation.model_dump(mode="json", exclude={"workers"}),
        "features": {
            "extractor": extractor.name if extractor is not None else None,
            "fingerprint": extractor.fingerprint if extractor is not None else None,
        },
    }


class _Run:
    """One run over the pending clips of a ledger."""

    def __init__(
        self,
        preparation: PreparationConfig,
        features: FeatureConfig,
        *,
        ledger: Ledger,
        out: Path,
        extractor: FaceFeatureExtractor | None,
        in_workers: bool,
        progress: Progress | None,
    ) -> None:
        self._preparation, self._features = preparation, features
        self._ledger, self._out, self._extractor = ledger, out, extractor
        self._in_workers = in_workers  # whether worker processes compute the features
        created = ledger.meta_default("created", datetime.now(UTC).isoformat(timespec="seconds"))
        self._provenance = settings_of(preparation, extractor) | {
            "s2f_lib": importlib.metadata.version("s2f_lib"),
            "created": created,
            "dimension": extractor.dimension if extractor is not None else 0,
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
        """Prepare the pending clips, write finished blocks, and return the number of clips worked on."""
        self._progress(self._finished, self._total, self._n_refused)
        with ThreadPoolExecutor(1, thread_name_prefix="shards") as self._writer:
            self._write_blocks(wait=True)  # a killed run may have left some
            if not self._n_pending:
                return 0
            with ExitStack() as stack:
                states: States = (ClipState(position, clip) for position, clip in self._ledger.pending())
                if download is not None:
                    feed = DownloadFeed(self._ledger.path, download, size=2 * self._workers())
                    states, self._feed = stack.enter_context(feed).tasks(), feed
                n_worked = self._take(stack.enter_context(closing(self._prepared(states, engine, address))))
            self._write_blocks(wait=True)
        return n_worked

    def _take(self, states: Iterator[ClipState | None]) -> int:
        """Enter finished clips into the ledger as they come, and return their number."""
        n_worked, committed = 0, time.monotonic()
        self._ledger.begin()
        try:
            for state in states:
                if state is not None:
                    self._enter(state)
                    n_worked += 1
                if time.monotonic() - committed > _COMMIT_EVERY_S:
                    self._ledger.commit()
                    self._write_blocks()
                    self._ledger.begin()
                    committed = time.monotonic()
        finally:  # also on Ctrl-C: finished clips are kept
            self._ledger.commit()
        return n_worked

    def _prepared(
        self, states: States, engine: Engine, address: str | None
    ) -> Generator[ClipState | None, None, None]:
        settings, in_workers = (self._preparation, self._features), self._in_workers
        sound_only = self._extractor is None
        if engine == "ray":
            from s2f_lib.preparation.cluster import prepare_on_cluster

            return prepare_on_cluster(states, *settings, gpu_features=not in_workers, address=address)
        detects_on_gpu = not sound_only and self._preparation.detector == "torch" and _has_gpu()
        return prepare_clips(
            states,
            *settings,
            workers=self._workers(),
            with_features=in_workers,
            sound_only=sound_only,
            device="cuda" if detects_on_gpu else "cpu",
        )

    def _workers(self) -> int:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        return min(self._preparation.workers or cores, self._n_pending)

    def _enter(self, state: ClipState) -> None:
        seconds = state.seconds
        if self._feed is not None:
            seconds = self._feed.seconds(state.position) | seconds
        if state.row is not None:
            self._ledger.finish(state.position, rows_to_bytes([state.row]), seconds=seconds)
        else:
            assert state.reason is not None
            self._ledger.refuse(state.position, state.reason, state.detail, seconds=seconds)
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
            next_block = next(iter(self._ledger.finished_blocks()), None)
            if next_block is None:
                return
            positions, packed = zip(*self._ledger.spooled(next_block), strict=True)
            name = shard_name(next_block)
            self._writing = next_block, name, positions, self._writer.submit(self._write, name, packed)

    def _write(self, name: str, packed: tuple[bytes, ...]) -> int:
        rows = [row for data in packed for row in rows_from_bytes(data)]
        if self._extractor is not None and rows[0].features is None:
            # one batch is one block, so the numbers do not depend on the workers
            rows = with_features(rows, self._extractor)
        write_shard(self._out / name, rows, provenance=self._provenance)
        return len(rows)


def _reopen_lost_shards(ledger: Ledger, out: Path) -> None:
    """Make the clips of lost and damaged shards pending again."""
    for name in ledger.shards():
        if not verify_shard(out / name):
            n_clips = ledger.reopen_shard(name)
            for path in (out / name, sidecar(out / name)):  # if media are gone, no new shard replaces it
                path.unlink(missing_ok=True)
            logger.warning("%s is missing or damaged: its %d clips are prepared again", name, n_clips)


def _has_gpu() -> bool:
    """Return whether torch sees a GPU. Without a GPU driver torch is not imported, which takes seconds."""
    if not any(Path(device).exists() for device in _GPU_DEVICES):
        return False
    import torch

    return torch.cuda.is_available()
