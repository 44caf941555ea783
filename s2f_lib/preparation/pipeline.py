"""From a clip list to shards, on one machine.

Processes prepare clips; this process alone writes the ledger and the shards.  A
run that is killed at any moment loses at most the last second: the next run
with the same arguments goes on, and every clip is there exactly once.
"""

from __future__ import annotations

import importlib.metadata
import logging
import os
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from s2f_lib.config import StudyConfig
from s2f_lib.errors import InputError
from s2f_lib.features.base import FaceFeatureExtractor, make_extractor
from s2f_lib.preparation.ledger import DONE, PENDING, REFUSED, Ledger
from s2f_lib.preparation.shards import rows_from_bytes, rows_to_bytes, verify_shard, write_shard
from s2f_lib.preparation.stages import with_features
from s2f_lib.preparation.workers import prepare_clips
from s2f_lib.sources.avspeech import BadRow
from s2f_lib.sources.clip import ClipRef

if TYPE_CHECKING:
    import pandas as pd

logger = logging.getLogger(__name__)

LEDGER_NAME = "ledger.sqlite"
_COMMIT_EVERY_S = 1.0  # what a kill may cost

Progress = Callable[[int, int, int], None]


@dataclass(frozen=True)
class PreparationSummary:
    """What came of a clip list.

    Attributes
    ----------
    n_clips
        Rows of the list, bad ones included; a clip that stands there twice counts once.
    n_done, n_refused
        Of them.
    by_reason
        Reason code to number of clips, the most frequent first.
    seconds_by_stage
        Stage to seconds, summed over clips and processes, of all runs.
    n_this_run, wall_s
        Clips that this run worked on, and its seconds by the clock.
    """

    n_clips: int
    n_done: int
    n_refused: int
    by_reason: dict[str, int] = field(default_factory=dict)
    seconds_by_stage: dict[str, float] = field(default_factory=dict)
    n_this_run: int = 0
    wall_s: float = 0.0

    def table(self) -> pd.DataFrame:
        """Return the funnel: outcome, clips, share of the list."""
        import pandas as pd

        rows = [("in the list", self.n_clips), ("prepared", self.n_done)]
        rows += [(f"refused: {reason}", n) for reason, n in self.by_reason.items()]
        table = pd.DataFrame(rows, columns=["outcome", "clips"])
        table["share"] = table["clips"] / max(self.n_clips, 1)
        return table

    def stages(self) -> pd.DataFrame:
        """Return seconds by stage: in all, and a clip that got as far as being prepared."""
        import pandas as pd

        table = pd.DataFrame(sorted(self.seconds_by_stage.items()), columns=["stage", "seconds"])
        table["seconds_per_clip"] = table["seconds"] / max(self.n_done, 1)
        return table


def prepare(
    config: StudyConfig,
    clips: Iterable[ClipRef | BadRow],
    out: Path,
    *,
    progress: Progress | None = None,
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

    Returns
    -------
    PreparationSummary
        Of all that the folder's ledger knows.

    Raises
    ------
    InputError
        The folder was begun with other settings, or another run is at work in it.
    MissingFileError
        The extractor's weights are not there.
    """
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
            ledger.check_same(settings_of(config, extractor))
            _reopen_lost_shards(ledger, out)
            ledger.enter(clips)
            n_worked = _Run(config, ledger, out, extractor, progress).work()
            return summarise(ledger, n_this_run=n_worked, wall_s=time.perf_counter() - begun)
    finally:
        lock.release()


def settings_of(config: StudyConfig, extractor: FaceFeatureExtractor) -> dict[str, Any]:
    """Return what decides the rows: settings that change them, and the weights' fingerprint."""
    settings = config.preparation.model_dump(mode="json", exclude={"workers"})
    features = {"extractor": extractor.name, "fingerprint": extractor.fingerprint}
    return {"preparation": settings, "features": features}


def summarise(ledger: Ledger, *, n_this_run: int = 0, wall_s: float = 0.0) -> PreparationSummary:
    """Return what a ledger knows."""
    counts = ledger.counts()
    refused = {reason: n for (status, reason), n in counts.items() if status == REFUSED}
    return PreparationSummary(
        n_clips=sum(counts.values()),
        n_done=sum(n for (status, _), n in counts.items() if status == DONE),
        n_refused=sum(refused.values()),
        by_reason=dict(sorted(refused.items(), key=lambda item: (-item[1], item[0]))),
        seconds_by_stage=ledger.seconds_by_stage(),
        n_this_run=n_this_run,
        wall_s=wall_s,
    )


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
        self._provenance = settings_of(config, extractor) | {
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

    def work(self) -> int:
        """Prepare what is pending, write what is finished; return how many clips that were."""
        self._progress(self._finished, self._total, self._n_refused)
        self._write_finished_blocks()  # a killed run may have left some
        if not self._n_pending:
            return 0
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        workers = min(self._config.preparation.workers or cores, self._n_pending)
        outcomes = prepare_clips(
            self._ledger.pending(),
            self._config,
            workers=workers,
            with_features=self._extractor.runs_in_workers,
        )
        n_worked, committed = 0, time.monotonic()
        self._ledger.begin()
        try:
            for place, outcome in outcomes:
                self._enter(place, outcome)
                n_worked += 1
                if time.monotonic() - committed > _COMMIT_EVERY_S:
                    self._ledger.commit()
                    self._write_finished_blocks()
                    self._ledger.begin()
                    committed = time.monotonic()
        finally:  # also on Ctrl-C: what is finished is kept
            self._ledger.commit()
            outcomes.close()
        self._write_finished_blocks()
        return n_worked

    def _enter(self, place: int, outcome) -> None:
        if outcome.row is not None:
            self._ledger.finish(place, rows_to_bytes([outcome.row]), seconds=outcome.seconds)
        else:
            self._ledger.refuse(place, outcome.reason, outcome.detail, seconds=outcome.seconds)
            self._n_refused += 1
        self._finished += 1
        self._progress(self._finished, self._total, self._n_refused)

    def _write_finished_blocks(self) -> None:
        for block in self._ledger.finished_blocks():
            places, packed = zip(*self._ledger.spooled(block), strict=True)
            rows = [row for data in packed for row in rows_from_bytes(data)]
            if rows[0].features is None:
                rows = with_features(rows, self._extractor)
            name = f"shard-{block:05d}.parquet"
            write_shard(self._out / name, rows, provenance=self._provenance)
            self._ledger.close_block(block, name, places)
            logger.info("%s: %d clips", name, len(rows))


def _reopen_lost_shards(ledger: Ledger, out: Path) -> None:
    """Do again what a lost or damaged shard held."""
    for name in ledger.shards():
        if not verify_shard(out / name):
            n_clips = ledger.reopen_shard(name)
            logger.warning("%s is missing or damaged: its %d clips are prepared again", name, n_clips)


def _version() -> str:
    try:
        return importlib.metadata.version("s2f_lib")
    except importlib.metadata.PackageNotFoundError:
        return "uninstalled"
