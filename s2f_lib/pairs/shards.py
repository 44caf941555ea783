"""The public pairs as shards, so that every chapter can run on them.

The pairs have no video: the face is read from its published image and aligned like any other crop, and the
voice is read from its file.
"""

from __future__ import annotations

import json
import logging
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from s2f_lib.config import SAMPLE_RATE_HZ, FeatureConfig, PairsConfig, PreparationConfig
from s2f_lib.errors import NAMES_CLIP, ClipRefused, InputError, RefusalReason
from s2f_lib.faces.alignment import CROP_PX
from s2f_lib.faces.extractor import make_extractor
from s2f_lib.media.jpeg import encode_jpeg
from s2f_lib.pairs.data import find_and_split
from s2f_lib.pairs.faces import align_image, read_image, read_voice
from s2f_lib.preparation.clip import with_features
from s2f_lib.preparation.ledger import PreparationSummary
from s2f_lib.preparation.pipeline import settings_of
from s2f_lib.preparation.shards import PreparedRow, shard_name, verify_shard, write_shard
from s2f_lib.sources.public_pairs import Pair
from s2f_lib.storage import digest, write_atomically

logger = logging.getLogger(__name__)

_DONE = "pairs.json"  # written last: the summary and the names of the shards


def prepare_pairs(
    source: PairsConfig,
    *,
    preparation: PreparationConfig,
    features: FeatureConfig,
    out: Path,
    progress: Callable[[int, int], object] | None = None,
) -> PreparationSummary:
    """Write the pairs of the first split as shards, unless an earlier call has written the same ones.

    Parameters
    ----------
    source
        Folder and splits of the pairs. Pairs that the split does not name are left out.
    preparation
        Length of the audio and size of the shards.
    features
        Face feature extractor.
    out
        Folder of the shards. Shards of other settings or of another split in it are replaced.
    progress
        Called with (done, total).

    Returns
    -------
    PreparationSummary
        Counts and times. A pair that lacks a file counts as refused.

    Raises
    ------
    InputError
        No pair can be used.

    Examples
    --------
    >>> settings = {"preparation": PreparationConfig(), "features": FeatureConfig()}
    >>> prepare_pairs(PairsConfig(), **settings, out=Path("pairs"))
    Traceback (most recent call last):
    s2f_lib.errors.ConfigError: source.pairs.root is not set: ...
    """
    found, (split, *_) = find_and_split(source)
    split_of = split.by_clip(found.pairs)
    pairs = [pair for pair in found.pairs if pair.clip_id in split_of]
    stats = [path.stat() for pair in pairs for path in (pair.audio, pair.face)]
    files = [[stat.st_size, stat.st_mtime_ns] for stat in stats]
    settings = [preparation.digest(exclude={"workers"}), features.digest()]
    settings_digest = digest([*settings, split_of, files], length=16)
    finished = _read_done(out, settings_digest)
    if finished is not None:
        return finished
    out.mkdir(parents=True, exist_ok=True)
    for old in (out / _DONE, *out.glob("shard-*")):
        old.unlink(missing_ok=True)
    started = time.perf_counter()
    extractor = make_extractor(features, device="auto")
    provenance = settings_of(preparation, extractor) | {"source": "pairs", "dimension": extractor.dimension}
    reasons: Counter[str] = Counter()
    if found.missing:
        reasons[RefusalReason.MEDIA_MISSING.value] = len(found.missing)
    rows: list[PreparedRow] = []
    for index, pair in enumerate(pairs):
        try:
            rows.append(_prepare_row(pair, split_of[pair.clip_id], audio_s=preparation.audio_s))
        except ClipRefused as refused:
            reasons[refused.reason.value] += 1
            logger.warning("%s is left out: %s", pair.clip_id, refused, extra=NAMES_CLIP)
        if progress:
            progress(index + 1, len(pairs))
    if not rows:
        raise InputError(f"none of {len(found.pairs)} pairs can be used: {dict(reasons)}")
    read_s = time.perf_counter() - started
    size = preparation.clips_per_shard
    names = []
    for number, start in enumerate(range(0, len(rows), size)):
        names.append(shard_name(number))
        shard = with_features(rows[start : start + size], extractor)
        write_shard(out / names[-1], shard, provenance=provenance)
    wall_s = time.perf_counter() - started
    summary = PreparationSummary(
        n_clips=len(pairs) + len(found.missing),
        n_done=len(rows),
        n_refused=sum(reasons.values()),
        by_reason=dict(sorted(reasons.items(), key=lambda item: (-item[1], item[0]))),
        seconds_by_stage={"read and align": read_s, "features and shards": wall_s - read_s},
        n_this_run=len(pairs),
        wall_s=wall_s,
    )
    done = {"asked": settings_digest, "shards": names, "summary": asdict(summary)}
    write_atomically(out / _DONE, json.dumps(done) + "\n")
    return summary


def _read_done(out: Path, settings_digest: str) -> PreparationSummary | None:
    """Return the summary of a finished run of the same settings if all its shards are complete."""
    try:
        done = json.loads((out / _DONE).read_text(encoding="utf-8"))
        complete = done["asked"] == settings_digest and all(
            map(verify_shard, (out / n for n in done["shards"]))
        )
        return PreparationSummary(**done["summary"]) if complete else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _prepare_row(pair: Pair, split: str, *, audio_s: float) -> PreparedRow:
    audio, n_samples = read_voice(pair.audio, duration_s=audio_s)
    pixels = read_image(pair.face)
    face, found = align_image(pixels, size_px=CROP_PX)
    height, width = pixels.shape[:2]
    return PreparedRow(
        clip_id=pair.clip_id,
        video_id=pair.person,  # all clips of a group lie in the same split
        split=split,
        start_s=0.0,
        end_s=n_samples / SAMPLE_RATE_HZ,
        x=0.5,
        y=0.5,
        media=pair.audio.name,
        audio=audio,
        n_audio_samples=n_samples,
        crop=encode_jpeg(face),
        box=(0.0, 0.0, float(width), float(height)),
        detection_confidence=1.0 if found else 0.0,
        eye_angle_deg=0.0,
        frame_time_s=0.0,
    )
