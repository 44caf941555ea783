"""The stages of preparation, each a pure function of one clip that raises `ClipRefused`.

`clip_work` takes clips through them; the local pipeline and a cluster both use it, so
the same rows come out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from s2f_lib.config import PreparationConfig
from s2f_lib.errors import ClipRefused, RefusalReason
from s2f_lib.faces.alignment import FaceCrop, choose_face
from s2f_lib.faces.detection import Detection
from s2f_lib.faces.extractor import FaceFeatureExtractor
from s2f_lib.media import decode as media
from s2f_lib.media.jpeg import decode_jpeg, encode_jpeg
from s2f_lib.preparation.shards import PreparedRow
from s2f_lib.sources.clip import ClipRef

_CLIP_SLACK_S = 2.0  # a file longer than its clip by more is a whole video: cutting tools add less


@dataclass(frozen=True, slots=True)
class DecodedClip:
    """What is decoded of a clip.

    Attributes
    ----------
    audio
        (n,) int16 mono, as long as the clip has it, at most `audio_s`.
    frames
        (height, width, 3) uint8 RGB each.
    times_s
        Of the frames, seconds of the file.
    """

    audio: np.ndarray
    frames: list[np.ndarray]
    times_s: list[float]


def locate_clip(clip: ClipRef, duration_s: float) -> tuple[float, float]:
    """Return where in its file a clip lies, in seconds.

    A file is the whole video where it lasts until the clip's end, or lasts more than 2 s longer than
    the clip does; then `start_s` and `end_s` are places in it.  Else, and where a file does not say how
    long it is (0), it is the clip alone, from its start.

    Raises
    ------
    ClipRefused
        TRUNCATED: the file ends more than 0.5 s before the clip does.
    """
    if duration_s <= 0:
        return 0.0, clip.duration_s  # reading then finds out where it ends
    whole = duration_s >= clip.end_s or duration_s > clip.duration_s + _CLIP_SLACK_S
    start_s, end_s = (clip.start_s, clip.end_s) if whole else (0.0, clip.duration_s)
    if duration_s < end_s - media.SHORTFALL_S:
        raise ClipRefused(
            RefusalReason.TRUNCATED,
            f"{clip.media.name if clip.media else clip.clip_id} lasts {duration_s:.2f} s, "
            f"expected the clip to end at {end_s:.2f} s",
        )
    return start_s, min(end_s, duration_s)


def decode_clip(clip: ClipRef, config: PreparationConfig) -> DecodedClip:
    """Decode a clip's sound and the frames that the detector looks at.

    Raises
    ------
    ClipRefused
        MEDIA_MISSING, NOT_MEDIA, TRUNCATED, NO_AUDIO, NO_VIDEO, SILENT or TOO_SHORT.
    """
    if clip.media is None:
        raise ClipRefused(RefusalReason.MEDIA_MISSING, f"no media file for {clip.video_id}")
    path = Path(clip.media)
    info = media.probe(path)
    if not info.has_video:
        raise ClipRefused(RefusalReason.NO_VIDEO, f"{path.name} has no video track")
    if not info.has_audio:
        raise ClipRefused(RefusalReason.NO_AUDIO, f"{path.name} has no audio track")
    start_s, end_s = locate_clip(clip, info.duration_s)
    audio = media.read_audio(
        path,
        start_s=start_s,
        end_s=min(end_s, start_s + config.audio_s),
        sample_rate_hz=config.sample_rate_hz,
    )
    if len(audio) < config.min_audio_s * config.sample_rate_hz:
        found_s = len(audio) / config.sample_rate_hz
        raise ClipRefused(
            RefusalReason.TOO_SHORT, f"{found_s:.2f} s of sound; expected at least {config.min_audio_s:g} s"
        )
    times_s = [start_s + share * (end_s - start_s) for share in sorted(config.frame_positions)]
    return DecodedClip(audio, media.read_frames(path, times_s=times_s), times_s)


def find_speaker(
    found: Sequence[Sequence[Detection]], decoded: DecodedClip, clip: ClipRef, config: PreparationConfig
) -> tuple[int, Detection]:
    """Return which frame shows the speaker best, and the face in it.

    Parameters
    ----------
    found
        The faces of each of `decoded.frames`.
    decoded, clip
        The clip.
    config
        Which faces count.

    Raises
    ------
    ClipRefused
        NO_FACE, SEVERAL_FACES or FACE_TOO_SMALL.
    """
    index, detection = choose_face(
        found,
        faces=config.faces,
        x=clip.x,
        y=clip.y,
        frame_sizes=[frame.shape[:2] for frame in decoded.frames],
    )
    if detection.width < config.min_face_px:
        raise ClipRefused(
            RefusalReason.FACE_TOO_SMALL,
            f"the face is {detection.width:.0f} px wide; expected at least {config.min_face_px} px",
        )
    return index, detection


def make_row(
    clip: ClipRef,
    config: PreparationConfig,
    *,
    decoded: DecodedClip,
    index: int,
    detection: Detection,
    crop: FaceCrop,
) -> PreparedRow:
    """Put a row together; the sound is repeated or cut to `audio_s`."""
    n_samples = round(config.audio_s * config.sample_rate_hz)
    return PreparedRow(
        clip_id=clip.clip_id,
        video_id=clip.video_id,
        split=clip.split,
        start_s=clip.start_s,
        end_s=clip.end_s,
        x=clip.x,
        y=clip.y,
        media=Path(clip.media).name,
        audio=media.repeat_to(decoded.audio, n_samples),
        n_audio_samples=min(len(decoded.audio), n_samples),
        crop=encode_jpeg(crop.image),
        box=(detection.left, detection.top, detection.right, detection.bottom),
        detection_confidence=detection.confidence,
        eye_angle_deg=crop.eye_angle_deg,
        frame_time_s=decoded.times_s[index],
    )


def with_features(rows: list[PreparedRow], extractor: FaceFeatureExtractor) -> list[PreparedRow]:
    """Return the rows with features of their *stored* faces.

    So another extractor that is run over the shards later sees the very same pixels.
    """
    faces = np.stack([decode_jpeg(row.crop) for row in rows])
    features = extractor(faces).astype(np.float16)  # (n, dimension)
    return [replace(row, features=vector) for row, vector in zip(rows, features, strict=True)]
