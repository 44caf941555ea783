"""One clip with its retries: attempt, check, give the file its name."""

from __future__ import annotations

import hashlib
import logging
import os
import random
import shutil
import time
from dataclasses import replace
from pathlib import Path

from s2f_lib.config import DownloadConfig
from s2f_lib.errors import RefusalReason
from s2f_lib.sources.clip import ClipRef
from s2f_lib.sources.download.check import FINISHED_SUFFIXES, check_file
from s2f_lib.sources.download.failures import DownloadRefused, Failure, LocalFailure, Retry
from s2f_lib.sources.download.ledger import request_key
from s2f_lib.sources.download.pacing import Pacer, backoff_s
from s2f_lib.sources.download.urls import takes_whole_file

logger = logging.getLogger(__name__)

PARTIAL_DIR = ".partial"  # what is on its way, a folder a clip


def finished_file(clip: ClipRef, out_dir: Path) -> Path | None:
    """Return the clip's finished file in a download folder, or None."""
    paths = (out_dir / f"{clip.clip_id}{suffix}" for suffix in FINISHED_SUFFIXES)
    return next((path for path in paths if path.is_file()), None)


def delete_partial_files(clip: ClipRef, out_dir: Path, config: DownloadConfig) -> None:
    """Remove what is left of a clip's way where its file is finished."""
    shutil.rmtree(_work_dir(clip, out_dir, config), ignore_errors=True)


def fetch_with_retries(
    clip: ClipRef, out_dir: Path, config: DownloadConfig, pacer: Pacer
) -> tuple[Path, int]:
    """Fetch one clip; see `download.fetch_clip`.

    Returns
    -------
    file : Path
        The finished file.
    n_attempts : int
        How often it was asked for; 0 where it was there.
    """
    if (there := finished_file(clip, out_dir)) is not None:
        return there, 0
    work_dir = _work_dir(clip, out_dir, config)
    try:
        work_dir.mkdir(parents=True, exist_ok=True)
        return _retried(clip, work_dir, out_dir, config, pacer)
    except OSError as error:
        raise LocalFailure(f"cannot store {clip.clip_id} in {out_dir}: {error}") from None


def _retried(
    clip: ClipRef, work_dir: Path, out_dir: Path, config: DownloadConfig, pacer: Pacer
) -> tuple[Path, int]:
    rng = random.Random()  # unseeded on purpose: jitter must differ between machines
    pacer.wait_turn()
    deadline_s = time.monotonic() + config.max_clip_s
    n_attempts = 0
    while True:
        n_attempts += 1
        went_on = any(work_dir.iterdir())  # with what an earlier attempt left
        file, failure = _attempt(clip, work_dir, config, pacer, deadline_s=deadline_s)
        if failure is None:
            return _publish(file, out_dir / f"{clip.clip_id}{file.suffix}", work_dir), n_attempts
        if went_on and failure.reason == RefusalReason.FORMAT:
            # the part is of a file that has changed since, or all of the file already (then yt-dlp asks for
            # nothing more than the end, and takes the server's 416 for final): the clip is not at fault
            shutil.rmtree(work_dir)
            work_dir.mkdir()
            failure = replace(failure, retry=Retry.NOW)
        logger.debug("%s, attempt %d: %s: %s", clip.clip_id, n_attempts, failure.reason, failure.detail)
        pause_s = _pause_s(failure, n_attempts, config, rng)
        if pause_s is None or n_attempts >= config.max_attempts or time.monotonic() + pause_s > deadline_s:
            can_retry = failure.retry != Retry.NEVER
            if not can_retry:  # else the part that came serves the next run
                shutil.rmtree(work_dir, ignore_errors=True)
            raise DownloadRefused(failure.reason, failure.detail, can_retry=can_retry, n_attempts=n_attempts)
        if failure.reason == RefusalReason.THROTTLED:
            pacer.pause(pause_s)  # the server means the address, not the clip: all threads wait
        else:
            pacer.sleep(pause_s)
        pacer.wait_turn()


def _work_dir(clip: ClipRef, out_dir: Path, config: DownloadConfig) -> Path:
    """Return the clip's folder; another mirror or height has another: their parts must not be joined."""
    digest = hashlib.sha256(request_key(config).encode()).hexdigest()[:8]
    return out_dir / PARTIAL_DIR / f"{clip.clip_id}.{digest}"


def _attempt(
    clip: ClipRef, work_dir: Path, config: DownloadConfig, pacer: Pacer, *, deadline_s: float
) -> tuple[Path, None] | tuple[None, Failure]:
    from s2f_lib.sources.download.client import AttemptFailed, fetch_once

    def check() -> None:
        pacer.check()
        if time.monotonic() > deadline_s:  # a trickle never trips the socket's own timeout
            raise AttemptFailed(
                Failure(RefusalReason.NETWORK, Retry.LATER, f"not there after {config.max_clip_s:g} s")
            )

    try:
        file = fetch_once(clip, work_dir, config, check=check)
    except AttemptFailed as error:
        return None, error.failure
    whole = takes_whole_file(config)
    suffix, failure = check_file(file, clip, whole_file=whole, tolerance_s=config.duration_tolerance_s)
    if failure is not None:
        file.unlink(missing_ok=True)  # a damaged file must not be gone on with
        return None, failure
    return file.rename(file.with_suffix(suffix)), None


def _pause_s(failure: Failure, n_failed: int, config: DownloadConfig, rng: random.Random) -> float | None:
    """Return how long to wait before the next attempt; None: no further attempt in this run."""
    if failure.retry != Retry.NOW:
        return None
    if failure.retry_after_s is not None and failure.retry_after_s > config.max_retry_after_s:
        return None
    return max(failure.retry_after_s or 0.0, backoff_s(n_failed, config, rng))


def _publish(file: Path, final: Path, work_dir: Path) -> Path:
    """Give a checked file its name; durable first, so that the name never stands for half a file."""
    with file.open("rb+") as stream:
        os.fsync(stream.fileno())
    file.replace(final)
    shutil.rmtree(work_dir, ignore_errors=True)
    return final
