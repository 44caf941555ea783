"""The public pairs as shards, so that every chapter can run on them.

There is no video to look for a face in: the published face is found again in its picture and aligned
as `face_crop` does, and the voice is what the file holds.  Which clip is whose comes from the names.
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from s2f_lib.config import StudyConfig
from s2f_lib.errors import NAMES_CLIP, ClipRefused, InputError, RefusalReason
from s2f_lib.faces.extractor import make_extractor
from s2f_lib.media.jpeg import encode_jpeg
from s2f_lib.pairs.media import align_image, read_image, read_voice
from s2f_lib.preparation.pipeline import PreparationSummary, settings_of
from s2f_lib.preparation.shards import PreparedRow, shard_name, verify_shard, write_shard
from s2f_lib.preparation.stages import with_features
from s2f_lib.sources.public_pairs import FoundPairs, Pair

logger = logging.getLogger(__name__)

_DONE = "pairs.json"  # written last: what came of the pairs, and the names of the shards


def prepare_pairs(
    config: StudyConfig,
    found: FoundPairs,
    split_of: Mapping[str, str],
    out: Path,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> PreparationSummary:
    """Write pairs as shards, or find them written from the same files with the same split.

    Parameters
    ----------
    config
        Its `preparation` and `features` are used.
    found
        As `sources.public_pairs.find_pairs` gives.
    split_of
        Clip id to "train" or "test"; pairs that it lacks are left out.
    out
        Folder of the shards, of these settings and this split alone.

    Returns
    -------
    PreparationSummary
        A name that lacks a file counts as refused: media-missing.

    Raises
    ------
    InputError
        No pair can be used.
    """
    out = Path(out)
    pairs = [pair for pair in found.pairs if pair.clip_id in split_of]
    settings_digest = _digest(config, pairs, split_of)
    finished = _read_done(out, settings_digest)
    if finished is not None:
        return finished
    out.mkdir(parents=True, exist_ok=True)
    for old in (out / _DONE, *out.glob("shard-*")):  # of another split, or there are fewer now
        old.unlink(missing_ok=True)
    begun = time.perf_counter()
    extractor = make_extractor(config.features, device="auto")
    provenance = settings_of(config, extractor) | {"source": "pairs", "dimension": extractor.dimension}
    reasons: dict[str, int] = {}
    if found.missing:
        reasons[RefusalReason.MEDIA_MISSING.value] = len(found.missing)
    rows: list[PreparedRow] = []
    for index, pair in enumerate(pairs):
        try:
            rows.append(_row(pair, split_of[pair.clip_id], config))
        except ClipRefused as refused:
            reasons[refused.reason.value] = reasons.get(refused.reason.value, 0) + 1
            logger.warning("%s is left out: %s", pair.clip_id, refused, extra=NAMES_CLIP)
        if progress:
            progress(index + 1, len(pairs))
    if not rows:
        raise InputError(f"none of {len(found.pairs)} pairs can be used: {reasons}")
    read_s = time.perf_counter() - begun
    size = config.preparation.clips_per_shard
    names = []
    for number, start in enumerate(range(0, len(rows), size)):
        names.append(shard_name(number))
        write_shard(
            out / names[-1], with_features(rows[start : start + size], extractor), provenance=provenance
        )
    wall_s = time.perf_counter() - begun
    summary = PreparationSummary(
        n_clips=len(pairs) + len(found.missing),
        n_done=len(rows),
        n_refused=sum(reasons.values()),
        by_reason=dict(sorted(reasons.items(), key=lambda item: (-item[1], item[0]))),
        seconds_by_stage={"read and align": read_s, "features and shards": wall_s - read_s},
        n_this_run=len(pairs),
        wall_s=wall_s,
    )
    partial = out / f".{_DONE}.part"
    done = {"asked": settings_digest, "shards": names, "summary": asdict(summary)}
    partial.write_text(json.dumps(done) + "\n", encoding="utf-8")
    partial.replace(out / _DONE)
    return summary


def _digest(config: StudyConfig, pairs: Sequence[Pair], split_of: Mapping[str, str]) -> str:
    """Return the digest of settings, split and files (by size and time) that decide the shards."""
    stats = [path.stat() for pair in pairs for path in (pair.audio, pair.face)]
    files = [[stat.st_size, stat.st_mtime_ns] for stat in stats]
    sides = [[pair.clip_id, split_of[pair.clip_id]] for pair in pairs]
    preparation = config.preparation.model_copy(update={"workers": 0})  # decides no row
    text = json.dumps([preparation.digest(), config.features.digest(), sides, files])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _read_done(out: Path, settings_digest: str) -> PreparationSummary | None:
    """Return what came of a finished run of the same kind whose shards are all whole, else None."""
    try:
        done = json.loads((out / _DONE).read_text(encoding="utf-8"))
        whole = done["asked"] == settings_digest and all(verify_shard(out / name) for name in done["shards"])
        return PreparationSummary(**done["summary"]) if whole else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _row(pair: Pair, split: str, config: StudyConfig) -> PreparedRow:
    settings = config.preparation
    audio, n_samples = read_voice(
        pair.audio, sample_rate_hz=settings.sample_rate_hz, duration_s=settings.audio_s
    )
    pixels = read_image(pair.face)
    face, found = align_image(pixels, size_px=settings.crop_px)
    height, width = pixels.shape[:2]
    return PreparedRow(
        clip_id=pair.clip_id,
        video_id=pair.person,  # what no split and no validation set divides
        split=split,
        start_s=0.0,
        end_s=n_samples / settings.sample_rate_hz,
        x=0.5,
        y=0.5,
        media=pair.audio.name,
        audio=audio,
        n_audio_samples=n_samples,
        crop=encode_jpeg(face, quality=settings.jpeg_quality),
        box=(0.0, 0.0, float(width), float(height)),
        detection_confidence=1.0 if found else 0.0,
        eye_angle_deg=0.0,
        frame_time_s=0.0,
    )
